"""What happens, told to whoever writes it down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from warmd.ladder import FileKind, MeasuredParts, Phase, Rung, SleepFigures, StartTimes, WakeTimes
from warmd.policy import Override
from warmd.policy.opening import Missed, Opening
from warmd.replica import Nap
from warmd.spoken import size


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
    """An engine failed `seconds` after the operation `during` which it did had begun.

    `during` is READY or ASLEEP where there was none. `met` is the rung on which its start began;
    `cycle` counts its sleeps.
    """

    model: str
    replica: str
    met: Rung
    cause: str
    follows: str
    seconds: float
    during: Phase
    cycle: int = 0
    sleep_level: int = 1
    rehearsal: bool = False


@dataclass(frozen=True)
class Operation:
    """What a replica does, and for how many seconds it is later than it may be."""

    model: str
    replica: str
    phase: Phase
    overdue: float


@dataclass(frozen=True)
class Mismatch:
    """An engine holds more of a card than it reserves and is tolerated; bytes."""

    model: str
    replica: str
    card: str
    vram: int
    held: int

    @property
    def sentence(self) -> str:
        """Say it, with the remedy."""
        return (
            f"{self.replica} holds {size(self.held)} of {self.card} and reserves {size(self.vram)}:"
            " raise its vram, or lower what it takes"
        )


@dataclass(frozen=True)
class Quarantine:
    """A card that goes out of service, or where `why` is None comes back into it."""

    card: str
    why: str | None
    remedy: str = ""


class Events(Protocol):
    """Who writes down what happens. Nothing here may block or raise."""

    def rung_changed(self, change: RungChange) -> None:
        """Write down a change of rung."""

    def start_began(self, model: str, replica: str, reason: str) -> None:
        """Write down that a start was decided, and why."""

    def start_called_off(self, model: str, replica: str, reason: str, seconds: float) -> None:
        """Write down that a start is given up, since nobody wants it any longer."""

    def start_ready(self, model: str, replica: str, met: Rung, times: StartTimes) -> None:
        """Write down a start that got ready; `met` is the rung it began on."""

    def slept(self, model: str, replica: str, level: int, nap: Nap, cycle: int) -> None:
        """Write down that a replica fell asleep, for the `cycle`-th time, and what that took."""

    def woke(self, model: str, replica: str, times: WakeTimes, cycle: int) -> None:
        """Write down that a replica woke and gave the answer that it gave before."""

    def sleep_measured(self, model: str, key: str, figures: SleepFigures) -> None:
        """Keep what the first sleep and wake of an engine took; `key` names the engine."""

    def sizes_measured(self, model: str, key: str, parts: MeasuredParts) -> None:
        """Keep what an engine took of each GPU; `key` names the engine."""

    def engine_failed(self, failure: EngineFailure) -> None:
        """Write down a failed start, sleep, wake or run, and what follows from it."""

    def engine_stuck(self, model: str, replica: str, pid: int) -> None:
        """Write down that processes of an engine outlive SIGKILL."""

    def reservation_exceeded(self, mismatch: Mismatch) -> None:
        """Write down that an engine holds more than it reserves, once for each engine."""

    def card_in_doubt(self, card: str, trouble: str | None) -> None:
        """Write down that nobody can tell what a card holds, and why; None: one can again."""

    def card_quarantined(self, quarantine: Quarantine) -> None:
        """Write down that a card goes out of service, or comes back into it."""

    def memory_kept(self, model: str, replica: str, kept: str) -> None:
        """Write down that an engine has ended and its memory didn't come back; `kept` says it."""

    def operation_overdue(self, operation: Operation) -> None:
        """Write down that an operation takes longer than it may, once."""

    def staged(self, model: str, kind: FileKind, seconds: float, read: int) -> None:
        """Write down that files came into RAM: what it took, and the bytes that were read."""

    def staging_failed(self, model: str, kind: FileKind, problem: str) -> None:
        """Write down that files could not be staged or held, or not all of them."""

    def staging_evicted(self, model: str, kind: FileKind, sentence: str) -> None:
        """Write down that a part of what is staged was pushed out of RAM; it is brought back."""

    def replicas_wanted(self, model: str, was: int, wanted: int, why: str) -> None:
        """Write down that the load of a model asks for another number of replicas, and why."""

    def calendar_in_force(self, model: str, mark: str, since: float) -> None:
        """Keep that a model has another calendar since then (Unix seconds); no `mark`: none."""

    def window_opened(self, model: str, opening: Opening, missed: Missed | None) -> None:
        """Write down that a time to be ready by has come, and where it was missed, why."""

    def window_failing(self, model: str, opening: Opening, missed: Missed) -> None:
        """Write down that a start fails for what was missed, whatever was in its way before."""

    def window_ready(self, model: str, opening: Opening, late: float) -> None:
        """Write down that what was missed is ready, `late` seconds after its time."""

    def window_over(self, model: str, opening: Opening) -> None:
        """Write down that what was missed is wanted no longer, and never was ready."""

    def override_changed(self, model: str, override: Override | None, reason: str) -> None:
        """Write down what holds against policy from now on; None: nothing any more."""
