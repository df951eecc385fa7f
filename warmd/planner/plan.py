"""The next actions toward the targets.

Lanes. On each GPU one operation runs at a time, and from the disk one model is staged at a
time. They run side by side: a cold model's weights come into RAM while its engine imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from warmd.planner.actions import Action, StartEngine, WakeEngine
from warmd.planner.device_lane import device_lanes
from warmd.planner.disk_lane import disk_lane, releases
from warmd.planner.facts import Scene
from warmd.planner.vram import looks


@dataclass(frozen=True)
class Plan:
    """What to do now, and for each model that can't move, why."""

    actions: tuple[Action, ...]
    held_up: Mapping[str, str]


def make_plan(scene: Scene) -> Plan:
    """Plan the next actions."""
    held_up: dict[str, str] = {}
    released = tuple(releases(scene.models))
    engines = tuple(device_lanes(scene, held_up))
    rises = frozenset(a.replica for a in engines if isinstance(a, StartEngine | WakeEngine))
    stagings = tuple(disk_lane(scene, rises, held_up))
    return Plan((*released, *engines, *stagings, *looks(scene, rises)), held_up)
