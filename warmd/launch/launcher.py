"""What every launcher promises, however it runs a process tree."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

LogLine = Callable[[float, str], None]
"""Takes each line of an engine's output: arrival (`time.monotonic()`, seconds) and its text."""


@dataclass(frozen=True)
class LaunchSpec:
    """A program to run: exactly this argv and exactly this environment, no shell."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)  # it may hold secrets
    cwd: Path


@dataclass(frozen=True)
class EngineExit:
    """How an engine's main process ended. `status` is None where a signal ended it."""

    status: int | None
    signal: int | None = None
    asked_for: bool = False

    @property
    def sentence(self) -> str:
        """Say it for an operator: `exited with status 1`, `was killed by SIGKILL`."""
        if self.signal is not None:
            return f"was killed by {signal.Signals(self.signal).name}"
        return f"exited with status {self.status}"


@dataclass(frozen=True, order=True)
class Leftover:
    """A process that was killed: its number and the engine it belonged to."""

    pid: int
    name: str


class LaunchError(Exception):
    """A program could not be started. The text is one sentence: what, why, what to do."""


class RunningEngine(Protocol):
    """One process tree that was started."""

    @property
    def name(self) -> str:
        """The name it was launched under."""

    @property
    def pid(self) -> int:
        """The main process."""

    @property
    def exec_at(self) -> float:
        """When the program was exec'ed, in seconds of `time.monotonic()`."""

    @property
    def identity(self) -> str:
        """What tells its main process from every other, earlier or later: for `Launcher.find`."""

    async def main_ended(self) -> None:
        """Return as soon as the main process has ended; others of its tree may live on."""

    async def wait(self) -> EngineExit:
        """Return once the main process has ended AND no process of its tree is left."""

    async def stop(self, grace_s: float) -> EngineExit:
        """SIGTERM, then SIGKILL to the whole tree after `grace_s`; return when nothing is left."""

    async def leave(self) -> None:
        """Let go of it without stopping it, for a later daemon to find.

        Whoever waits for its end is cancelled. Raises `LaunchError` where no engine can be left.
        """


class Launcher(Protocol):
    """Starts process trees and ends them whole."""

    async def start(self, spec: LaunchSpec, on_line: LogLine) -> RunningEngine:
        """Start `spec`; raises `LaunchError`. Every line it prints goes to `on_line`."""

    async def find(self, name: str, identity: str, on_line: LogLine) -> RunningEngine | None:
        """Take over the engine `name` that an earlier daemon left, where it has that `identity`.

        None where nobody vouches for such an engine: end what may be left of it before its next
        start. Raises `LaunchError` where another daemon that lives has it.
        """

    async def end_leftovers(self, name: str) -> None:
        """End what an earlier daemon left of the engine `name`; raises `LaunchError`."""

    async def close(self) -> None:
        """End every process tree that still runs and was not left, and what they needed."""


class HostLauncher(Launcher, Protocol):
    """A launcher as the daemon opens it, before anything is started."""

    async def open(self) -> None:
        """Get ready, so that the first start is quick; raises `LaunchError`."""

    async def sweep(self, spare: Collection[str]) -> Sequence[Leftover]:
        """End what earlier daemons left, but for the engines to `spare`; raises `LaunchError`.

        Returns what was killed.
        """
