"""When a quiet engine is asked something, only so that it stays quick.

Pure. Users always go first: what serves anybody is not asked, and what has just answered anybody
need not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from warmd.policy.first_delay import FirstDelay
from warmd.spoken import duration

AUTO_IDLES = (900.0, 1800.0, 3600.0)
"""After so long without a request `auto` measures whether the first one is slow; seconds."""

SHORTEST_S = 600.0
"""How often an engine is asked that is slow after the shortest of them already."""

RETRY_S = 60.0
"""A warm-up of a cron entry that failed is tried again after so long."""


class Synthetic(StrEnum):
    """A request of warmd's own."""

    KEEPALIVE = "keepalive"
    WARMUP = "warmup"

    @property
    def words(self) -> str:
        """The kind for people."""
        return {"keepalive": "keep-alive", "warmup": "warm-up"}[self.value]


@dataclass(frozen=True)
class Quiet:
    """One ready engine. `answered_s`: since its last right answer, whoever asked; `tried_s`: since
    warmd's own last request began. `busy`: it serves somebody, or somebody waits for its model.
    """

    answered_s: float
    tried_s: float
    busy: bool


def due(quiet: Quiet, every: float | None, fired_s: float | None) -> Synthetic | None:
    """Say what an engine is to be asked now, None: nothing.

    `every`: how often it is kept warm, None never; `fired_s`: seconds since a cron entry last fired
    that warms it up, None where there is none.
    """
    if quiet.busy:
        return None
    if fired_s is not None and quiet.answered_s > fired_s:
        # The firing holds until something was answered, however late anybody looks.
        if quiet.tried_s > fired_s or quiet.tried_s >= RETRY_S:
            return Synthetic.WARMUP
        return None
    if every is not None and min(quiet.answered_s, quiet.tried_s) >= every:
        return Synthetic.KEEPALIVE
    return None


@dataclass(frozen=True)
class Choice:
    """How often `auto` keeps an engine warm; None: not at all.

    `measures`: after so many idle seconds it measures next; None: it knows enough.
    """

    every: float | None
    measures: float | None
    why: str


def choose(known: Sequence[FirstDelay], idles: Sequence[float] = AUTO_IDLES) -> Choice:
    """Choose by measurements, of which the last one for each of `idles` counts.

    The longest idle time after which the first request was still quick is the interval. Without
    `idles` there is nothing to choose: other requests leave no quiet that is long enough.
    """
    if not idles:
        least = duration(AUTO_IDLES[0])
        return Choice(None, None, f"nothing more: its planned warm-ups leave no quiet of {least}")
    by: dict[float, FirstDelay] = {}
    for each in known:
        below = [idle for idle in idles if idle <= each.idle_s]
        if below:
            by[below[-1]] = each
    longest = by.get(idles[-1])
    if longest is not None and not longest.is_slow:
        return Choice(None, None, f"dropped, it makes no difference: {_said(longest)}")
    for n, idle in enumerate(idles):
        found = by.get(idle)
        if found is None:
            after = duration(idle)
            return Choice(None, idle, f"measures the first request after {after} without one")
        if found.is_slow:
            every = idles[n - 1] if n else min(SHORTEST_S, idle * 2 / 3)
            return Choice(every, None, f"every {duration(every)}: {_said(found)}")
    raise AssertionError("the longest idle time is one of them")


def _said(found: FirstDelay) -> str:
    first, usual = f"{found.first_s * 1000:.0f} ms", f"{found.usual_s * 1000:.0f} ms"
    return (
        f"after {duration(found.idle_s)} without a request the first token came in {first}, and "
        f"{usual} is usual"
    )
