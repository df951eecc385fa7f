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
    counts: dict[Rung, int] = {}
    gpus: dict[Rung, int] = {}
    for replica in model.replicas:
        rung = model.rung_of(replica)
        counts[rung] = counts.get(rung, 0) + 1
        if replica.state.phase.is_up:
            gpus[rung] = gpus.get(rung, 0) + max(1, len(replica.cards))
    cause = _cause(model.target)
    highest = max(counts)
    for rung, count in counts.items():
        yield Standing(model.name, rung, cause, count, gpus.get(rung, 0), rung is highest)


def _cause(target: Target) -> str:
    """Name what a target rests on; the calendar only where it lifts the model."""
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
    target, demand = model.target, model.demand(now)
    if target.rank is not Rank.CALENDAR or target.rung is not Rung.HOT or not _lifted(target):
        return None
    if demand.waiting or demand.in_flight or demand.idle_s < model.terms.wish.idle_after:
        return None
    return target.otherwise if model.rung_met is Rung.HOT else None
