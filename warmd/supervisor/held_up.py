"""What keeps a model from beginning on its way up, found by a plan that nobody carries out."""

from __future__ import annotations

from dataclasses import replace

from warmd.ladder import Phase, Rung
from warmd.planner import LookAtCards, PaceFiles, ReleaseFiles, Scene, StageFiles, make_plan
from warmd.supervisor.model import Managed


def held_up(scene: Scene, model: Managed) -> str | None:
    """Say what keeps `model` from beginning on its way up; None where nothing does."""
    plan = make_plan(scene)
    if any(isinstance(action, LookAtCards) for action in plan.actions):
        plan = make_plan(replace(scene, cards={}))  # the look comes at once: pools tell more
    ours = {replica.name for replica in model.replicas}
    if model.target.rung is Rung.STAGED:
        ours = {staged.key for staged in model.sets.values()}
    begun = {
        action.key if isinstance(action, StageFiles) else action.replica
        for action in plan.actions
        if not isinstance(action, ReleaseFiles | PaceFiles | LookAtCards)
    }
    phases = [replica.state.phase for replica in model.replicas]
    rises = any(phase.is_coming_up or phase is Phase.WAKING for phase in phases)
    there = model.rung >= model.target.rung
    return None if there or rises or begun & ours else plan.held_up.get(model.name)
