"""One target for each model: how warm, how many, and why in one sentence.

Precedence: what an operator set, then demand, then the rung at which the model rests.
"""

from __future__ import annotations

from dataclasses import dataclass

from warmd.ladder import Rung
from warmd.spoken import count, duration


@dataclass(frozen=True)
class Wish:
    """What the config says of a model. `idle_after` in seconds."""

    resting: Rung
    replicas: int
    idle_after: float


@dataclass(frozen=True)
class Override:
    """What an operator set. `until` in Unix seconds, None until further notice."""

    rung: Rung
    until: float | None

    def holds_at(self, now: float) -> bool:
        """Whether it is in force at `now` (Unix seconds)."""
        return self.until is None or now < self.until


@dataclass(frozen=True)
class Demand:
    """Who asks for a model. `idle_s`: seconds since the last request ended, infinite before it."""

    waiting: int
    in_flight: int
    idle_s: float


@dataclass(frozen=True)
class Target:
    """What is wanted of a model now. `replicas` counts engines and matters where `rung` is hot."""

    rung: Rung
    replicas: int
    reason: str


def decide_target(wish: Wish, override: Override | None, demand: Demand, now: float) -> Target:
    """Decide what a model shall be at `now` (Unix seconds), from facts alone."""
    if override is not None and override.holds_at(now):
        return Target(override.rung, wish.replicas, f"an operator set it to {override.rung}")
    if demand.waiting:
        wait = "waits" if demand.waiting == 1 else "wait"
        return Target(Rung.HOT, wish.replicas, f"{count(demand.waiting, 'request')} {wait} for it")
    if wish.resting is Rung.HOT:
        return Target(Rung.HOT, wish.replicas, "it rests hot")
    if demand.in_flight:
        reason = f"{count(demand.in_flight, 'request')} in flight"
        return Target(Rung.HOT, wish.replicas, reason)
    if demand.idle_s < wish.idle_after:
        kept = duration(wish.idle_after)
        return Target(Rung.HOT, wish.replicas, f"it had a request within the last {kept}")
    if demand.idle_s == float("inf"):
        return Target(
            wish.resting, wish.replicas, f"it rests {wish.resting} and nobody asks for it"
        )
    idle = duration(wish.idle_after)
    reason = f"it had no request for {idle} and rests {wish.resting}"
    return Target(wish.resting, wish.replicas, reason)
