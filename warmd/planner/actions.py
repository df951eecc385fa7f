"""What the planner may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StageWeights:
    """Bring a model's weights into RAM and hold them."""

    model: str
    reason: str


@dataclass(frozen=True)
class ReleaseWeights:
    """Stop holding, or stop bringing in, a model's weights."""

    model: str
    reason: str


@dataclass(frozen=True)
class StartEngine:
    """Start a replica's engine."""

    replica: str
    reason: str


@dataclass(frozen=True)
class StopEngine:
    """Drain and stop a replica's engine; also calls off a start.

    `sleepless`: it would have been put to sleep, but there was no RAM for that; `anew`: only to be
    started with its new settings.
    """

    replica: str
    reason: str
    sleepless: bool = False
    anew: bool = False


@dataclass(frozen=True)
class SleepEngine:
    """Drain a replica's engine and put it to sleep."""

    replica: str
    reason: str
    rehearsal: bool = False


@dataclass(frozen=True)
class WakeEngine:
    """Wake a replica's engine."""

    replica: str
    reason: str


@dataclass(frozen=True)
class LookAtCards:
    """See what the cards hold: what is known of them is too old to start anything on.

    `names`: or the host's memory lacks room, and who holds most of it is to be named.
    """

    reason: str
    names: bool = False


Operation = StartEngine | StopEngine | SleepEngine | WakeEngine
"""What is done to an engine, and holds its cards while it lasts."""

Action = Operation | StageWeights | ReleaseWeights | LookAtCards
