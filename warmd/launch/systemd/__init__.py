"""Engines as units of systemd: `warmd-engine@NAME.service`, started over D-Bus."""

from __future__ import annotations

from warmd.launch.systemd.launcher import SystemdLauncher, engine_group
from warmd.launch.systemd.units import Job, Units

__all__ = ["Job", "SystemdLauncher", "Units", "engine_group"]
