"""Bringing files in: one blocking pass over them, by a few threads.

A part of the stage keeper's program: see `program.py`.
"""

from __future__ import annotations

import os
import threading

from .mapping import FileError, HeldFile, Segment, populate, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .pace import Pace

POPULATE_THREADS = 4
READ_THREADS = 8
TICK_MS = 100


class Pass:
    """One blocking pass over all segments, by a few threads with a segment each.

    What fails of one file ends nothing: `failed` has the first error of each.
    """

    def __init__(
        self, files: Iterable[HeldFile], pace: Pace, *, populates: bool, locks: bool
    ) -> None:
        self.done = 0
        self.failed: dict[HeldFile, FileError] = {}
        self._segments = (segment for file in files for segment in file.segments)
        self._pace = pace
        self._populates = populates
        self._locks = locks
        self._left = POPULATE_THREADS if populates else READ_THREADS
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

    def _next(self) -> Segment | None:
        with self._lock:
            return None if self._error is not None else next(self._segments, None)

    def _work(self) -> None:
        try:
            self._pace.wait(0)
            while (segment := self._next()) is not None:
                try:
                    self._bring(segment)
                except FileError as error:
                    self.failed.setdefault(segment.file, error)
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self._error = error
        finally:
            with self._lock:
                self._left -= 1
                if not self._left:
                    os.write(self._over, b".")

    def _bring(self, segment: Segment) -> None:
        # On a network's file system a mapping's reads are small, and one that fails is a SIGBUS.
        populates = self._populates and segment.file.network is None
        if not (populates and populate(segment, self._advance)):
            read(segment, self._advance)
        if self._locks:
            segment.lock()
