"""Engines as units of systemd: `warmd-engine@NAME.service`, started over D-Bus."""

from __future__ import annotations

from warmd.launch.systemd.launcher import SystemdLauncher

__all__ = ["SystemdLauncher"]
