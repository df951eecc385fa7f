"""Looks at many things at once, each in a thread of its own: one that hangs stops no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import psutil

from warmd.doctor.finding import Finding, problem, warning

_T = TypeVar("_T")


class Look(Generic[_T]):
    """A look that is under way. Its thread is left behind where it hangs, as in a dead mount."""

    def __init__(self, subject: str, look: Callable[[], _T], within_s: float) -> None:
        """Begin to `look`; it may take `within_s` seconds from now."""
        self._subject = subject
        self._look = look
        self._within_s = within_s
        self._until = time.monotonic() + within_s
        self._facts: list[_T] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=subject, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._facts.append(self._look())
        except Exception as error:  # noqa: BLE001  raised again where it is waited for
            self._error = error

    def facts(self) -> _T | None:
        """Wait, and return what was seen; None where nothing was. Raises only bugs of ours."""
        self._thread.join(max(0.0, self._until - time.monotonic()))
        if self._error is not None and not isinstance(self._error, OSError | psutil.Error):
            raise self._error
        return self._facts[0] if self._facts else None

    def judged(self, judge: Callable[[_T], Iterable[Finding]]) -> list[Finding]:
        """Wait, and judge what was seen, or that nothing was."""
        facts = self.facts()
        if facts is not None:
            return list(judge(facts))
        if self._error is not None:
            what = f"it can't be looked at: {self._error}"
            return [warning(self._subject, what, "run this as root, by sudo")]
        return [
            problem(
                self._subject,
                f"looking at it took more than {self._within_s:g} s: a disk, a network mount or a "
                "driver hangs",
                "journalctl -k | tail, and ps -eo pid,stat,wchan:30,args | grep ' D' show where",
            )
        ]
