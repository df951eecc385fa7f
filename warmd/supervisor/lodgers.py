"""Who has room in the pools, or will have it, and how soon it can be had from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from warmd.ladder import Phase, Rung
from warmd.planner.making_room import Lodger, room_after
from warmd.policy import Rank
from warmd.policy.estimate import STOP_S
from warmd.supervisor.model import Managed, kept_asleep


class Lodgers:
    """Those of one moment, found where they are asked for."""

    def __init__(self, models: Iterable[Managed], pools: Mapping[str, int]) -> None:
        """`pools`: bytes of VRAM on each of their cards."""
        self._pools = pools
        self._models: dict[str | None, list[Managed]] = {}
        for model in models:
            self._models.setdefault(model.terms.pool, []).append(model)
        self._found: dict[str | None, list[tuple[str, Lodger]]] = {}

    def room_s(
        self, model: Managed, replica: str, cards: frozenset[str], beside: Iterable[Lodger]
    ) -> float:
        """Return the seconds in which its pool has room for a replica, where what rests goes.

        `beside`: those that shall be there with it.
        """
        pool = model.terms.pool
        if pool is None or pool not in self._pools:
            return 0.0
        if pool not in self._found:
            self._found[pool] = [*_lodgers(self._models.get(pool, ()))]
        others = {
            lodger.replica: lodger if name != model.name else _staying(lodger)
            for name, lodger in self._found[pool]
        }
        others |= {lodger.replica: lodger for lodger in beside}
        newcomer = Lodger(replica, model.terms.vram, cards)
        return room_after(self._pools[pool], newcomer, others.values())

    def all_aside_s(self, model: Managed) -> float:
        """Return the seconds in which all others of its pool are put aside, at most."""
        if model.terms.pool not in self._pools:
            return 0.0
        others = (m for m in self._models[model.terms.pool] if m.name != model.name)
        return sum(max(STOP_S, other.aside_s) * len(other.replicas) for other in others)


def _staying(lodger: Lodger) -> Lodger:
    return Lodger(lodger.replica, lodger.vram, lodger.cards)


def _lodgers(models: Iterable[Managed]) -> Iterator[tuple[str, Lodger]]:
    """Yield each with its model's name.

    What rests hot counts wherever it stands: once it has gone it would come back.
    """
    for model in models:
        target, vram, waits = model.target, model.terms.vram, bool(model.waiting)
        rests = target.rank is Rank.RESTS or (
            target.rank is Rank.DEMAND and model.terms.wish.resting is Rung.HOT
        )
        hot = target.replicas if target.rung is Rung.HOT else 0
        for n, replica in enumerate(model.replicas):
            phase, aside = replica.state.phase, model.aside_s
            if n < min(hot, target.least):
                goes = rests and not model.terms.pinned
                lodger = Lodger(replica.name, vram, replica.cards, aside if goes else None)
            elif phase is Phase.ASLEEP:
                kept = kept_asleep(replica.state)
                lodger = Lodger(replica.name, kept, replica.cards, None if waits else STOP_S)
            elif phase.is_up:  # for its model's load alone, or it goes anyway
                lodger = Lodger(replica.name, vram, replica.cards, aside)
            else:
                continue
            yield model.name, lodger
