"""When a model will be ready, said honestly from measured starts.

These sentences go to clients: what is handed in of an engine's failure must hold no secret.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from warmd.ladder import Phase, Stage
from warmd.spoken import duration

UNMEASURED_START_S = 90.0
"""Seconds that a start is taken to last before the first was measured (vLLM cold: 45 to 120)."""


def percentile(ranked: Sequence[float], share: float) -> float:
    """Return what so many of them reach at most: the nearest rank, always one of them."""
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


@dataclass(frozen=True)
class Progress:
    """How far the replica that will be ready first has come.

    `elapsed`: seconds since its start was decided; `retry_in`: seconds until the next try while it
    backs off; `ahead`: seconds until others are done with the device; `starts`: seconds that
    earlier starts took from decision to ready, `wakes` the same of wakes; `failures`: in a row,
    until now; `cause`: why it failed last, without secrets; `held_up`: what keeps it from being
    started or woken at this moment; `percent`: how far its stage has come, where the engine tells.
    """

    phase: Phase
    stage: Stage | None
    elapsed: float
    retry_in: float
    ahead: float
    starts: Sequence[float]
    failures: int = 0
    held_up: str | None = None
    cause: str | None = None
    wakes: Sequence[float] = ()
    percent: int | None = None

    @property
    def wakes_up(self) -> bool:
        """Whether what it needs to be ready is a wake, and no start."""
        return self.phase in _NEARLY_AWAKE

    @property
    def measured(self) -> Sequence[float]:
        """Seconds that what it needs to be ready took before; empty where nobody knows."""
        return self.wakes if self.wakes_up else self.starts


_NEARLY_AWAKE = (Phase.ASLEEP, Phase.FALLING_ASLEEP, Phase.WAKING, Phase.ADOPTING)

UNMEASURED_WAKE_S = 6.0
"""Seconds that a wake is taken to last before the first was measured (vLLM: 0.3 to 6)."""

_LATE = 0.1
"""What has outlived its estimate is taken to need this share of it more, and then nobody knows."""

STOP_S = 5.0
"""What an engine is taken to need to drain and to end; at most drain_timeout + stop_timeout."""


def expected_start(starts: Sequence[float]) -> float:
    """Return the seconds that a start takes: the median of the measured ones."""
    return median(starts) if starts else UNMEASURED_START_S


def expected_wake(wakes: Sequence[float]) -> float:
    """Return the seconds that a wake takes: the median of the measured ones."""
    return median(wakes) if wakes else UNMEASURED_WAKE_S


def ready_in(progress: Progress) -> float:
    """Estimate the seconds until the model is ready; at least one."""
    whole = expected_start(progress.starts)
    match progress.phase:
        case Phase.READY:
            left = 0.0
        case Phase.WAKING:
            left = start_left(expected_wake(progress.wakes), progress.elapsed)
        case Phase.ASLEEP:
            left = expected_wake(progress.wakes) + progress.ahead
        case Phase.FALLING_ASLEEP:
            left = STOP_S + expected_wake(progress.wakes)
        case Phase.ADOPTING:
            left = expected_wake(progress.wakes)
        case Phase.STARTING | Phase.WARMING:
            left = start_left(whole, progress.elapsed)
        case Phase.DRAINING | Phase.STOPPING:
            left = STOP_S + whole
        case Phase.DOWN | Phase.BACKING_OFF | Phase.FAILED:
            left = whole + max(0.0, progress.retry_in, progress.ahead)
    return max(1.0, left)


def measured_ready_in(progress: Progress) -> float | None:
    """Return what `ready_in` does where measured times say it: 0 for what is ready.

    None where that was never measured, where no time makes it ready, and where nobody knows when
    what keeps it from being started or woken is over.
    """
    if progress.phase is Phase.READY:
        return 0.0
    # What others do on its device has an end that is known; other hindrances have none.
    held = progress.held_up is not None and progress.phase in (Phase.DOWN, Phase.ASLEEP)
    held = held and not progress.ahead
    if held or progress.phase is Phase.FAILED or not progress.measured:
        return None
    return ready_in(progress)


def soonest(progress: Progress) -> float:
    """Return the seconds before which the model surely isn't ready: 0 where nobody knows any.

    What it needs is taken to last as long as the quickest that was measured, and what others do on
    its device to be called off.
    """
    if not progress.measured:
        return 0.0
    quickest = min(progress.measured)
    match progress.phase:
        case Phase.READY | Phase.ADOPTING:
            return 0.0
        case Phase.STARTING | Phase.WARMING | Phase.WAKING:
            return max(0.0, quickest - progress.elapsed)
        case _:
            return max(0.0, progress.retry_in) + quickest


def start_left(whole: float, elapsed: float) -> float:
    """Estimate the rest of a start that takes `whole` seconds and began `elapsed` seconds ago.

    One that has outlived its estimate is taken to need a tenth more, not nothing.
    """
    return max(whole - elapsed, whole * _LATE)


def why_not_ready(model: str, progress: Progress) -> str:
    """Say in one sentence, to somebody who waits, what the model is doing."""
    wakes, measured, about = progress.wakes_up, progress.measured, _about(progress)
    cause = "" if progress.cause is None else f"; it failed last because {progress.cause}"
    match progress.phase:
        case Phase.DOWN | Phase.ASLEEP if progress.held_up is not None:
            done, doing = ("woken", "wake") if wakes else ("started", "start")
            took = f"its {doing} then takes about {duration(round(median(measured or [0])))}"
            if not measured:
                took = f"how long its {doing} then takes was never measured yet"
            return f"{model} waits to be {done}: {progress.held_up}; {took}"
        case Phase.STARTING if progress.failures:
            return f"{model} failed to start and is tried again, {about}{cause}"
        case Phase.STARTING if progress.stage is not None:
            share = "" if progress.percent is None else f" {progress.percent}%"
            return f"{model} is starting ({progress.stage.label}{share}), {about}"
        case Phase.STARTING:
            return f"{model} is starting, {about}"
        case Phase.WARMING:
            return f"{model} has started and its first answer is awaited, {about}"
        case Phase.BACKING_OFF:
            return f"{model} failed and is tried again, {about}{cause}"
        case Phase.FAILED:
            why = "" if progress.cause is None else f": {progress.cause}"
            return f"{model} can't be started and needs an operator{why}"
        case Phase.DRAINING | Phase.STOPPING:
            return f"{model} is being stopped and is started again after that, {about}"
        case Phase.DOWN:
            return f"{model} waits for its turn to be started, {about}"
        case Phase.ASLEEP:
            return f"{model} is asleep and waits for its turn to be woken, {about}"
        case Phase.FALLING_ASLEEP:
            return f"{model} is just falling asleep and is woken after that, {about}"
        case Phase.WAKING:
            return f"{model} is waking, {about}"
        case Phase.ADOPTING:
            return f"{model} is being taken over from an earlier warmd, {about}"
        case Phase.READY:
            return f"{model} is up and asked whether it is well, as it has just broken off"


def _about(progress: Progress) -> str:
    if not progress.measured:
        return "and how long that takes was never measured yet"
    usual = median(progress.measured)
    if progress.phase in _UNDER_WAY and progress.elapsed > (1 + _LATE) * usual:
        return f"which takes longer than the usual {duration(round(usual))}"
    return f"ready in about {duration(round(ready_in(progress)))}"


_UNDER_WAY = (Phase.STARTING, Phase.WARMING, Phase.WAKING)
