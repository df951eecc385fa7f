"""The process that holds one set of files: brings them in, keeps them, measures them.

It is forked by the stage keeper: its mapping of the files is what keeps them in RAM, its death lets
go of them. A part of the stage keeper's program: see `program.py`.

In: JSON lines on stdin, `{"urgent": bool, "rate": bytes a second or null}`. The end of stdin ends
it, and so does the keeper's death.
Out: JSON lines, `{"progress": bytes}` at most every 100 ms while bytes come in, `{"resident":
bytes, "total": bytes, "by": way}` after every measurement, and before it gives up with status 1
`{"unproved": sentence}` or `{"error": sentence}`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time

from .filling import TICK_MS, Pass
from .mapping import HeldFile, HoldError, can_populate, libc
from .residency import Measure, UnprovedError

TYPE_CHECKING = False  # `typing` would cost a megabyte in every process
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


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


def hold(request: dict[str, Any]) -> int:
    """Hold until stdin ends; status 1 after a line that says what went wrong."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NAME, b"warmd-held", 0, 0, 0)
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
        pass  # the keeper is gone
    except OSError as error:
        what = error.filename or "the weights"
        say({"error": f"{what}: can't be read ({error.strerror}); let the daemon's user read it"})
    return 1
