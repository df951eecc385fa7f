"""How well a calendar was kept. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from warmd.history import KeptOpening
from warmd.policy.estimate import percentile
from warmd.reckoning.account import Lateness, Why, Windows


def kept(openings: Sequence[KeptOpening], now: float) -> Windows | None:
    """Return what became of `openings`, the oldest first, until `now` (Unix seconds)."""
    if not openings:
        return None
    late = sorted(each.late for each in openings if each.late)
    missing = [each for each in openings if each.late is None]
    # One that was raised, or that an operator ended, is awaited no longer though it isn't over.
    awaited = sum(now < each.until for each in missing if each is openings[-1])
    reasons: dict[str, Why] = {}
    for each in openings:
        if each.hindrance is not None:
            had = reasons.get(each.hindrance)
            times = 1 if had is None else had.count + 1
            reasons[each.hindrance] = Why(times, each.at, each.reason or "")
    return Windows(
        opened=len(openings),
        ready=sum(each.late == 0 for each in openings),
        late=Lateness(len(late), percentile(late, 0.5), late[-1]) if late else None,
        never=len(missing) - awaited,
        awaited=awaited,
        reasons=reasons,
    )
