"""The next actions toward the targets.

Lanes. On each GPU one operation runs at a time, and from the disk one set of files is staged at
a time. They run side by side: a cold model's weights come into RAM while its engine imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from warmd.planner.actions import Action, ReleaseFiles, StartEngine, WakeEngine
from warmd.planner.device_lane import device_lanes
from warmd.planner.disk_lane import disk_lane
from warmd.planner.facts import Scene
from warmd.planner.vram import looks


@dataclass(frozen=True)
class Plan:
    """What to do now, and for each model that can't move, why; for each set of files, by key."""

    actions: tuple[Action, ...]
    held_up: Mapping[str, str]
    unstaged: Mapping[str, str] = field(default_factory=dict)


def make_plan(scene: Scene) -> Plan:
    """Plan the next actions."""
    held_up: dict[str, str] = {}
    engines = tuple(device_lanes(scene, held_up))
    rises = frozenset(a.replica for a in engines if isinstance(a, StartEngine | WakeEngine))
    disk = disk_lane(scene, rises, held_up)
    released = [a for a in disk.actions if isinstance(a, ReleaseFiles)]
    stagings = [a for a in disk.actions if not isinstance(a, ReleaseFiles)]
    actions = (*released, *engines, *stagings, *looks(scene, rises))
    return Plan(actions, held_up, disk.held_up)
