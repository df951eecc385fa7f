"""How many replicas a model's load asks for, and which of those beyond them rest asleep."""

from __future__ import annotations

from dataclasses import replace

from warmd.ladder import Phase, Rung
from warmd.policy import Load, Scaling, Target
from warmd.policy import rescale as asked_for
from warmd.supervisor.model import Managed

_HOT_OR_LEFT = (Phase.READY, Phase.ADOPTING)


def rescale(model: Managed, now: float) -> None:
    """Look at the load of `model`: how many replicas does it ask for?"""
    scale = model.terms.wish.scale
    if scale is None or model.target.rung is not Rung.HOT:
        model.takes = model.takes if model.scaling is None else model.scaling.takes
        model.scaling = None
        return
    was, least = model.scaling, model.target.least
    phases = [r.state.phase for r in model.replicas]
    if was is None or Phase.ADOPTING in phases:
        # Those that an earlier daemon left may be needed: nobody remembers what for.
        up = [n for n, phase in enumerate(phases, 1) if phase in _HOT_OR_LEFT]
        was = Scaling(max(up, default=least), takes=model.takes)
    in_flight = model.in_flight
    queued = sum(r.queued for r in model.replicas) if in_flight else 0
    load = Load(len(model.waiting) + queued, in_flight - queued, phases.count(Phase.READY))
    model.scaling = asked_for(was, scale, least, load, now)


def with_sleepers(model: Managed, target: Target, now: float) -> Target:
    """Return `target` with those that its load asks for no longer, which rest as the model."""
    wish = model.terms.wish
    if wish.scale is None or wish.idle_then is not Rung.ASLEEP or wish.cannot_sleep is not None:
        return target
    if target.rung < Rung.ASLEEP:
        return target
    beyond = model.replicas[target.replicas :]
    if not any(r.state.phase.is_up for r in beyond):
        return target
    resting = [
        n
        for n, r in enumerate(beyond, 1)
        if r.state.phase.is_up
        and (r.state.phase is not Phase.ASLEEP or now - r.state.since < wish.idle_keep)
    ]
    return replace(target, sleepers=max(resting)) if resting else target
