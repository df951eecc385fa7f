"""Whether an engine that is up is alive: something must move while requests run.

An engine can answer `/health` and generate nothing for ever (vllm#39863), and a busy one can miss a
probe and be in the best of health. So neither an answer nor one missing answer decides: only
standing still does, for the whole of a settable time.
"""

from __future__ import annotations

from dataclasses import dataclass

from warmd.spoken import count, duration

Counters = tuple[float, ...]
"""What an engine has counted of tokens and requests; empty where it keeps no count."""


@dataclass(frozen=True)
class Pulse:
    """When something last moved (monotonic seconds), and the counters of that moment."""

    moved_at: float
    counters: Counters = ()


@dataclass(frozen=True)
class Hung:
    """The engine stands still; `reason` is a sentence."""

    reason: str


def feel(
    pulse: Pulse, counters: Counters | None, in_flight: int, now: float, hang_after: float
) -> Pulse | Hung:
    """Judge by the next look at `now`; `counters` None: the engine did not answer in time.

    `hang_after` is how long, in seconds, nothing may move before it counts as hung.
    """
    if counters is not None:
        moves = counters != pulse.counters
        tells_nothing = not counters  # the operator switched its statistics off
        if moves or tells_nothing or not in_flight:
            return Pulse(now, counters)
    still = now - pulse.moved_at
    if still < hang_after:
        return pulse
    if counters is None:
        return Hung(f"it has hung: it answered nothing for {duration(still)}")
    running = count(in_flight, "request")
    return Hung(f"it has hung: {running} in flight and not one token for {duration(still)}")
