"""Room in a pool: whether an engine fits beside the others of its pool, and who makes room.

Nobody outside the pool is ever put aside for it. Inside it a waiting request moves who is there by
fairness; a calendar, and what an operator sets hot, move without one only what rests there; and
replicas that are there for their model's load alone go first, and put nobody aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from warmd.ladder import Phase, Rung
from warmd.planner.actions import SleepEngine, StopEngine
from warmd.planner.facts import ModelFacts, ReplicaFacts, Scene
from warmd.planner.vram import quarantine
from warmd.policy import Holder, Rank, Stays, Yields, eviction_order, judge
from warmd.spoken import count, duration, size

_Engine = tuple[ModelFacts, ReplicaFacts]

_TO_COME = (Phase.DOWN, Phase.BACKING_OFF, Phase.ASLEEP)
_ON_THE_WAY_OUT = (Phase.DRAINING, Phase.FALLING_ASLEEP, Phase.STOPPING)

_NAMED = 3
"""So many of those who hold a pool are named."""


@dataclass(frozen=True)
class Full:
    """There is no room, for this reason; `make_room` is what can be done about it now."""

    reason: str
    make_room: SleepEngine | StopEngine | None = None


@dataclass(frozen=True)
class Room:
    """Who finds room in the pools as they will be, by replica.

    `aside`: how it is put aside since its pool has become smaller; `left_out`: why it can't rise.
    """

    aside: Mapping[str, SleepEngine | StopEngine] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def no_room(scene: Scene, model: ModelFacts, replica: ReplicaFacts) -> Full | None:
    """Say why `replica` can't be hot in its pool now, and what would help; None where it can."""
    if model.unsized is not None:
        return Full(model.unsized)
    if model.pool is None:
        return None
    left = scene.pools[model.pool] - model.vram
    there = [*_up(scene, model.pool, replica)]
    # For load alone it would else take what is made free for another one, and be put aside again.
    coming = [*_coming(scene, model.pool, replica)] if replica in model.extra else []
    taken = _taken([*there, *coming], replica)
    lacking = {c: n - left for c, n in taken.items() if n > left}
    if not lacking:
        return None
    missing = max(lacking.values())
    # Who stands on other cards only would make room where none is wanted.
    cards = replica.cards & lacking.keys()
    tight = replica if cards == replica.cards else replace(replica, cards=cards)
    others = list(_holders(scene, model, tight))
    full = f"pool {model.pool} is full: it lacks {size(missing)} for {replica.name}"
    if replica in model.extra:
        who = [_said_of(there, model, tight), *(f"{r.name} shall rise there" for _, r in coming)]
        said = ", ".join(each for each in who if each)
        return Full(f"{full}; {said}, and a replica that is for load alone puts nobody aside")
    stays_put = [(m, r) for m, r in there if _stays_put(m, r, model)]
    if any(n > left for n in _taken(stays_put, tight).values()):
        # To put anybody else aside would help nobody.
        return Full(f"{full}; {_said_of(stays_put, model, tight)}")
    if model.refused:
        return Full(f"{full}; its requests are refused, and so nobody makes room for it")
    first = [(m, r) for m, r in others if m.is_for_load(r) and not (model.waiting and r.in_flight)]
    freed = _taken(first, tight)
    if first and all(taken[card] - freed[card] <= left for card in lacking):
        victim = first[-1][1]
        why = f"put aside for {model.name}: it was for its own model's load alone"
        aside = f"{full}; {victim.name} is put aside for it"
        return Full(aside, put_aside(scene, victim, why))
    # One that is enough by itself goes before several that aren't.
    others.sort(key=lambda o: (o[0].vram < missing, -eviction_order(_holder(scene, *o))))
    if not model.waiting:
        resting = _resting(scene, model, replica, tight, others)
        freed = _taken(resting, tight)
        if resting and all(taken[card] - freed[card] <= left for card in lacking):
            return _moved_for_a_wish(scene, model, resting[0], full)
        if not model.is_wished(replica):
            return Full(f"{full}; room is made there once a request waits for it")
        failed = ""
        if replica.failures:
            failed = (
                f"; {replica.name} failed to start, and puts nobody aside before it has come up"
            )
        return Full(f"{full}; {_said_of(there, model, tight, why_not=True)}{failed}")
    stays: list[tuple[str, Stays]] = []
    for other, victim in others:
        match _verdict(scene, model, other, victim):
            case Yields(reason):
                why = f"put aside for {model.name}: {reason}"
                aside = f"{full}; {victim.name} is put aside for it"
                return Full(aside, put_aside(scene, victim, why))
            case Stays() as verdict:
                stays.append((victim.name, verdict))
    sleepers = [(_takes(*each), each[1].name) for each in _sleepers(scene, model, tight)]
    keeps, sleeper = max(sleepers, key=lambda each: each[0], default=(0, ""))
    if keeps and (keeps >= missing or not stays):
        why = f"stopped for {model.name}: asleep it keeps {size(keeps)} of the pool"
        return Full(f"{full}; {sleeper} is stopped for it", StopEngine(sleeper, why))
    if stays:
        name, verdict = min(stays, key=lambda each: each[1].at_most)
        within = duration(verdict.at_most)
        return Full(f"{full}; {name} is hot there: {verdict.reason}, but for {within} more at most")
    return Full(f"{full}; {_said_of(there, model, tight)}")


def beyond(scene: Scene) -> Iterator[SleepEngine | StopEngine]:
    """Put aside what a pool has no room for since a new config made it smaller.

    Else that would keep for ever who has the room now: another pool, and nobody is evicted across.
    """
    for pool, vram in scene.pools.items():
        engines = [(m, r) for m in scene.by_pool[pool] for r in m.replicas if r.phase.is_up]
        awake = [(m, r) for m, r in engines if r.phase is not Phase.ASLEEP]
        if sum(m.vram for m, _ in awake) <= vram:
            continue
        if any(r.stale for _, r in awake):
            continue  # what it takes is another figure than what it shall take
        for card in sorted({card for _, r in awake for card in r.cards or {""}}):
            here = [(m, r) for m, r in awake if not r.cards or card in r.cards]
            over = sum(m.vram for m, _ in here) - vram
            movable = [(m, r) for m, r in here if r.phase is Phase.READY and not m.keeps(r)]
            if over > 0 and movable:
                movable.sort(
                    key=lambda o: (
                        *(not o[0].is_for_load(o[1]), o[0].vram < over),
                        -eviction_order(_holder(scene, *o)),
                    )
                )
                why = f"pool {pool} has become smaller, and lacks {size(over)} for all that is hot"
                yield put_aside(scene, movable[0][1], why)
                break


def room_ahead(scene: Scene) -> Room:
    """Say who is put aside for a smaller pool, and then who finds no room once all have risen.

    Nor is there any on a GPU that is out of service.

    The engines that shall go count as gone, and those that shall sleep as asleep.
    """
    scene = replace(scene, models=[_settled(model) for model in scene.models])
    aside: dict[str, SleepEngine | StopEngine] = {}
    while (action := next(beyond(scene), None)) is not None:
        aside[action.replica] = action
        scene = _without(scene, action)
    return Room(aside, _left_out(scene))


def _without(scene: Scene, action: SleepEngine | StopEngine) -> Scene:
    """Return the scene as it is once a replica has been put aside."""
    slept = isinstance(action, SleepEngine)
    phase = Phase.ASLEEP if slept else Phase.DOWN
    models, pins = [], 0
    for model in scene.models:
        pins += sum(r.pins for r in model.replicas if slept and r.name == action.replica)
        replicas = [
            replace(r, phase=phase) if r.name == action.replica else r for r in model.replicas
        ]
        models.append(replace(model, replicas=replicas))
    ram = scene.ram
    ram = replace(ram, pinned=ram.pinned + pins, available=ram.available - pins)
    return replace(scene, models=models, ram=ram)


def _left_out(scene: Scene) -> dict[str, str]:
    settled = {model.name: model for model in scene.models}
    reasons: dict[str, str] = {}
    for name in sorted(settled, key=lambda name: -settled[name].oldest_wait):
        for n in range(len(settled[name].wanted)):
            model = settled[name]
            replica = model.replicas[n]
            if replica.phase is model.target_phase or replica.phase.holds_the_device:
                continue
            sick = quarantine(scene, replica.cards)
            if sick is not None:
                reasons[replica.name] = sick
                continue
            full = no_room(replace(scene, models=tuple(settled.values())), model, replica)
            if full is not None and full.make_room is None:
                reasons[replica.name] = full.reason
                continue
            risen = replace(replica, phase=model.target_phase)
            settled[name] = replace(
                model, replicas=[*model.replicas[:n], risen, *model.replicas[n + 1 :]]
            )
    return reasons


def _settled(model: ModelFacts) -> ModelFacts:
    """Return the model as it is once what shall go has gone, and what shall sleep sleeps."""
    asleep = [*model.spare, *(model.wanted if model.target.rung is Rung.ASLEEP else ())]
    gone = model.surplus
    replicas = [
        replace(r, phase=Phase.DOWN)
        if r in gone
        else replace(r, phase=Phase.ASLEEP if r in asleep and r.phase is Phase.READY else r.phase)
        for r in model.replicas
    ]
    return replace(model, replicas=replicas)


def put_aside(scene: Scene, replica: ReplicaFacts, reason: str) -> SleepEngine | StopEngine:
    """Return the warmest way to put a hot replica aside."""
    if not replica.sleeps or replica.worn is not None:
        return StopEngine(replica.name, reason)
    refusal = scene.ram.refuses_sleep(replica.pins)
    if refusal is not None:
        return StopEngine(replica.name, f"{reason}, but {refusal}", sleepless=True)
    return SleepEngine(replica.name, reason)


def _up(scene: Scene, pool: str, newcomer: ReplicaFacts) -> Iterator[_Engine]:
    """Yield the other engines of `pool`."""
    for model in scene.by_pool[pool]:
        for replica in model.replicas:
            if replica.name != newcomer.name and replica.phase.is_up:
                yield model, replica


def _coming(scene: Scene, pool: str, newcomer: ReplicaFacts) -> Iterator[_Engine]:
    """Yield what shall be hot in `pool` whatever any load, and isn't up yet."""
    for model in scene.by_pool[pool]:
        if model.target.rung is Rung.HOT:
            for replica in model.firm:
                if replica.name != newcomer.name and replica.phase in _TO_COME:
                    yield model, replace(replica, phase=Phase.STARTING)


def _takes(model: ModelFacts, replica: ReplicaFacts) -> int:
    sleeps = replica.phase is Phase.ASLEEP and not replica.rehearses
    return replica.kept if sleeps else model.vram


def _taken(engines: Iterable[_Engine], newcomer: ReplicaFacts) -> dict[str, int]:
    """Return the bytes that `engines` take on each of the newcomer's cards."""
    on: dict[str, int] = dict.fromkeys(newcomer.cards or {""}, 0)
    for model, replica in engines:
        for card in on if not (replica.cards and newcomer.cards) else replica.cards & on.keys():
            on[card] += _takes(model, replica)
    return on


def _stays_put(other: ModelFacts, replica: ReplicaFacts, model: ModelFacts) -> bool:
    """Whether nobody's wait moves `replica`, and nothing else is about to."""
    sleeps = replica.phase is Phase.ASLEEP and not replica.rehearses
    if sleeps or replica.phase in _ON_THE_WAY_OUT:
        return False
    return other.name == model.name or (other.keeps(replica) and other.target.rung is Rung.HOT)


def _said_of(
    engines: Iterable[_Engine], model: ModelFacts, newcomer: ReplicaFacts, *, why_not: bool = False
) -> str:
    """Name who holds the room that is lacking, the largest first, and why it stays.

    `why_not`: say of each also what keeps it from resting, and for how long where that is known.
    """
    here = [each for each in engines if _takes(*each) and each[1].meets(newcomer)]
    # Who would go tells less than who stays.
    here.sort(key=lambda each: (why_not and each[0].only_rests(each[1]), -_takes(*each)))
    said = []
    for other, replica in here[:_NAMED]:
        why = _why_in_use(other, replica) if why_not and other.name != model.name else ""
        said.append(_why_it_stays(other, replica, model) + (f": {why}" if why else ""))
    return ", ".join(said)


def _why_in_use(other: ModelFacts, replica: ReplicaFacts) -> str:
    """Say why `replica` makes room for nobody's wish; nothing where it is said elsewhere."""
    asleep = replica.phase is Phase.ASLEEP
    if other.keeps(replica) or replica.phase in _ON_THE_WAY_OUT or (asleep and other.waiting):
        return ""
    for_s = None if other.stays_for is None else duration(other.stays_for)
    if replica.in_flight:
        return f"it serves {count(replica.in_flight, 'request')}"
    if other.waiting:
        return "requests wait for it"
    match other.target.rank:
        case Rank.OPERATOR:
            return "an operator set it" + (f", for {for_s} more" if for_s else "")
        case Rank.DEMAND:
            rests = f", and only rests there in {for_s} unless it is asked again" if for_s else ""
            return f"it was asked for lately{rests}"
        case Rank.CALENDAR:
            return "its own calendar wants it" + (f" for {for_s} more" if for_s else "")
        case Rank.RESTS if replica.phase not in (Phase.READY, Phase.ASLEEP):
            return "it only rests there, and goes once it has come up"
        case Rank.RESTS:
            return "it only rests there"


def _why_it_stays(other: ModelFacts, replica: ReplicaFacts, model: ModelFacts) -> str:
    name, phase = replica.name, replica.phase
    doing = "hot" if phase is Phase.READY else phase.words
    if phase is Phase.ADOPTING:
        doing = "being taken over"
    if other.name == model.name:
        return f"{name} of the same model is {doing} there"
    if other.keeps(replica) and (phase is not Phase.ASLEEP or replica.rehearses):
        return f"{name} is {doing} there and pinned, it makes room for nobody"
    if phase is Phase.ASLEEP and other.waiting:
        return f"{name} is {doing} there and requests wait for it"
    return f"{name} is {doing} there"


def _holders(scene: Scene, model: ModelFacts, newcomer: ReplicaFacts) -> Iterator[_Engine]:
    for other in scene.by_pool[model.pool or ""]:
        if other.name != model.name:
            for replica in (r for r in other.replicas if not other.keeps(r)):
                if replica.phase is Phase.READY and replica.meets(newcomer):
                    yield other, replica


def _sleepers(scene: Scene, model: ModelFacts, newcomer: ReplicaFacts) -> Iterator[_Engine]:
    for other in scene.by_pool[model.pool or ""]:
        if other.name != model.name and not other.waiting:
            for replica in other.replicas:
                stays = other.pinned and replica.rehearses
                sleeps = replica.phase is Phase.ASLEEP and _takes(other, replica) > 0
                if sleeps and not stays and replica.meets(newcomer):
                    yield other, replica


def _resting(
    scene: Scene,
    model: ModelFacts,
    replica: ReplicaFacts,
    tight: ReplicaFacts,
    others: Iterable[_Engine],
) -> list[_Engine]:
    """Return what makes room for what is wished of `model`: those who are hot first.

    One that failed to start moves nobody: else it would do so again at each try.
    """
    if replica.failures or not model.is_wished(replica):
        return []
    hot = sorted(others, key=lambda each: not each[0].is_for_load(each[1]))
    there = [*hot, *_sleepers(scene, model, tight)]
    return [(m, r) for m, r in there if m.only_rests(r) or (m.is_for_load(r) and not r.in_flight)]


def _moved_for_a_wish(scene: Scene, model: ModelFacts, engine: _Engine, full: str) -> Full:
    name, kept = engine[1].name, _takes(*engine)
    who = "its calendar wants"
    if model.target.rank is Rank.OPERATOR:
        who = "an operator set hot"
    if engine[1].phase is Phase.ASLEEP:
        why = f"stopped for {model.name}, which {who}: asleep it keeps {size(kept)}"
        return Full(f"{full}; {name} is stopped for it", StopEngine(name, f"{why} of the pool"))
    why = f"put aside for {model.name}, which {who}: it only rests there"
    return Full(f"{full}; {name} is put aside for it", put_aside(scene, engine[1], why))


def _verdict(
    scene: Scene, model: ModelFacts, other: ModelFacts, victim: ReplicaFacts
) -> Yields | Stays:
    if other.waiting and other.oldest_wait >= model.oldest_wait:
        # It has come up this moment, and who waits for it takes their places in the next one.
        return Stays("it is about to serve who has waited longer", 0.0)
    return judge(_holder(scene, other, victim), model.oldest_wait, scene.fairness)


def _holder(scene: Scene, model: ModelFacts, replica: ReplicaFacts) -> Holder:
    hot_for = replica.hot_for(scene.now)
    return Holder(hot_for, model.switch_cost, replica.in_flight, model.idle_s)
