"""Where the models stand and why, as it is booked by the hour."""

from __future__ import annotations

from collections.abc import Iterable

from warmd.ladder import Rung, Standing
from warmd.policy import Rank, Target
from warmd.supervisor.model import Managed


def standings(models: Iterable[Managed]) -> tuple[Standing, ...]:
    """Say how many replicas of each model stand on which rung, and how many GPUs they use.

    An engine that is up uses the GPUs that it is bound to, also where it starts or sleeps. One on a
    host without GPUs, or whose GPUs can't be told, counts as one.
    """
    return tuple(each for model in models for each in _standings(model))


def _standings(model: Managed) -> Iterable[Standing]:
    counts: dict[tuple[Rung, str], int] = {}
    gpus: dict[tuple[Rung, str], int] = {}
    for index, replica in enumerate(model.replicas):
        key = model.rung_of(replica), _cause(model.target, index)
        counts[key] = counts.get(key, 0) + 1
        if replica.state.phase.is_up:
            gpus[key] = gpus.get(key, 0) + max(1, len(replica.cards))
    highest = max(rung for rung, _ in counts)
    first = next(key for key in counts if key[0] is highest)
    for key, count in counts.items():
        yield Standing(model.name, *key, count, gpus.get(key, 0), key == first)


def _cause(target: Target, index: int) -> str:
    """Name what the target of a replica rests on; the calendar only where it lifts or adds it."""
    if target.least <= index < target.replicas:
        return Rank.DEMAND.word  # for its load, whatever made the model hot
    if target.least - target.added <= index < target.least:
        return Rank.CALENDAR.word
    if target.rank is Rank.CALENDAR and not _lifted(target):
        return Rank.RESTS.word
    return target.rank.word


def _lifted(target: Target) -> bool:
    return target.otherwise is not None and target.otherwise < target.rung


def spared(model: Managed, now: float) -> Rung | None:
    """Return what a request that comes `now` (monotonic) would meet without the calendar.

    None where that is nothing less: the model isn't hot, isn't so for its calendar alone, or has
    been in use within its `idle.after`, so that demand keeps it hot.
    """
    target = model.target
    if target.rank is not Rank.CALENDAR or target.rung is not Rung.HOT or not _lifted(target):
        return None
    demand = model.demand(now)
    if demand.waiting or demand.in_flight or demand.idle_s < model.terms.wish.idle_after:
        return None
    return target.otherwise if model.rung_met is Rung.HOT else None
