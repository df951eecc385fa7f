"""Work on files: one blocking pass over it, by a few threads.

A part of the stage keeper's program: see `program.py`.
"""

from __future__ import annotations

import os
import threading

from .mapping import FileError, populate, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    from .mapping import HeldFile, Segment
    from .pace import Pace

    Advance = Callable[[int], None]  # hears of bytes that are done, and may take its time

    class Job(Protocol):
        """What one thread does of a file without a break."""

        file: HeldFile

        def run(self, advance: Advance) -> None:
            """Do it; raises `FileError` where only this file can't be brought in."""


POPULATE_THREADS = 4
READ_THREADS = 8
TICK_MS = 100


class Pass:
    """One blocking pass over all jobs, by a few threads with one each.

    What fails of one file ends nothing: `failed` has the first error of each.
    """

    def __init__(self, jobs: Iterable[Job], pace: Pace, threads: int) -> None:
        self.done = 0
        self.failed: dict[HeldFile, FileError] = {}
        self._jobs = iter(jobs)
        self._pace = pace
        self._left = threads
        self._lock = threading.Lock()
        self._wake, self._over = os.pipe()
        self._error: Exception | None = None

    def run(self, tick: Callable[[int, int], None]) -> None:
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
        if self._error is not None:
            raise self._error

    def _advance(self, length: int) -> None:
        with self._lock:
            self.done += length
        self._pace.wait(length)

    def _next(self) -> Job | None:
        with self._lock:
            return None if self._error is not None else next(self._jobs, None)

    def _work(self) -> None:
        try:
            self._pace.wait(0)
            while (job := self._next()) is not None:
                try:
                    job.run(self._advance)
                except FileError as error:
                    self.failed.setdefault(job.file, error)
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self._error = error
        finally:
            with self._lock:
                self._left -= 1
                if not self._left:
                    os.write(self._over, b".")


class BringIn:
    """Brings a segment into the page cache."""

    def __init__(self, segment: Segment, *, populates: bool, locks: bool) -> None:
        self.file = segment.file
        self._segment = segment
        # On a network's file system a mapping's reads are small, and one that fails is a SIGBUS.
        self._populates = populates and segment.file.network is None
        self._locks = locks

    def run(self, advance: Advance) -> None:
        """Bring it in; raises as `populate` does."""
        if not (self._populates and populate(self._segment, advance)):
            read(self._segment, advance)
        if self._locks:
            self._segment.lock()
