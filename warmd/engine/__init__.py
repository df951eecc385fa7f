"""All that knows vLLM: its command line, its log, its HTTP server."""

from __future__ import annotations

from warmd.engine.binder import Binder
from warmd.engine.binding import Binding, Reservation
from warmd.engine.canary import CanaryAnswer, difference
from warmd.engine.client import EngineClient
from warmd.engine.command import (
    EngineCommand,
    EngineRecipe,
    SleepSupport,
    engine_command,
    first_port,
)
from warmd.engine.errors import (
    EngineError,
    SizingError,
    SleepError,
    UnprovenError,
    WarmupError,
)
from warmd.engine.failure import Cause, failure_cause
from warmd.engine.home import EngineHome, engine_home, point_at, prepare_home, stable_path
from warmd.engine.log import EngineLog
from warmd.engine.note import read_note
from warmd.engine.response_format import ResponseFormat
from warmd.engine.sizing.flags import EngineFlags
from warmd.engine.stages import StartTracker
from warmd.engine.vllm import Vllm, VllmConnection
from warmd.engine.warmup import WarmupAnswer, WarmupSpec, warm_up

__all__ = [
    "Binder",
    "Binding",
    "CanaryAnswer",
    "Cause",
    "EngineClient",
    "EngineCommand",
    "EngineError",
    "EngineFlags",
    "EngineHome",
    "EngineLog",
    "EngineRecipe",
    "Reservation",
    "ResponseFormat",
    "SizingError",
    "SleepError",
    "SleepSupport",
    "StartTracker",
    "UnprovenError",
    "Vllm",
    "VllmConnection",
    "WarmupAnswer",
    "WarmupError",
    "WarmupSpec",
    "difference",
    "engine_command",
    "engine_home",
    "failure_cause",
    "first_port",
    "point_at",
    "prepare_home",
    "read_note",
    "stable_path",
    "warm_up",
]
