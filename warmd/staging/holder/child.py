"""The process that holds one set of files: brings them in, keeps them, measures them.

It is forked by the stage keeper: its mapping of the files is what keeps them in RAM, its death lets
go of them. A part of the stage keeper's program: see `program.py`.

In: JSON lines on stdin, `{"urgent": bool, "rate": bytes a second or null}`. The end of stdin ends
it, and so does the keeper's death.
Out: JSON lines, `{"progress": bytes}` at most every 100 ms while bytes come in, `{"resident":
bytes, "total": bytes, "by": way}` after every measurement, and before it gives up with status 1
`{"unproved": sentence}` or `{"error": sentence}`; with `"mismatch": path` where a file isn't what
its digest says.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time

from .digests import Check, MismatchError
from .filling import POPULATE_THREADS, READ_THREADS, TICK_MS, Pass, bring_in
from .mapping import HeldFile, HoldError, can_populate, libc
from .residency import Measure, UnprovedError
from .tmpfs_set import COPY_THREADS, copies_in_tmpfs

TYPE_CHECKING = False  # `typing` would cost a megabyte in every process
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .filling import Job

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
ALIVE_S = 5.0  # so often it says that it still works, where nothing is read


class Holder:
    """Brings the files in, holds them, and brings back what was taken."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._sources = [HeldFile(path) for path in request["files"]]
        self.files = self._sources  # or their copies
        self.total = sum(file.size for file in self.files)
        self._request = request
        self._enough = float(request["enough"])
        self._measure = Measure()
        self._populates = can_populate()
        self._said_at = 0.0

    def stage(self) -> None:
        """Bring everything in and say what was measured; raises `HoldError` when it isn't there."""
        if self._request.get("place") == "tmpfs":
            self.files = copies_in_tmpfs(self._request, self._sources, self._copy)
        self._fill(self._progress)
        say({"progress": self.total})
        self._verify(self._request.get("sha256") or {})
        self.keep()

    def keep(self) -> None:
        """Measure; bring back what was evicted; raises `HoldError` where that doesn't help."""
        for file in dict.fromkeys((*self._sources, *self.files)):
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
        threads = POPULATE_THREADS if self._populates else READ_THREADS
        segments = (segment for file in self.files for segment in file.segments)
        jobs = (bring_in(segment, populates=self._populates) for segment in segments)
        self._run(jobs, threads, progress)

    def _copy(self, jobs: Iterable[Job]) -> None:
        self._run(jobs, COPY_THREADS, self._progress)

    def _verify(self, digests: dict[str, str]) -> None:
        """Compare the files with their digests, from RAM; raises `MismatchError`."""
        checks = [
            Check(source.path, held.path, held.size, digests[source.path])
            for source, held in zip(self._sources, self.files, strict=True)
            if source.path in digests
        ]
        alive = time.monotonic()

        def progress(_done: int) -> None:
            nonlocal alive
            if time.monotonic() - alive >= ALIVE_S:
                alive = time.monotonic()
                say({"progress": self.total})

        if checks:
            # The largest first: one file is one thread's work.
            checks.sort(key=lambda check: -check.length)
            self._run((check.run for check in checks), os.cpu_count() or 1, progress)

    def _run(self, jobs: Iterable[Job], threads: int, progress: Callable[[int], None]) -> None:
        work = Pass(jobs, threads)

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
        holder = Holder(request)
        holder.stage()
        while True:
            wait_for_end(int(float(request["interval"]) * 1000))
            holder.keep()
    except UnprovedError as error:
        say({"unproved": str(error)})
    except MismatchError as error:
        say({"error": str(error), "mismatch": error.path})
    except HoldError as error:
        say({"error": str(error)})
    except BrokenPipeError:
        pass  # the keeper is gone
    except OSError as error:
        what = error.filename or "the weights"
        say({"error": f"{what}: can't be read ({error.strerror}); let the daemon's user read it"})
    return 1
