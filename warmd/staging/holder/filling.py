"""Work on files by a few threads: one blocking pass over them.

A part of the stage keeper's program: see `program.py`.
"""

from __future__ import annotations

import os
import threading

from .mapping import populate, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .mapping import Segment

    Advance = Callable[[int], None]  # hears of bytes that are done
    Job = Callable[[Advance], None]  # the work of one thread without a break

POPULATE_THREADS = 4
READ_THREADS = 8
TICK_MS = 100


class Pass:
    """One blocking pass over all jobs, by a few threads with one each."""

    def __init__(self, jobs: Iterable[Job], threads: int) -> None:
        self._jobs = iter(jobs)
        self._lock = threading.Lock()
        self._left = threads
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

    def _next(self) -> Job | None:
        with self._lock:
            return None if self.error is not None else next(self._jobs, None)

    def _work(self) -> None:
        try:
            while (job := self._next()) is not None:
                job(self._advance)
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self.error = error
        finally:
            with self._lock:
                self._left -= 1
                if not self._left:
                    os.write(self._over, b".")


def bring_in(segment: Segment, *, populates: bool) -> Job:
    """Return the job that brings a segment into the page cache."""

    def job(advance: Advance) -> None:
        if not (populates and populate(segment, advance)):
            read(segment, advance)

    return job
