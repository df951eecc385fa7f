"""The next actions toward the targets.

Two lanes. On the device lane one operation runs at a time (start, drain, stop): engines measure
the device's memory while they start, and mis-measure a neighbour that moves. On the disk lane one
model is staged at a time: two streams from one disk make both late. The lanes run side by side,
so a cold model's weights come into RAM while its engine imports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from warmd.ladder import Phase, Rung
from warmd.planner.ledger import RamLedger
from warmd.policy.target import Target
from warmd.spoken import duration


@dataclass(frozen=True)
class ReplicaFacts:
    """What one replica does. `retry_at`: when it may be tried again, in monotonic seconds."""

    name: str
    phase: Phase
    retry_at: float | None = None
    reason: str = ""
    stale: bool = False  # its engine was started with settings that have changed since


@dataclass(frozen=True)
class StagingFacts:
    """What is held in RAM of one model's weights. Sizes in bytes, `retry_at` in monotonic s."""

    total: int | None  # None until its files have been looked at
    busy: bool = False  # on its way into RAM
    held: bool = False  # resident by measurement and held there
    retry_at: float | None = None
    problem: str | None = None  # why the last try failed


@dataclass(frozen=True)
class ModelFacts:
    """One model as it is. `oldest_wait`: seconds that its longest-waiting request has waited."""

    name: str
    target: Target
    replicas: Sequence[ReplicaFacts]
    staging: StagingFacts
    oldest_wait: float = 0.0


@dataclass(frozen=True)
class StageWeights:
    """Bring a model's weights into RAM and hold them."""

    model: str
    reason: str


@dataclass(frozen=True)
class ReleaseWeights:
    """Stop holding, or stop bringing in, a model's weights."""

    model: str
    reason: str


@dataclass(frozen=True)
class StartEngine:
    """Start a replica's engine."""

    replica: str
    reason: str


@dataclass(frozen=True)
class StopEngine:
    """Drain and stop a replica's engine; also calls off a start."""

    replica: str
    reason: str


STALE = "its settings have changed"
_BROKEN = (Phase.BACKING_OFF, Phase.FAILED)

Action = StageWeights | ReleaseWeights | StartEngine | StopEngine


@dataclass(frozen=True)
class Plan:
    """What to do now, and for each model that can't move, why."""

    actions: tuple[Action, ...]
    held_up: Mapping[str, str]


def make_plan(models: Sequence[ModelFacts], ledger: RamLedger, now: float) -> Plan:
    """Plan the next actions at `now` (monotonic seconds)."""
    held_up: dict[str, str] = {}
    releases = tuple(_releases(models))
    engines = tuple(_device_lane(models, now, held_up))
    stagings = tuple(_disk_lane(models, ledger, now, held_up))
    return Plan((*releases, *engines, *stagings), held_up)


def _surplus(model: ModelFacts) -> list[ReplicaFacts]:
    """Return the replicas that are up and not wanted: the highest first."""
    count = model.target.replicas if model.target.rung is Rung.HOT else 0
    return [r for r in reversed(model.replicas[count:]) if r.phase.is_up]


def _wanted(model: ModelFacts) -> Sequence[ReplicaFacts]:
    return model.replicas[: model.target.replicas] if model.target.rung is Rung.HOT else ()


def _device_lane(
    models: Sequence[ModelFacts], now: float, held_up: dict[str, str]
) -> Iterable[Action]:
    busy = next((r for m in models for r in m.replicas if r.phase.holds_the_device), None)
    free = busy is None
    for model in models:
        # Calling off a start is part of that same operation.
        for replica in (r for r in _surplus(model) if r.phase.is_coming_up):
            yield StopEngine(replica.name, model.target.reason)
        for replica in (r for r in _wanted(model) if r.phase.is_coming_up and r.stale):
            yield StopEngine(replica.name, STALE)
        if busy is not None and _startable(model, now) and not _coming_up(model):
            held_up[model.name] = f"{busy.name} is {busy.phase} on the same device"
    for model in models:
        for replica in (r for r in _surplus(model) if r.phase is Phase.READY):
            if free:
                free = False
                yield StopEngine(replica.name, model.target.reason)
    # Who has waited longest goes first; then the order of the config.
    for model in sorted(models, key=lambda m: -m.oldest_wait):
        _explain_failures(model, now, held_up)
        for replica in _startable(model, now):
            if free:
                free = False
                yield StartEngine(replica.name, model.target.reason)
    if free:
        yield from _make_one_anew(models, held_up)


def _make_one_anew(models: Sequence[ModelFacts], held_up: dict[str, str]) -> Iterable[Action]:
    """Stop one engine whose settings have changed, where nothing else is left to do.

    The next one waits until that one is ready again: so changed settings that don't work take
    one engine, not all.
    """
    stale = [(m, r) for m in models for r in _wanted(m) if r.stale and r.phase is Phase.READY]
    broken = next((r for m in models for r in _wanted(m) if r.phase in _BROKEN), None)
    for model, replica in stale:
        if broken is not None:
            why = f"{replica.name} goes on with its old settings: {broken.name} is {broken.phase}"
            held_up.setdefault(model.name, why)
    if stale and broken is None:
        yield StopEngine(stale[0][1].name, STALE)


def _coming_up(model: ModelFacts) -> bool:
    return any(r.phase.is_coming_up for r in model.replicas)


def _startable(model: ModelFacts, now: float) -> list[ReplicaFacts]:
    """Return the replicas that are wanted hot, are down, and may be tried now."""
    if model.target.rung is not Rung.HOT:
        return []
    return [
        r
        for r in model.replicas[: model.target.replicas]
        if r.phase is Phase.DOWN
        or (r.phase is Phase.BACKING_OFF and r.retry_at is not None and now >= r.retry_at)
    ]


def _explain_failures(model: ModelFacts, now: float, held_up: dict[str, str]) -> None:
    if model.target.rung is not Rung.HOT:
        return
    for replica in model.replicas[: model.target.replicas]:
        if replica.phase in (Phase.DRAINING, Phase.STOPPING):
            held_up[model.name] = f"{replica.name} is {replica.phase}: {replica.reason}"
        elif replica.phase is Phase.FAILED:
            held_up[model.name] = f"{replica.name} failed: {replica.reason}"
        elif (
            replica.phase is Phase.BACKING_OFF
            and replica.retry_at is not None
            and now < replica.retry_at
        ):
            wait = duration(replica.retry_at - now)
            held_up[model.name] = f"{replica.name} is tried again in {wait}: {replica.reason}"


def _wants_weights(model: ModelFacts) -> bool:
    """Weights belong in RAM from `staged` up, until every wanted engine has loaded them."""
    match model.target.rung:
        case Rung.COLD:
            return False
        case Rung.STAGED | Rung.ASLEEP:
            return True
        case Rung.HOT:
            return not all(r.phase is Phase.READY for r in model.replicas[: model.target.replicas])


def _releases(models: Sequence[ModelFacts]) -> Iterable[Action]:
    for model in models:
        if _wants_weights(model) or not (model.staging.held or model.staging.busy):
            continue
        hot = model.target.rung is Rung.HOT
        yield ReleaseWeights(
            model.name, "its engines have loaded them" if hot else model.target.reason
        )


def _disk_lane(
    models: Sequence[ModelFacts], ledger: RamLedger, now: float, held_up: dict[str, str]
) -> Iterable[Action]:
    busy = next((m.name for m in models if m.staging.busy), None)
    # A model on its way to hot needs its weights before one that only rests staged.
    for model in sorted(models, key=lambda m: (m.target.rung is not Rung.HOT, -m.oldest_wait)):
        staging = model.staging
        if staging.held or staging.total is None or not _wants_weights(model):
            continue
        if busy is not None:
            if not staging.busy:
                held_up.setdefault(model.name, f"{busy} is being staged from the same disk")
            continue
        refusal = ledger.refuses(staging.total)
        if staging.retry_at is not None and now < staging.retry_at:
            refusal = staging.problem
        if refusal is None:
            yield StageWeights(model.name, model.target.reason)
            return
        held_up.setdefault(model.name, refusal)
