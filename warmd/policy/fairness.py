"""When a hot model makes room for another one of its pool that has requests waiting.

Switching costs both sides: so what is hot stays for a while in proportion to that cost, and over
the short gaps between one client's requests. But nobody waits for ever because somebody else is
busy (llama-swap#612): beyond a hard bound the hot one is drained, however busy.
"""

from __future__ import annotations

from dataclasses import dataclass

from warmd.spoken import count, duration


@dataclass(frozen=True)
class Fairness:
    """`stay` counts switch costs; `hold` and `bound` are seconds."""

    stay: float = 3.0
    hold: float = 5.0
    bound: float = 60.0


@dataclass(frozen=True)
class Holder:
    """Who is hot where somebody else wants to be. All in seconds but the requests in flight.

    `switch_cost`: what it costs to put it aside and to bring it back, as measured.
    """

    hot_for: float
    switch_cost: float
    in_flight: int
    idle_s: float


@dataclass(frozen=True)
class Yields:
    """It makes room now, for this reason."""

    reason: str


@dataclass(frozen=True)
class Stays:
    """It stays for now, for this reason, and yields within `at_most` seconds all the same."""

    reason: str
    at_most: float


def judge(holder: Holder, waited: float, fairness: Fairness) -> Yields | Stays:
    """Say whether `holder` makes room for a request that has `waited` (seconds)."""
    if waited >= fairness.bound:
        return Yields(f"a request has waited {duration(waited)} for it to make room")
    at_most = fairness.bound - waited
    if holder.in_flight:
        return Stays(f"it serves {count(holder.in_flight, 'request')}", at_most)
    if holder.idle_s < fairness.hold:
        return Stays("its last request has only just ended", at_most)
    stay = fairness.stay * holder.switch_cost
    if holder.hot_for < stay:
        return Stays(
            f"it has been hot for {duration(holder.hot_for)} and would stay for {duration(stay)}",
            at_most,
        )
    return Yields("it makes room for a model that requests wait for")


def eviction_order(holder: Holder) -> float:
    """Return what speaks for evicting this one first: its idle time against its cost to return."""
    return holder.idle_s / max(holder.switch_cost, 0.1)
