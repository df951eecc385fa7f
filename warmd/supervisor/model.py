"""One model with all that belongs to it, and the facts that are derived from it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from warmd.ladder import Phase, Rung
from warmd.planner import ModelFacts, ReplicaFacts, StagingFacts
from warmd.policy import Demand, Override, Target, Wish
from warmd.replica import Fit, Replica
from warmd.staged import StagedWeights

_NOTHING_YET = Target(Rung.COLD, 1, "warmd has just started")


@dataclass(frozen=True)
class Terms:
    """What the config says of a model. `max_wait` in seconds; one fit for each replica."""

    aliases: tuple[str, ...]
    wish: Wish
    max_wait: float
    weights: Path
    fits: tuple[Fit, ...]


@dataclass
class Managed:
    """One model. Times are monotonic seconds; written by the supervisor's rooms alone."""

    name: str
    terms: Terms
    replicas: Sequence[Replica]
    staged: StagedWeights
    retired: bool = False  # no longer in the config: it goes as soon as its engines have
    override: Override | None = None
    starts: list[float] = field(default_factory=list)  # seconds that measured starts took
    waiting: dict[asyncio.Event, float] = field(default_factory=dict)  # -> when it came
    last_request: float = -math.inf  # when the last request ended or gave up
    target: Target = _NOTHING_YET
    held_up_by: str | None = None
    told: dict[str, Rung] = field(default_factory=dict)  # rung by replica, as last written down
    met: dict[str, Rung] = field(default_factory=dict)  # rung by replica when its start began

    @property
    def in_flight(self) -> int:
        """Requests that its replicas serve now."""
        return sum(r.in_flight for r in self.replicas)

    @property
    def is_gone(self) -> bool:
        """Whether it is retired and nothing of it is left."""
        weights = self.staged.state
        idle = not any(r.state.phase.is_up or r.in_flight for r in self.replicas)
        return self.retired and idle and not (weights.held or weights.busy or self.waiting)

    @property
    def rung(self) -> Rung:
        """The highest rung that a replica stands on."""
        return max(self.rung_of(r) for r in self.replicas)

    def drop_surplus(self) -> None:
        """Forget the replicas that the terms no longer have, once nothing of them is left."""
        kept = list(self.replicas)
        while len(kept) > len(self.terms.fits):
            if kept[-1].state.phase.is_up or kept[-1].in_flight:
                break
            kept.pop()
        self.replicas = tuple(kept)

    def rung_of(self, replica: Replica) -> Rung:
        """Return where a replica stands: a rung follows from facts, it is never set."""
        if replica.state.phase in (Phase.READY, Phase.DRAINING):
            return Rung.HOT
        return Rung.STAGED if self.staged.state.held else Rung.COLD

    def demand(self, now: float) -> Demand:
        """Return who asks for it at `now`."""
        return Demand(len(self.waiting), self.in_flight, now - self.last_request)

    def oldest_wait(self, now: float) -> float:
        """Return how long the longest-waiting request has waited at `now`, in seconds."""
        return max((now - came for came in self.waiting.values()), default=0.0)

    def facts(self, now: float) -> ModelFacts:
        """Return what the planner needs to know at `now`."""
        staged = self.staged.state
        return ModelFacts(
            name=self.name,
            target=self.target,
            replicas=[
                ReplicaFacts(r.name, r.state.phase, r.state.retry_at, r.state.reason, r.is_stale)
                for r in self.replicas
            ],
            staging=StagingFacts(
                staged.total, staged.busy, staged.held, staged.retry_at, staged.problem
            ),
            oldest_wait=self.oldest_wait(now),
        )
