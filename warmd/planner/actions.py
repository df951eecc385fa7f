"""What the planner may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StageFiles:
    """Bring a set of files into RAM and hold it; `key` is that of `ladder.set_key`.

    `limit`: so many bytes of it at most, in load order; None: all. `urgent`: at full speed.
    """

    key: str
    reason: str
    limit: int | None = None
    urgent: bool = True


@dataclass(frozen=True)
class ReleaseFiles:
    """Stop holding a set of files, or stop bringing it in.

    `short`: memory is short, so it isn't brought back at once.
    """

    key: str
    reason: str
    short: bool = False


@dataclass(frozen=True)
class PaceFiles:
    """Bring in at full speed from now on what is being staged, or in the background."""

    key: str
    urgent: bool


@dataclass(frozen=True)
class LookAtFiles:
    """See whether files that couldn't be staged are others by now."""

    key: str


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

Action = Operation | StageFiles | ReleaseFiles | PaceFiles | LookAtFiles | LookAtCards
