"""How a process tree is run, watched and ended whole."""

from __future__ import annotations

from warmd.launch.direct import DirectLauncher
from warmd.launch.environment import clean_environment
from warmd.launch.launcher import (
    EngineExit,
    Launcher,
    LaunchError,
    LaunchSpec,
    LogLine,
    RunningEngine,
)
from warmd.launch.leftovers import Leftover, sweep

__all__ = [
    "DirectLauncher",
    "EngineExit",
    "LaunchError",
    "LaunchSpec",
    "Launcher",
    "Leftover",
    "LogLine",
    "RunningEngine",
    "clean_environment",
    "sweep",
]
