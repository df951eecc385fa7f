"""What happens, told to whoever writes it down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from warmd.ladder import Rung, StartTimes
from warmd.policy import Override


@dataclass(frozen=True)
class Clock:
    """Time, handed in: `monotonic` for durations, `wall` (Unix seconds) for what people set."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]


@dataclass(frozen=True)
class RungChange:
    """A replica came to stand on another rung. `seconds`: how long the way took, where known."""

    model: str
    replica: str
    old: Rung
    new: Rung
    reason: str
    seconds: float | None


@dataclass(frozen=True)
class EngineFailure:
    """An engine failed, `seconds` after its start was decided, before or after it was ready.

    `met` is the rung on which the start began.
    """

    model: str
    replica: str
    met: Rung
    cause: str
    follows: str
    seconds: float
    was_ready: bool


class Events(Protocol):
    """Who writes down what happens. Nothing here may block or raise."""

    def rung_changed(self, change: RungChange) -> None:
        """Write down a change of rung."""

    def start_began(self, model: str, replica: str, reason: str) -> None:
        """Write down that a start was decided, and why."""

    def start_ready(self, model: str, replica: str, met: Rung, times: StartTimes) -> None:
        """Write down a start that got ready; `met` is the rung it began on."""

    def engine_failed(self, failure: EngineFailure) -> None:
        """Write down a failed start or run, and what follows from it."""

    def engine_stuck(self, model: str, replica: str, pid: int) -> None:
        """Write down that processes of an engine outlive SIGKILL."""

    def staging_failed(self, model: str, problem: str) -> None:
        """Write down that weights could not be staged or held."""

    def override_changed(self, model: str, override: Override | None, reason: str) -> None:
        """Write down what holds against policy from now on; None: nothing any more."""
