"""One card as the last look found it, and what engines and strangers have of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from warmd.spoken import size

LOOK_LASTS_S = 15.0
"""So long after it a look tells what a card holds: processes come without asking us."""


@dataclass(frozen=True)
class Stranger:
    """A process on a card that is of no engine that is up; `who` names it. `held` in bytes."""

    who: str
    held: int


@dataclass(frozen=True)
class CardFacts:
    """One card, as the last look found it. Sizes in bytes, times in monotonic seconds.

    `used` is what everybody holds, the driver too; `ours` what each replica holds of it. `swept_at`
    is when that look began, `moved_at` when the last operation on the card ended. `trouble` says
    why nobody can tell, `quarantine` why it is out of service. `named`: `foreign` names those who
    hold most of it, which is always so on a GPU.
    """

    key: str
    words: str  # how it is called, such as `GPU 0`
    total: int
    headroom: int
    used: int = 0
    ours: Mapping[str, int] = field(default_factory=dict)
    foreign: tuple[Stranger, ...] = ()
    swept_at: float = -math.inf
    moved_at: float = -math.inf
    trouble: str | None = None
    quarantine: str | None = None
    named: bool = True

    @property
    def doubt(self) -> str | None:
        """Why nobody can tell what a card in service holds."""
        return None if self.quarantine is not None else self.trouble

    @property
    def free(self) -> int:
        """What nobody holds."""
        return max(0, self.total - self.used)

    def taken(self, engines: Iterable[Claim]) -> int:
        """What is not for a newcomer beside `engines`."""
        promised, unpromised = 0, sum(stranger.held for stranger in self.foreign)
        for claim in engines:
            promised += claim.promised
            unpromised += claim.bytes - claim.promised
        return promised + max(self.headroom, unpromised)

    def is_known(self, now: float, lasts: float = LOOK_LASTS_S) -> bool:
        """Whether the last look, which `lasts` so many seconds, still tells what the card holds."""
        if self.trouble is not None or self.swept_at < self.moved_at:
            return False
        if self.swept_at == -math.inf:
            return False  # nobody has ever looked
        return now - self.swept_at <= lasts


@dataclass(frozen=True)
class Claim:
    """What one engine has of a card; bytes."""

    replica: str
    pool: str | None
    promised: int
    held: int
    sleeps: bool = False

    @property
    def bytes(self) -> int:
        """What it is promised, or holds where that is more."""
        return max(self.promised, self.held)

    @property
    def said(self) -> str:
        """The claim in words: `a.0 reserves 4.0 GiB`."""
        verb = "keeps" if self.sleeps else "reserves"
        if self.held > self.promised:
            verb = "holds"
        return f"{self.replica} {verb} {size(self.bytes)}"
