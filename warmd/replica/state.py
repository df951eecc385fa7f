"""Where a replica stands, and how long each step of its life may take."""

from __future__ import annotations

from dataclasses import dataclass

from warmd.engine.canary import CanaryAnswer
from warmd.ladder import MeasuredParts, Phase, StartTimes, WakeTimes

TREE_END_S = 10.0
"""How long after SIGKILL a process tree may still be there before that is worth a word."""

FREED_S = 10.0
"""How long after its end an engine's VRAM may take to come back; 0.5 to 1.5 s is usual."""

BAD_NAPS_MAX = 2
"""After so many sleeps or wakes in a row that failed, a replica is not put to sleep any more."""


REHEARSED_S = 3.0
"""A replica that has slept so long without being woken doesn't rehearse: it sleeps."""


@dataclass(frozen=True)
class Limits:
    """How long each step of an engine's life may take, in seconds.

    `sleep`: how long it may take to fall asleep, and to wake; `hang`: how long a ready engine may
    stand still; `last_words`: how long an engine that broke its connection is given to show that
    it has ended.
    """

    start: float
    drain: float
    stop: float
    hang: float
    sleep: float = 120.0
    last_words: float = 1.0

    def of(self, phase: Phase) -> float | None:
        """How long an operation may take in `phase` before something is wrong; None: for ever."""
        match phase:
            case Phase.DOWN | Phase.READY | Phase.ASLEEP | Phase.BACKING_OFF | Phase.FAILED:
                return None  # as at most looks
            case Phase.STARTING | Phase.WARMING:
                return self.start
            case Phase.DRAINING:
                return self.drain
            case Phase.FALLING_ASLEEP | Phase.WAKING | Phase.ADOPTING:
                return self.sleep
            case Phase.STOPPING:
                return self.stop + TREE_END_S + FREED_S


@dataclass(frozen=True)
class Nap:
    """What one sleep took: seconds to fall asleep, and bytes.

    `host_ram`: what the engine's processes hold of the host's RAM beyond what they held before
    their first sleep, and `host_bytes` what they hold in all; `device_kept`: what they keep on the
    device. None where nobody can tell.
    """

    seconds: float
    host_ram: int | None
    host_bytes: int | None
    device_kept: int | None
    card_kept: int | None = None  # on the card where it keeps most
    rehearsal: bool = False

    @property
    def held(self) -> int | None:
        """Bytes of RAM and VRAM together, None where they could not be measured."""
        return None if self.host_ram is None else self.host_ram + (self.device_kept or 0)


@dataclass(frozen=True)
class ReplicaState:
    """Where a replica stands. Times are monotonic seconds."""

    phase: Phase = Phase.DOWN
    since: float = 0.0
    reason: str = "it was not needed yet"
    pid: int | None = None
    launched_at: float | None = None  # when that process was known
    failures: int = 0
    retry_at: float | None = None
    trouble: str | None = None  # why it failed, until it is ready again
    for_good: bool = False  # and another try would help nobody
    started_at: float | None = None  # when the start or the wake that led here was decided
    ready_at: float | None = None  # when the engine first became ready
    anew: bool = False  # it was stopped only to be started with its new settings
    last_start: StartTimes | None = None
    parts: MeasuredParts | None = None  # what that start took of each GPU
    doing: Phase = Phase.DOWN  # the last phase before any end: what it failed at, where it did
    doing_since: float = 0.0

    # Of its sleep
    canary: CanaryAnswer | None = None  # recorded when the engine first became ready
    cycles: int = 0  # how often this engine has slept
    first_nap: Nap | None = None
    last_nap: Nap | None = None
    last_wake: WakeTimes | None = None
    rehearses: bool = False  # the sleep under way is a rehearsal
    bad_naps: int = 0  # sleeps and wakes that failed in a row, over all its engines

    @property
    def is_sleepless(self) -> bool:
        """Whether its sleep has failed too often to be tried again."""
        return self.bad_naps >= BAD_NAPS_MAX
