"""The disk lane: one model is staged at a time, for two streams from one disk make both late."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from warmd.ladder import Phase, Rung
from warmd.planner.actions import Action, ReleaseWeights, StageWeights
from warmd.planner.facts import ModelFacts, Scene
from warmd.planner.vram import awaits_look


def releases(models: Iterable[ModelFacts]) -> Iterator[Action]:
    """Yield the weights that are no longer needed in RAM."""
    for model in models:
        if _wants_weights(model) or not (model.staging.held or model.staging.busy):
            continue
        loaded = model.target.rung >= Rung.ASLEEP
        yield ReleaseWeights(
            model.name, "its engines have loaded them" if loaded else model.target.reason
        )


def disk_lane(scene: Scene, rises: Collection[str], held_up: dict[str, str]) -> Iterator[Action]:
    """Yield at most one staging; note in `held_up` what can't be staged, and why.

    `rises` names the engines that this plan starts. The process that stages would take the CPU
    from an engine's way to exec: it comes once the engine's program runs.
    """
    busy = next((m.name for m in scene.models if m.staging.busy), None)
    # A model on its way to hot needs its weights before one that only rests staged.
    for model in sorted(
        scene.models, key=lambda m: (m.target.rung is not Rung.HOT, -m.oldest_wait)
    ):
        staging = model.staging
        if staging.held or staging.total is None or not _wants_weights(model):
            continue
        if busy is not None:
            if not staging.busy:
                held_up.setdefault(model.name, f"{busy} is being staged from the same disk")
            continue
        refusal = scene.ram.refuses(staging.total)
        if staging.retry_at is not None and scene.now < staging.retry_at:
            refusal = staging.problem
        if refusal is None:
            launches = any(r.launches or r.name in rises for r in model.replicas)
            if not launches and not awaits_look(scene, model):
                yield StageWeights(model.name, model.target.reason)
            return  # who launches keeps its turn
        held_up.setdefault(model.name, refusal)


def _wants_weights(model: ModelFacts) -> bool:
    """Weights belong in RAM from `staged` up, until every wanted engine has loaded them."""
    loaded: tuple[Phase, ...] = (Phase.READY, Phase.ADOPTING)
    if model.sleep_level == 1:
        # A sleeper of level 2 has dropped them, and reads them again when it wakes.
        loaded += (Phase.ASLEEP, Phase.WAKING, Phase.FALLING_ASLEEP)
    match model.target.rung:
        case Rung.COLD:
            return False
        case Rung.STAGED:
            return True
        case Rung.ASLEEP:
            return not all(r.phase in (*loaded, Phase.DRAINING) for r in model.wanted)
        case Rung.HOT:
            return not all(r.phase in loaded for r in model.wanted)
