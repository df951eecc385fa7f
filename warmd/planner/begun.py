"""The scene once an operation has begun: what else can begin beside it is planned there."""

from __future__ import annotations

from dataclasses import replace

from warmd.ladder import Phase
from warmd.planner.actions import Operation, SleepEngine, StartEngine, StopEngine, WakeEngine
from warmd.planner.facts import ReplicaFacts, Scene


def after(scene: Scene, operation: Operation) -> Scene:
    """Return `scene` with `operation` under way, and what it takes taken."""
    ram = scene.ram
    models = []
    for model in scene.models:
        replicas = []
        for replica in model.replicas:
            if replica.name != operation.replica:
                replicas.append(replica)
                continue
            replicas.append(_begun(replica, operation))
            if isinstance(operation, SleepEngine):
                ram = replace(ram, pinned=ram.pinned + replica.pins)
        models.append(replace(model, replicas=replicas))
    return replace(scene, models=models, ram=ram)


def _begun(replica: ReplicaFacts, operation: Operation) -> ReplicaFacts:
    match operation:
        case StartEngine():
            return replace(replica, phase=Phase.STARTING)
        case WakeEngine():
            return replace(replica, phase=Phase.WAKING)
        case SleepEngine():
            return replace(replica, phase=Phase.DRAINING, pins=0)
        case StopEngine():
            return replace(replica, phase=Phase.STOPPING)
