"""What the supervisor is given: what earlier lives knew, what holds for all, who builds for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from warmd.ladder import Rung, SleepFigures
from warmd.policy import Fairness, Override
from warmd.policy.opening import Attendance
from warmd.replica import Fit, Replica
from warmd.staged import StagedFiles
from warmd.staging import Left, Request
from warmd.supervisor.terms import FileTerms


@dataclass(frozen=True)
class Known:
    """What an earlier life of the daemon knew of a model.

    `starts`, `wakes`: seconds, oldest first; `starts_from`: those of starts by the rung that they
    met; `figures`: what its sleep took, by key; `last_request`: Unix seconds; `attendance`: which
    openings of its calendar were judged.
    """

    override: Override | None = None
    starts: Sequence[float] = ()
    wakes: Sequence[float] = ()
    figures: Mapping[str, SleepFigures] = field(default_factory=dict)
    last_request: float | None = None
    starts_from: Mapping[Rung, Sequence[float]] = field(default_factory=dict)
    attendance: Attendance = field(default_factory=Attendance)


@dataclass(frozen=True)
class Rules:
    """What holds for all models. Pools map to bytes of VRAM."""

    pools: Mapping[str, int] = field(default_factory=dict)
    fairness: Fairness = field(default_factory=Fairness)


Scan = Callable[[], Request]
"""Finds the files of a set; waits for the disk. Raises `StagingError`."""


class Build(Protocol):
    """Makes what the supervisor cares for."""

    def replica(self, model: str, index: int, fit: Fit) -> Replica:
        """Make a replica that tells the supervisor of its changes."""

    def staged(self, terms: FileTerms) -> StagedFiles:
        """Make the keeper of a set of files."""

    def scan(self, terms: FileTerms) -> Scan:
        """Return what finds the files of a set."""

    def left(self) -> Mapping[str, Left]:
        """Return what an earlier daemon left held of sets that nobody has asked for since."""

    def came_up(self, replica: Replica) -> None:
        """Hear that an engine has been started and is ready: there is something to be learnt."""
