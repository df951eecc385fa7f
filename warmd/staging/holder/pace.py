"""How hard a set is brought in: I/O priority, a rate, a pause while memory is short.

A part of the stage keeper's program: see `program.py`.
"""

from __future__ import annotations

import os
import threading
import time

from .mapping import libc

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_SET = _IOPRIO_SET.get(os.uname().machine)
_THIS_THREAD = 1, 0  # IOPRIO_WHO_PROCESS, ioprio_set(2): who is a thread's id
BEST_EFFORT = 2 << 13 | 4
IDLE = 3 << 13


class Pace:
    """What the threads of one process keep to. They come by between windows of their reads."""

    def __init__(self) -> None:
        self.waiting = 0  # threads that are held back now
        self.paused: str | None = None
        self._urgent = True
        self._rate: int | None = None
        self._free_at = 0.0  # when what was taken so far is paid for at the rate
        self._changed = threading.Condition()
        self._own = threading.local()

    def set(self, *, urgent: bool, rate: int | None) -> None:
        """Take another pace: `rate` is bytes a second, and holds where it isn't urgent."""
        with self._changed:
            self._urgent, self._rate, self._free_at = urgent, rate, 0.0
            self._changed.notify_all()

    def pause(self, why: str | None) -> None:
        """Hold every thread back, or let them go on."""
        with self._changed:
            self.paused = why
            self._changed.notify_all()

    def wait(self, length: int) -> None:
        """Return when the thread that just read `length` bytes may read more."""
        with self._changed:
            due = 0.0
            if self._rate is not None and not self._urgent:
                due = self._free_at = max(self._free_at, time.monotonic()) + length / self._rate
            self.waiting += 1
            while (left := self._left(due)) is not None:
                self._changed.wait(left or None)
            self.waiting -= 1
            wanted = BEST_EFFORT if self._urgent else IDLE
        if getattr(self._own, "priority", None) != wanted:
            if _SET is not None:  # elsewhere it does without: it is a courtesy
                libc.syscall(_SET, *_THIS_THREAD, wanted)
            self._own.priority = wanted

    def _left(self, due: float) -> float | None:
        """Seconds to wait still, 0 until told; None: no more."""
        if self.paused is not None:
            return 0.0
        if self._urgent or self._rate is None:
            return None
        left = due - time.monotonic()
        return left if left > 0 else None
