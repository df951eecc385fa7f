"""What a replica asks of the engine's make, and of those who hear of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import aiohttp

from warmd.devices import Footprint
from warmd.engine.canary import CanaryAnswer
from warmd.engine.failure import Cause
from warmd.ladder import MeasuredParts
from warmd.launch import LaunchSpec
from warmd.policy import BackOff, Counters
from warmd.replica.state import Limits, ReplicaState

Measure = Callable[[int], Awaitable[Footprint | None]]
"""Measures what the process tree below a pid takes of RAM and device; None where it is gone."""


GivesBack = Callable[[str], Awaitable[str | None]]
"""Waits until a replica's ended engine has given its VRAM back; says what it keeps, where it does.

Returns within `FREED_S`.
"""


class EngineConnection(Protocol):
    """The way to one engine that listens. What fails raises `EngineError` with a sentence."""

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session for requests of warmd's own."""

    @property
    def socket(self) -> str:
        """The path of the unix socket on which it listens, for users' requests."""

    async def listening(self) -> bool:
        """Whether the engine answers at all."""

    async def warm_up(self) -> float:
        """Get one real answer of the model and of each adapter.

        Returns the seconds to the first token of the model's own.
        """

    async def counters(self, within_s: float) -> Counters | None:
        """Return what the engine has counted; None where it doesn't answer in time."""

    async def queued(self, within_s: float) -> int | None:
        """Return how many requests wait inside it; None where it doesn't tell in time."""

    async def canary(self) -> CanaryAnswer:
        """Ask what a sound engine always answers in the same way."""

    async def sleep(self, level: int) -> None:
        """Put it to sleep, and see that it sleeps."""

    async def wake(self, level: int) -> None:
        """Wake it from a sleep of `level`, and see that it is awake."""

    async def sleeping(self) -> bool:
        """Whether it sleeps, by its own word."""

    async def version(self) -> str | None:
        """Return vLLM's version; None where it doesn't tell."""

    async def serves(self) -> tuple[str, ...]:
        """Return the names that it answers to."""

    async def close(self) -> None:
        """Let go of every connection."""


class EngineMake(Protocol):
    """What a replica needs to know of its engine's make: its files, its log, its address."""

    async def prepare(self) -> LaunchSpec:
        """Make the engine's folder fresh and say what to run; raises `EngineError`."""

    def resume(self, pid: int) -> None:
        """Go on with the log of an engine that runs already; `pid` is its main process."""

    def log(self, line: str) -> None:
        """Keep a line of the engine's output."""

    def came_up(self) -> None:
        """Hear that it is ready: what it printed before explains no later failure."""

    def ended(self, *, failed: bool) -> None:
        """Hear that the engine has ended, or is left: let go of its log's file."""

    def cause(self, ending: str) -> Cause:
        """Say from its log, without its secrets, why an engine that `ending` failed."""

    @property
    def measured(self) -> MeasuredParts | None:
        """What the start that got ready told of its sizes; None where it told nothing."""

    @property
    def compiled_in(self) -> tuple[Path, ...]:
        """The folders of compiled code that its last start named."""

    def connect(self) -> EngineConnection:
        """Return the way to the engine; nothing is sent yet."""

    def fingerprint(self) -> str:
        """Name everything that makes the engine what it is: equal where it is the same engine."""

    def note(self, record: Mapping[str, object]) -> None:
        """Write down, beside the engine's files, what a later daemon must know of it."""

    def noted(self) -> Mapping[str, object] | None:
        """Return what was written down; None where there is nothing, or nothing sound."""


@dataclass(frozen=True)
class SleepTerms:
    """How an engine sleeps. `slowest`: the share of its former speed that it must still have.

    `frees`: its sleep gives VRAM back, and isn't only played.
    """

    level: int = 1
    slowest: float = 0.3
    frees: bool = True


@dataclass(frozen=True)
class Fit:
    """What a replica is run with.

    `sleep` None: its engine can't be put to sleep. `outlives`: the engine lives on when the daemon
    ends. `cards`: the keys of the devices that it uses, none where it may be any. `gpus`: those to
    which it is bound, by UUID; None where the driver doesn't tell of any. `roams`: the GPUs of its
    pool on which an engine that runs may go on. `figure`: how its VRAM
    was reckoned, for the daemon that takes it over; None where the config states it. `asks_queue`:
    how often its engine is asked how many requests wait inside, in seconds; None: never.
    """

    spec: object
    make: EngineMake
    limits: Limits
    back_off: BackOff
    sleep: SleepTerms | None = None
    outlives: bool = False
    cards: frozenset[str] = frozenset()
    gpus: tuple[str, ...] | None = ()
    roams: frozenset[str] = frozenset()
    figure: Mapping[str, object] | None = None
    asks_queue: float | None = None

    def is_kept_under(self, new: Fit) -> bool:
        """Whether an engine of this fit goes on under `new`; a driver that is silent moves none."""
        return self is new or (self.spec == new.spec and new.keeps(self.gpus))

    def keeps(self, gpus: tuple[str, ...] | None) -> bool:
        """Whether an engine that is bound to `gpus` may go on there."""
        if self.gpus is None or gpus == self.gpus:
            return True
        return bool(gpus) and self.roams.issuperset(gpus or ())

    def on(self, gpus: tuple[str, ...]) -> Fit:
        """Return the fit of an engine that runs on these GPUs, where any are told.

        Also where the driver tells nothing now: the next daemon must still know where it runs.
        """
        if not gpus or gpus == self.gpus:
            return self
        return replace(self, cards=frozenset(gpus), gpus=gpus)


class ReplicaListener(Protocol):
    """Who hears of a replica's changes, at once and in order."""

    def replica_changed(self, model: str, name: str, old: ReplicaState, new: ReplicaState) -> None:
        """Hear that the replica `name` of `model` went from `old` to `new`."""

    def replica_stuck(self, model: str, name: str, pid: int) -> None:
        """Hear that processes of the replica outlive SIGKILL; `pid` is its main process."""

    def replica_unproven(self, model: str, name: str, why: str) -> None:
        """Hear that the replica's weights must be verified before it loads them; `why` says it."""

    def replica_kept(self, model: str, name: str, kept: str) -> None:
        """Hear that the replica's engine has ended and its VRAM isn't back; `kept` says it."""
