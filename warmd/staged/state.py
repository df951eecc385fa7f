"""How much of one set of files is in RAM, as its keeper has it."""

from __future__ import annotations

from dataclasses import dataclass

from warmd.ladder import Place
from warmd.staging import FIRST


@dataclass(frozen=True)
class StagedState:
    """How much of a set is in RAM, in bytes. Times are monotonic seconds.

    `held`: all of it is resident by measurement, and held. `partial`: it is held, and not all is
    there: as `limit` says, or for `problem`. `unverified`: why they don't count as verified;
    `refused`: they were verified and aren't what they shall be. `took`: seconds that bringing it in
    took, None where nothing was brought in. `rated`: a rate is set for what nobody waits for.
    """

    total: int | None = None  # None until the files have been looked at
    done: int = 0
    busy: bool = False
    held: bool = False
    reason: str = ""
    problem: str | None = None
    retry_at: float | None = None
    partial: bool = False
    limit: int | None = None
    resident: int = 0
    paused: str | None = None
    urgent: bool = True
    place: Place = Place.PAGE_CACHE
    unverified: str | None = FIRST
    refused: bool = False
    took: float | None = None
    rated: bool = False

    @property
    def taken(self) -> int:
        """The bytes that are held, or on their way."""
        if not (self.busy or self.held or self.partial):
            return 0
        total = self.total or 0
        return total if self.limit is None else min(total, self.limit)

    @property
    def gone(self) -> int:
        """What of them the kernel no longer counts as available."""
        if self.place is Place.PAGE_CACHE:
            return 0
        return min(self.taken, self.done) if self.busy else self.taken
