"""What a set of files needs of others: who holds it in RAM, and who leads engines to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from warmd.staging import Left, Pace, Request, StagingProgress


class Holding(Protocol):
    """Files that are in RAM and held there; `adopted`: since an earlier daemon.

    `verified`: all that has a digest is what it says.
    """

    adopted: bool
    verified: bool

    async def lost(self) -> str:
        """Return, with a sentence, when they are no longer held.

        Raises `KeeperEndedError` where nothing is held any more at all.
        """

    async def release(self) -> None:
        """Let them go."""


class Keeper(Protocol):
    """Brings sets of files into RAM and holds them there."""

    @property
    def left(self) -> Mapping[str, Left]:
        """What an earlier daemon left held, by key, until it is asked for or let go."""

    async def hold(
        self,
        key: str,
        request: Request,
        pace: Pace,
        on_progress: Callable[[StagingProgress], None],
        on_evicted: Callable[[str], None],
    ) -> Holding:
        """Return when they are there, as far as they can be; raises `StagingError`."""

    def pace(self, key: str, pace: Pace) -> None:
        """Bring in what is on its way at another pace."""


Aim = Callable[[Request, bool], None]
"""Has the files of a request read from their copy, or else from where they are."""
