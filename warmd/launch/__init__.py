"""How a process tree is run, watched and ended whole."""

from __future__ import annotations

from warmd.launch.direct import DirectLauncher
from warmd.launch.environment import clean_environment
from warmd.launch.launcher import (
    EngineExit,
    HostLauncher,
    Launcher,
    LaunchError,
    LaunchSpec,
    Leftover,
    LogLine,
    RunningEngine,
)
from warmd.launch.leftovers import sweep

__all__ = [
    "DirectLauncher",
    "EngineExit",
    "HostLauncher",
    "LaunchError",
    "LaunchSpec",
    "Launcher",
    "Leftover",
    "LogLine",
    "RunningEngine",
    "clean_environment",
    "sweep",
]
