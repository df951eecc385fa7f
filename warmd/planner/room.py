"""Room in a pool: whether an engine fits beside the others of its pool, and who makes room.

Nobody outside the pool is ever put aside for it, and nobody inside it without a request waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from warmd.ladder import Phase
from warmd.planner.actions import SleepEngine, StopEngine
from warmd.planner.facts import ModelFacts, ReplicaFacts, Scene
from warmd.policy import Holder, Stays, Yields, eviction_order, judge
from warmd.spoken import duration, size


@dataclass(frozen=True)
class Full:
    """There is no room, for this reason; `make_room` is what can be done about it now."""

    reason: str
    make_room: SleepEngine | StopEngine | None = None


def no_room(scene: Scene, model: ModelFacts, replica: ReplicaFacts) -> Full | None:
    """Say why `replica` can't be hot in its pool now, and what would help; None where it can."""
    if model.pool is None:
        return None
    left = scene.pools[model.pool] - model.vram
    lacking = {c: n - left for c, n in _taken(scene, model.pool, replica).items() if n > left}
    if not lacking:
        return None
    missing = max(lacking.values())
    # Who stands on other cards only would make room where none is wanted.
    tight = replace(replica, cards=frozenset(lacking) & replica.cards)
    others = list(_holders(scene, model, tight))
    full = f"pool {model.pool} is full: it lacks {size(missing)} for {replica.name}"
    if not model.waiting:
        return Full(f"{full}; room is made there once a request waits for it")
    # One that is enough by itself goes before several that aren't.
    others.sort(key=lambda o: (o[0].vram < missing, -eviction_order(_holder(*o))))
    stays: list[tuple[str, Stays]] = []
    for other, victim in others:
        match _verdict(scene, model, other, victim):
            case Yields(reason):
                why = f"put aside for {model.name}: {reason}"
                aside = f"{full}; {victim.name} is put aside for it"
                return Full(aside, put_aside(scene, victim, why))
            case Stays() as verdict:
                stays.append((victim.name, verdict))
    sleeper = max(_sleepers(scene, model, tight), key=lambda r: r.kept, default=None)
    if sleeper is not None and (sleeper.kept >= missing or not stays):
        why = f"stopped for {model.name}: asleep it keeps {size(sleeper.kept)} of the pool"
        return Full(f"{full}; {sleeper.name} is stopped for it", StopEngine(sleeper.name, why))
    if stays:
        name, verdict = min(stays, key=lambda each: each[1].at_most)
        within = duration(verdict.at_most)
        return Full(f"{full}; {name} is hot there: {verdict.reason}, {within} more at most")
    return Full(full)


def put_aside(scene: Scene, replica: ReplicaFacts, reason: str) -> SleepEngine | StopEngine:
    """Return the warmest way to put a hot replica aside."""
    if not replica.sleeps or replica.worn is not None:
        return StopEngine(replica.name, reason)
    refusal = scene.ram.refuses_sleep(replica.pins)
    if refusal is not None:
        return StopEngine(replica.name, f"{reason}, but {refusal}", sleepless=True)
    return SleepEngine(replica.name, reason)


def _taken(scene: Scene, pool: str, newcomer: ReplicaFacts) -> dict[str, int]:
    """Return the bytes of `pool` that others take on each of the newcomer's cards."""
    on: dict[str, int] = dict.fromkeys(newcomer.cards or {""}, 0)
    for model in scene.by_pool[pool]:
        for replica in model.replicas:
            if replica.name == newcomer.name or not replica.phase.is_up:
                continue
            takes = replica.kept if replica.phase is Phase.ASLEEP else model.vram
            for card in on if not (replica.cards and newcomer.cards) else replica.cards & on.keys():
                on[card] += takes
    return on


def _holders(
    scene: Scene, model: ModelFacts, newcomer: ReplicaFacts
) -> Iterator[tuple[ModelFacts, ReplicaFacts]]:
    for other in scene.by_pool[model.pool or ""]:
        if other.name != model.name and not other.pinned:
            for replica in other.replicas:
                if replica.phase is Phase.READY and replica.meets(newcomer):
                    yield other, replica


def _sleepers(scene: Scene, model: ModelFacts, newcomer: ReplicaFacts) -> Iterator[ReplicaFacts]:
    for other in scene.by_pool[model.pool or ""]:
        if other.name != model.name and not other.waiting:
            for replica in other.replicas:
                if replica.phase is Phase.ASLEEP and replica.kept > 0 and replica.meets(newcomer):
                    yield replica


def _verdict(
    scene: Scene, model: ModelFacts, other: ModelFacts, victim: ReplicaFacts
) -> Yields | Stays:
    if other.waiting and other.oldest_wait >= model.oldest_wait:
        # It has come up this moment, and who waits for it takes their places in the next one.
        return Stays("it is about to serve who has waited longer", 0.0)
    return judge(_holder(other, victim), model.oldest_wait, scene.fairness)


def _holder(model: ModelFacts, replica: ReplicaFacts) -> Holder:
    return Holder(replica.hot_for, model.switch_cost, replica.in_flight, model.idle_s)
