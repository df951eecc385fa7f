"""The program that brings files into the page cache and holds them there: one process a model.

Runs alone (`python -I -S process.py NAME`), with the standard library only, so that it stays small
and lives by the rules of its own process: its mapping of the files is what keeps them in RAM, its
death lets go of them. NAME is for `ps` only.

In: one JSON line on stdin, `{"files": [path, ...], "enough": 0.99, "interval": 30.0}`. The end of
stdin (the daemon died or let go) ends the process.
Out: JSON lines, `{"progress": bytes}` at most every 100 ms, `{"resident": bytes, "total": bytes,
"by": way}` after every measurement, and before it gives up with status 1 `{"unproved": sentence}`
or `{"error": sentence}`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time

if __name__ == "__main__":
    # The neighbours below as a package of their own: `warmd.staging` would load the daemon's half.
    __package__ = "holder"
    sys.modules["holder"] = type(sys)("holder")
    sys.modules["holder"].__path__ = [os.path.dirname(__file__)]  # noqa: PTH120 - no pathlib here

from .mapping import HeldFile, HoldError, Segment, can_populate, libc, populate, read
from .residency import Measure, UnprovedError

TYPE_CHECKING = False  # `typing` would cost a megabyte in every process
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

PR_SET_PDEATHSIG = 1
POPULATE_THREADS = 4
READ_THREADS = 8
TICK_MS = 100


class Pass:
    """One blocking pass over all segments, by a few threads with a segment each."""

    def __init__(self, segments: Iterable[Segment], populates: bool) -> None:
        self._segments = iter(segments)
        self._lock = threading.Lock()
        self._populates = populates
        self._left = POPULATE_THREADS if populates else READ_THREADS
        self._wake, self._over = os.pipe()
        self.done = 0
        self.error: Exception | None = None

    def run(self, tick: Callable[[int, int | None], None]) -> None:
        """Return when all is read. `tick(fd, timeout_ms)` waits until `fd` is readable."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._left)]
        for thread in threads:
            thread.start()
        while self._left:
            tick(self._wake, TICK_MS)
        for thread in threads:
            thread.join()
        os.close(self._wake)
        os.close(self._over)
        if self.error is not None:
            raise self.error

    def _advance(self, length: int) -> None:
        with self._lock:
            self.done += length

    def _next(self) -> Segment | None:
        with self._lock:
            return None if self.error is not None else next(self._segments, None)

    def _work(self) -> None:
        try:
            while (segment := self._next()) is not None:
                if not (self._populates and populate(segment, self._advance)):
                    read(segment, self._advance)
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self.error = error
        finally:
            with self._lock:
                self._left -= 1
                if not self._left:
                    os.write(self._over, b".")


class Holder:
    """Brings the files in, holds them, and brings back what was taken."""

    def __init__(self, files: list[HeldFile], enough: float) -> None:
        self.files = files
        self.total = sum(file.size for file in files)
        self._enough = enough
        self._measure = Measure()
        self._populates = can_populate()
        self._said_at = 0.0

    def stage(self) -> None:
        """Bring everything in and say what was measured; raises `HoldError` when it isn't there."""
        self._fill(self._progress)
        say({"progress": self.total})
        self.keep()

    def keep(self) -> None:
        """Measure; bring back what was evicted; raises `HoldError` where that doesn't help."""
        for file in self.files:
            file.check()
        resident = self._measure.resident(self.files)
        if resident < self.total:
            self._fill(lambda _done: None)
            resident = self._measure.resident(self.files)
        say({"resident": resident, "total": self.total, "by": self._measure.by})
        if resident < self._enough * self.total:
            raise HoldError(
                f"only {100 * resident / self.total:.1f} % of the weights stay in RAM, even right "
                "after they were read, and what pushes them out can't be known from here; "
                "look for a memory limit on the daemon's unit and for free memory on the host"
            )

    def _fill(self, progress: Callable[[int], None]) -> None:
        work = Pass((part for file in self.files for part in file.segments), self._populates)

        def tick(fd: int, timeout_ms: int | None) -> None:
            wait_for_end(timeout_ms, fd)
            progress(work.done)

        work.run(tick)

    def _progress(self, done: int) -> None:
        now = time.monotonic()
        if now - self._said_at >= TICK_MS / 1000:
            self._said_at = now
            say({"progress": done})


def say(line: dict[str, object]) -> None:
    """Write one line for the daemon."""
    os.write(1, json.dumps(line).encode() + b"\n")


def wait_for_end(timeout_ms: int | None, other: int | None = None) -> None:
    """Wait for the time or for `other` to be readable; end the process when stdin ends."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    if other is not None:
        poll.register(other, select.POLLIN)
    for fd, _ in poll.poll(timeout_ms):
        if fd == 0 and not os.read(0, 65536):
            os._exit(0)  # threads may be deep in a read: leave without them


def read_request() -> dict[str, Any]:
    """Read the one line that says what to hold."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(0, 65536)
        if not chunk:
            os._exit(0)
        line += chunk
    request: dict[str, Any] = json.loads(line)
    return request


def main() -> int:
    """Hold until stdin ends; status 1 after a line that says what went wrong."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    request = read_request()
    try:
        holder = Holder([HeldFile(path) for path in request["files"]], float(request["enough"]))
        holder.stage()
        while True:
            wait_for_end(int(float(request["interval"]) * 1000))
            holder.keep()
    except UnprovedError as error:
        say({"unproved": str(error)})
    except HoldError as error:
        say({"error": str(error)})
    except BrokenPipeError:
        pass  # the daemon is gone
    except OSError as error:
        what = error.filename or "the weights"
        say({"error": f"{what}: can't be read ({error.strerror}); let the daemon's user read it"})
    return 1


if __name__ == "__main__":
    sys.exit(main())
