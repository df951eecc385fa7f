"""The device lanes: one operation at a time on each GPU.

Engines measure the device's memory while they start and while they fall asleep, and mis-measure
or crash beside a neighbour that moves (vllm#55827, #56830, #36753). So start, drain, sleep, wake
and stop wait for each other on a card; calling off a start is part of that same operation. An
engine whose cards aren't told may use any of them, and waits for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from warmd.ladder import Phase, Rung
from warmd.planner.actions import (
    Action,
    Operation,
    SleepEngine,
    StartEngine,
    StopEngine,
    WakeEngine,
)
from warmd.planner.facts import ModelFacts, ReplicaFacts, Scene
from warmd.planner.room import beyond, no_room, put_aside
from warmd.planner.vram import (
    bars,
    in_the_way,
    lacks_look,
    moves,
    quarantine,
    refuses,
    turns_back,
)
from warmd.spoken import duration

STALE = "its settings have changed"
_Rising = tuple[ModelFacts, ReplicaFacts, Operation]
_BROKEN = (Phase.BACKING_OFF, Phase.FAILED)
_STEADY = (Phase.READY, Phase.ASLEEP)
_FALLING_ASLEEP = (Phase.DRAINING, Phase.FALLING_ASLEEP)


def device_lanes(scene: Scene, held_up: dict[str, str]) -> Iterator[Action]:
    """Yield the call-offs and what can begin beside each other; note in `held_up` what can't."""
    yield from _call_offs(scene)
    for model in scene.models:
        _explain_failures(model, scene.now, held_up)
    _explain_busy(scene, held_up)
    replicas = {r.name: r for m in scene.models for r in m.replicas}
    taken = [r for r in replicas.values() if r.phase.holds_the_device]
    # The next one is asked when what this one takes of the RAM is known.
    pins = any(r.pins and r.phase in _FALLING_ASLEEP for r in taken)
    # Nobody goes before it in the moment until its card has been looked at.
    due = list(_due(scene))
    taken += [r for m, r, _ in due if lacks_look(scene, m, r)]
    for operation in _operations(scene, due, held_up):
        replica = replicas[operation.replica]
        if any(replica.meets(other) for other in taken):
            continue
        if isinstance(operation, SleepEngine) and replica.pins:
            if pins:
                continue
            pins = True
        taken.append(replica)
        yield operation


def _operations(
    scene: Scene, due: Iterable[_Rising], held_up: dict[str, str]
) -> Iterator[Operation]:
    """Yield, the most urgent first, what could begin now if it were the only one."""
    # Who has waited longest goes first; then by what a target rests on; then who shall answer
    # before who shall sleep; then what was to begin earlier for its calendar; then as configured.
    asking = sorted((m for m in scene.models if m.waiting), key=lambda m: -m.oldest_wait)
    others = sorted(
        (m for m in scene.models if not m.waiting),
        key=lambda m: (m.target.rank, m.target.rung is Rung.ASLEEP, m.begin_at),
    )
    # What is started only to be put to sleep can wait; who asks may be in a short back-off.
    others = [m for m in others if m.target.rung is not Rung.ASLEEP or not _in_the_way(m, asking)]
    for model in (m for m in scene.models if m.target.rung is Rung.ASLEEP):
        _explain_sleepless(scene, model, held_up)
    yield from _heat(scene, due, held_up)
    # What has failed would only keep the others waiting for its next failure. But nobody waits
    # beyond the bound for that: who is hot makes room for it then, and must not come back first.
    bound = scene.fairness.bound
    asked = sorted(
        _rising(scene, asking),
        key=lambda each: each[1].failures > 0 and each[0].oldest_wait < bound,
    )
    yield from _heat(scene, asked, held_up)
    yield from _cool(scene)
    yield from beyond(scene)
    yield from _heat(scene, _rising(scene, others), held_up)
    yield from _heat(scene, _rising_for_load(scene), held_up)
    yield from _make_one_anew(scene, held_up)
    yield from _recycle(scene)
    yield from _rehearse(scene)


def _explain_busy(scene: Scene, held_up: dict[str, str]) -> None:
    busy = [r for m in scene.models for r in m.replicas if r.phase.holds_the_device]
    for model in scene.models:
        if any(r.phase.is_coming_up for r in model.replicas):
            continue
        if not any(r.meets(other) for r in model.replicas for other in busy):
            continue
        for replica, _ in _risings(scene, model):
            for other in (b for b in busy if replica.meets(b)):
                held_up[model.name] = _busy(other)
        for replica, verb in _coolings(model):
            for other in (b for b in busy if replica.meets(b)):
                held_up.setdefault(model.name, f"its {verb} waits: {_busy(other)}")


def _busy(other: ReplicaFacts) -> str:
    return f"{other.name} is {other.phase.words} on the same device"


def _coolings(model: ModelFacts) -> Iterator[tuple[ReplicaFacts, str]]:
    """Yield what is to be taken down a rung, with what is to be done to it."""
    for replica in model.surplus:
        if replica.phase in _STEADY and not model.drains(replica):
            yield replica, "stop"
    for replica in (r for r in model.spare if not model.drains(r)):
        if replica.phase is Phase.READY or (replica.phase is Phase.ASLEEP and replica.stale):
            yield replica, "sleep" if _may_sleep(replica) and not replica.stale else "stop"
    if model.target.rung is Rung.ASLEEP:
        for replica in model.wanted:
            if replica.phase is Phase.READY:
                yield replica, "sleep" if _may_sleep(replica) else "stop"


def _may_sleep(replica: ReplicaFacts) -> bool:
    return replica.sleeps and replica.worn is None


def _call_offs(scene: Scene) -> Iterator[Action]:
    coming = [m for m in scene.models if any(r.phase.is_coming_up for r in m.replicas)]
    for model in coming:
        unwanted = (*model.surplus, *reversed(model.spare))
        for replica in (r for r in unwanted if r.phase.is_coming_up):
            yield StopEngine(replica.name, model.target.reason)
        for replica in (r for r in model.wanted if r.phase.is_coming_up and r.stale):
            yield StopEngine(replica.name, STALE)
        for replica in (r for r in model.wanted if r.phase.is_coming_up and not r.stale):
            # What was begun before `verify` was asked for loads what nobody has verified.
            why = model.unverified or moves(scene, replica) or turns_back(scene, model, replica)
            if why is not None:
                yield StopEngine(replica.name, why)
    for model in coming:
        # Nobody waits for an engine that is started only to be put to sleep.
        asked = _in_the_way(model, scene.models) if model.target.rung is Rung.ASLEEP else None
        if asked is not None:
            for replica in (r for r in model.wanted if r.phase.is_coming_up and not r.stale):
                why = f"its start makes way: a request waits for {asked.name}"
                yield StopEngine(replica.name, why)


def _due(scene: Scene) -> Iterator[_Rising]:
    """Yield what comes up before all others: it served, and was put aside by us for a moment."""
    for model in scene.models:
        # Mostly there is nobody, and this is asked at every tick.
        if model.target.rung is Rung.HOT and any(_is_due(r) for r in model.wanted):
            yield from (each for each in _rising(scene, [model]) if _is_due(each[1]))


def _is_due(replica: ReplicaFacts) -> bool:
    # With the first failure of its new settings it is one like any.
    return replica.rehearses or (replica.anew and not replica.failures)


def _rising(scene: Scene, models: Iterable[ModelFacts]) -> Iterator[_Rising]:
    for model in models:
        for replica, action in _risings(scene, model):
            if replica not in model.extra:
                yield model, replica, action


def _rising_for_load(scene: Scene) -> Iterator[_Rising]:
    """Yield what its model's load alone asks for: it comes after all others."""
    for model in (m for m in scene.models if m.target.extra):
        for replica, action in _risings(scene, model):
            if replica in model.extra:
                yield model, replica, action


def _heat(scene: Scene, risings: Iterable[_Rising], held_up: dict[str, str]) -> Iterator[Operation]:
    for model, replica, action in risings:
        why = moves(scene, replica) if isinstance(action, WakeEngine) else None
        if why is not None:
            yield StopEngine(replica.name, why)
            continue
        if model.unverified is not None and _loads(model, action):
            held_up.setdefault(model.name, model.unverified)
            continue
        barred = bars(scene, model, replica)
        full = None if barred else no_room(scene, model, replica)
        if full is not None:
            held_up.setdefault(model.name, full.reason)
            if full.make_room is not None:
                yield full.make_room
            continue
        barred = barred or refuses(scene, model, replica)
        if barred is None:
            yield action
        else:
            held_up.setdefault(model.name, barred)


def _risings(scene: Scene, model: ModelFacts) -> list[tuple[ReplicaFacts, Operation]]:
    """Return what would bring the wanted replicas up, the quickest first."""
    reason = model.target.reason
    down = [r for r in model.wanted if _startable(r, scene.now)]
    if model.target.rung is Rung.ASLEEP:
        down = [r for r in down if _sleepless(scene, model, r) is None]
        return [(r, StartEngine(r.name, reason)) for r in down]
    asleep = [r for r in model.wanted if r.phase is Phase.ASLEEP]
    return [
        *((r, WakeEngine(r.name, reason)) for r in asleep),
        *((r, StartEngine(r.name, reason)) for r in down),
    ]


def _loads(model: ModelFacts, action: Operation) -> bool:
    """Whether it reads the weights: a sleeper of level 2 has dropped them."""
    return isinstance(action, StartEngine) or model.sleep_level == 2


def _in_the_way(model: ModelFacts, others: Iterable[ModelFacts]) -> ModelFacts | None:
    """Return a model that requests wait for on a card that `model` uses; None where none is."""
    for other in others:
        asked = other.waiting and other.target.rung is Rung.HOT and other.name != model.name
        if asked and any(r.meets(theirs) for r in model.wanted for theirs in other.wanted):
            return other
    return None


def _startable(replica: ReplicaFacts, now: float) -> bool:
    if replica.phase is Phase.BACKING_OFF:
        return replica.retry_at is not None and now >= replica.retry_at
    return replica.phase is Phase.DOWN


def _sleepless(scene: Scene, model: ModelFacts, replica: ReplicaFacts) -> str | None:
    """Say why no engine is started only to be put to sleep."""
    if not replica.sleeps:
        return (
            f"the sleep of {replica.name} failed too often to be tried again: mend the cause, then "
            f"`warmctl set {model.name} auto`"
        )
    refusal = scene.ram.refuses_sleep(replica.pins)
    if refusal is None and scene.now < model.sleepless_until:
        wait = duration(model.sleepless_until - scene.now)
        return f"there was no RAM for its sleep; tried again in {wait}"
    return refusal


def _explain_sleepless(scene: Scene, model: ModelFacts, held_up: dict[str, str]) -> None:
    for replica in (r for r in model.wanted if _startable(r, scene.now)):
        why = _sleepless(scene, model, replica)
        if why is not None:
            held_up.setdefault(model.name, why)


def _cool(scene: Scene) -> Iterator[Operation]:
    for model in scene.models:
        spare = [r for r in model.spare if not model.drains(r)]
        gone = [r for r in model.surplus if r.phase in _STEADY and not model.drains(r)]
        for replica in (*gone, *(r for r in spare if r.stale and r.phase in _STEADY)):
            yield StopEngine(replica.name, model.target.reason)
        cools = [r for r in spare if not r.stale]
        cools += model.wanted if model.target.rung is Rung.ASLEEP else []
        for replica in (r for r in cools if r.phase is Phase.READY):
            if moves(scene, replica) is None:
                yield put_aside(scene, replica, replica.worn or model.target.reason)
            else:  # it could not be woken there
                yield StopEngine(replica.name, model.target.reason)


def _make_one_anew(scene: Scene, held_up: dict[str, str]) -> Iterator[Operation]:
    """Stop one engine whose settings have changed, where nothing else is left to do.

    The next one waits until that one is up again: so changed settings that don't work take one
    engine, not all. But one that has the place which another is to have makes way for it.
    """
    wanted = [(m, r) for m in scene.models for r in m.wanted]
    stale = [(m, r) for m, r in wanted if r.stale and r.phase in _STEADY]
    broken = next((r for _, r in wanted if r.phase in _BROKEN and r.renewed), None)
    for model, replica in stale:
        if broken is not None:
            trouble = f"{broken.name} is {broken.phase.words}"
            why = f"{replica.name} goes on with its old settings: {trouble}"
            held_up.setdefault(model.name, why)
    # What is stopped on a card that is out of service could not be started again.
    for model, replica in stale:
        sick = quarantine(scene, replica.next_cards)
        if sick is not None:
            held_up.setdefault(model.name, f"{replica.name} goes on with its old settings: {sick}")
    stale = [(m, r) for m, r in stale if quarantine(scene, r.next_cards) is None]
    renewed = [(m, r) for m, r in wanted if r.renewed and r.phase not in _STEADY]
    coming = [(m, r) for m, r in renewed if not _stays_down(scene, m, r)]
    blocked = [in_the_way(scene, m, r) if r.phase is Phase.DOWN else frozenset() for m, r in coming]
    names = [r.name for _, r in stale]
    first = [name for name in names if any(name in them for them in blocked)] or names
    if stale and all(not them.isdisjoint(names) for them in blocked):
        yield StopEngine(first[0], STALE, anew=True)


def _stays_down(scene: Scene, model: ModelFacts, replica: ReplicaFacts) -> bool:
    """Whether a wanted replica lacks what its start needs, and nobody waits for it."""
    if quarantine(scene, replica.cards) is not None:
        return not replica.phase.is_up
    if replica.phase is not Phase.DOWN or model.waiting:
        return False
    if model.target.rung is Rung.ASLEEP and _sleepless(scene, model, replica) is not None:
        return True
    return no_room(scene, model, replica) is not None


def _recycle(scene: Scene) -> Iterator[Operation]:
    """Stop a worn sleeper; it is started and put to sleep again, and nobody is waiting."""
    for model in scene.models:
        if model.target.rung is Rung.ASLEEP:
            for replica in (r for r in model.wanted if r.phase is Phase.ASLEEP and r.worn):
                if quarantine(scene, replica.next_cards) is not None:
                    continue
                yield StopEngine(replica.name, replica.worn or "")


def _rehearse(scene: Scene) -> Iterator[Operation]:
    rehearsing = [m for m in scene.models if m.rehearse and m.target.rung is Rung.HOT]
    if not rehearsing:
        return
    astir = [r for m in scene.models for r in m.wanted if m.waiting or _shall_rise(scene, m, r)]
    for model in rehearsing:
        for replica in (r for r in model.wanted if r.phase is Phase.READY and r.sleeps):
            if quarantine(scene, replica.cards) is not None:
                continue  # it could not be woken there
            if any(replica.meets(other) for other in astir):
                continue  # who is hot would not be for a while, and others would wait for it
            if scene.ram.refuses_sleep(replica.pins) is None:
                why = "a rehearsal: nobody asks for it, and what its sleep takes was never measured"
                yield SleepEngine(replica.name, why, rehearsal=True)


def _shall_rise(scene: Scene, model: ModelFacts, replica: ReplicaFacts) -> bool:
    """Whether an engine comes up as soon as its card is free, or its time has come."""
    if replica.phase is Phase.ASLEEP and model.target.rung is Rung.HOT:
        found = quarantine(scene, replica.cards) or no_room(scene, model, replica)
        return found is None
    down = replica.phase in (Phase.DOWN, Phase.BACKING_OFF)
    return down and not _stays_down(scene, model, replica)


def _explain_failures(model: ModelFacts, now: float, held_up: dict[str, str]) -> None:
    for replica in model.wanted:
        if model.target.rung is Rung.HOT and replica.phase in (Phase.DRAINING, Phase.STOPPING):
            held_up[model.name] = f"{replica.name} is {replica.phase.words}: {replica.reason}"
        elif replica.phase is Phase.FAILED:
            held_up[model.name] = f"{replica.name} failed: {replica.reason}"
        elif (
            replica.phase is Phase.BACKING_OFF
            and replica.retry_at is not None
            and now < replica.retry_at
        ):
            wait = duration(replica.retry_at - now)
            held_up[model.name] = f"{replica.name} is tried again in {wait}: {replica.reason}"
