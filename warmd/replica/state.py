"""Where a replica stands, and how long each step of its life may take."""

from __future__ import annotations

from dataclasses import dataclass

from warmd.ladder import Phase, StartTimes


@dataclass(frozen=True)
class Limits:
    """How long each step of an engine's life may take, in seconds.

    `hang`: how long a ready engine may stand still; `last_words`: how long an engine that broke its
    connection is given to show that it has ended.
    """

    start: float
    drain: float
    stop: float
    hang: float
    last_words: float = 1.0


@dataclass(frozen=True)
class ReplicaState:
    """Where a replica stands. Times are monotonic seconds."""

    phase: Phase = Phase.DOWN
    since: float = 0.0
    reason: str = "it was not needed yet"
    pid: int | None = None
    failures: int = 0
    retry_at: float | None = None
    started_at: float | None = None  # when the start that led here was decided
    ready_at: float | None = None  # when that start became ready
    last_start: StartTimes | None = None
