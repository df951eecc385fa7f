"""Bringing files in: one blocking pass over them, by a few threads.

A part of the stage keeper's program: see `program.py`.
"""

from __future__ import annotations

import os
import threading

from .mapping import Segment, populate, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
