"""What an idle time costs the first request after it, against the ones that follow it.

A threshold in one place: slow is a first token that comes so many times as late as is usual, and by
so many seconds, which a person would notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

SLOWER = 1.5
"""So many times the median of the next requests the first one must take,"""

LATER_S = 0.05
"""and so many seconds more than it."""

NEXT = 10
"""So many requests are measured after the first."""

_SOON_S = 120.0
"""Real requests within so long after the first one show what is usual."""

_LEAST = 3


@dataclass(frozen=True)
class FirstDelay:
    """One measurement; seconds from a request to its first token. `idle_s`: how long it was idle.

    `usual_s` is the median of the requests that followed at once.
    """

    idle_s: float
    first_s: float
    usual_s: float

    @property
    def is_slow(self) -> bool:
        """Whether the idle time made a difference."""
        return self.first_s > SLOWER * self.usual_s and self.first_s > self.usual_s + LATER_S


def first_delay(idle_s: float, first_s: float, following: Sequence[float]) -> FirstDelay:
    """Make a measurement of seconds to first tokens."""
    return FirstDelay(idle_s, first_s, median(following))


@dataclass
class Witness:
    """Makes measurements of real requests for one model, which come one after the other."""

    least_idle_s: float
    _idle_s: float = 0.0
    _first_s: float | None = None
    _at: float = 0.0
    _next: list[float] = field(default_factory=list)

    def see(self, idle_s: float, first_byte_s: float | None, now: float) -> FirstDelay | None:
        """Take a request that was answered at `now`; return what it shows with those before.

        `first_byte_s` None: it was not answered.
        """
        if first_byte_s is None:
            return None
        if idle_s >= self.least_idle_s:
            self._idle_s, self._first_s, self._at, self._next = idle_s, first_byte_s, now, []
            return None
        if self._first_s is None:
            return None
        self._next.append(first_byte_s)
        late = now - self._at > _SOON_S
        if len(self._next) < (_LEAST if late else NEXT):
            if late:
                self._first_s = None  # too few to compare with
            return None
        first, self._first_s = self._first_s, None
        return first_delay(self._idle_s, first, self._next)
