"""What a replica asks of the engine's make, and of those who hear of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import aiohttp

from warmd.launch import LaunchSpec
from warmd.policy import BackOff, Counters
from warmd.replica.state import Limits, ReplicaState


class EngineConnection(Protocol):
    """The way to one engine that listens."""

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session through which users' requests are relayed as well."""

    async def listening(self) -> bool:
        """Whether the engine answers at all."""

    async def warm_up(self) -> None:
        """Get one real answer; raises `EngineError` with a sentence."""

    async def counters(self, within_s: float) -> Counters | None:
        """Return what the engine has counted; None where it doesn't answer in time."""

    async def close(self) -> None:
        """Let go of every connection."""


class EngineMake(Protocol):
    """What a replica needs to know of its engine's make: its files, its log, its address."""

    def prepare(self) -> LaunchSpec:
        """Make the engine's folder fresh and say what to run; raises `EngineError`."""

    def log(self, line: str) -> None:
        """Keep a line of the engine's output."""

    def came_up(self) -> None:
        """Hear that it is ready: what it printed before explains no later failure."""

    def ended(self) -> None:
        """Hear that the engine has ended: let go of its log's file."""

    def cause(self, ending: str) -> str:
        """Say in one sentence, from its log, why an engine that `ending` failed."""

    def connect(self) -> EngineConnection:
        """Return the way to the engine; nothing is sent yet."""


@dataclass(frozen=True)
class Fit:
    """What a replica is run with. Engines of fits with an equal `spec` are the same engine."""

    spec: object
    make: EngineMake
    limits: Limits
    back_off: BackOff


class ReplicaListener(Protocol):
    """Who hears of a replica's changes, at once and in order."""

    def replica_changed(self, model: str, name: str, old: ReplicaState, new: ReplicaState) -> None:
        """Hear that the replica `name` of `model` went from `old` to `new`."""

    def replica_stuck(self, model: str, name: str, pid: int) -> None:
        """Hear that processes of the replica outlive SIGKILL; `pid` is its main process."""
