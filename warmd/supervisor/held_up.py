"""What keeps a model from beginning on its way, found by a plan that nobody carries out."""

from __future__ import annotations

from dataclasses import replace

from warmd.ladder import Phase, Rung
from warmd.planner import (
    CardFacts,
    LookAtCards,
    LookAtFiles,
    PaceFiles,
    ReleaseFiles,
    Scene,
    StageFiles,
    make_plan,
)
from warmd.supervisor.model import Managed


def held_up(scene: Scene, model: Managed) -> str | None:
    """Say what keeps `model` from beginning on its way; None where nothing does."""
    plan = make_plan(scene)
    if any(isinstance(action, LookAtCards) for action in plan.actions):
        # The look comes at once: pools tell more, and who is out of service.
        seen = {key: _as_if_empty(card, scene.now) for key, card in scene.cards.items()}
        plan = make_plan(replace(scene, cards=seen))
    ours = {replica.name for replica in model.replicas}
    if model.target.rung is Rung.STAGED:
        ours = {staged.key for staged in model.sets.values()}
    begun = {
        action.key if isinstance(action, StageFiles) else action.replica
        for action in plan.actions
        if not isinstance(action, ReleaseFiles | PaceFiles | LookAtFiles | LookAtCards)
    }
    phases = [replica.state.phase for replica in model.replicas]
    rises = any(phase.is_coming_up or phase is Phase.WAKING for phase in phases)
    there = model.rung is model.target.rung
    if model.target.rung >= Rung.ASLEEP:
        wanted = model.replicas[: model.target.replicas]
        there = all(model.rung_of(replica) is model.target.rung for replica in wanted)
    return None if there or rises or begun & ours else plan.held_up.get(model.name)


def _as_if_empty(card: CardFacts, now: float) -> CardFacts:
    return replace(card, used=0, ours={}, foreign=(), swept_at=now, moved_at=now)
