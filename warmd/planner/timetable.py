"""When each rise must begin so that all are ready in time: lined up backwards from the deadlines.

A GPU's lane and the disk take one at a time. What is due last ends last, and of what is due at the
same moment the longest begins first. All times are Unix seconds, all lengths seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from math import inf

from warmd.ladder import Rung
from warmd.policy.lead import Leads, with_margin


@dataclass(frozen=True)
class Rise:
    """One replica that must be on `rung` `by` then. `cards`: where, none where it may be any.

    `leads`: what its rise takes; `under_way`: it has begun, or it is there already; `staged`: the
    same of its files. `index` is its number within its model, `replicas` how many are due with it.
    `room`: seconds that others need to make room for it before it begins, `room_at_most`: those
    that they may have needed.
    """

    replica: str
    model: str
    index: int
    by: float
    rung: Rung
    stands: Rung
    leads: Leads
    cards: frozenset[str] = frozenset()
    replicas: int = 1
    under_way: bool = False
    staged: bool = False
    room: float = 0.0
    room_at_most: float = 0.0

    @property
    def key(self) -> tuple[str, float]:
        """What no other rise has."""
        return self.replica, self.by

    @cached_property
    def takes(self) -> float:
        """Seconds on its cards' lanes, without a margin; 0 where it needs no turn there."""
        return 0.0 if self.under_way else self.leads.rise(self.stands, self.rung)

    @property
    def lane_s(self) -> float:
        """Seconds on its cards' lanes with the room that is made for it first."""
        return self.room + self.takes if self.takes else 0.0

    @cached_property
    def stages(self) -> float:
        """Seconds on the disk's lane, without a margin; 0 where no files need be in RAM for it."""
        return 0.0 if self.stands >= Rung.ASLEEP else self.leads.stage

    @cached_property
    def takes_at_most(self) -> float:
        """Seconds, with a margin, for which it may have been on its way."""
        if self.rung < Rung.ASLEEP:
            return 0.0
        rise = self.leads.start_at_most + self.leads.sleep + self.leads.wake
        return with_margin(self.room_at_most + rise)


@dataclass(frozen=True)
class Slot:
    """From when on a rise is due: on the device and, before that, on the disk.

    What is on its way or has arrived is due from `hold_at` on, or its files from `hold_files_at`:
    the earliest time at which it may have been begun from cold.
    """

    begin_at: float
    stage_at: float
    hold_at: float
    hold_files_at: float


def line_up(rises: Sequence[Rise]) -> dict[tuple[str, float], Slot]:
    """Return the slot of each rise, by its key. Pure: the same rises, the same slots."""
    begins = _device(rises)
    stages = _disk(rises, begins, lambda rise: with_margin(rise.stages))
    holds = _holds(rises)
    files = _disk(rises, holds, lambda rise: with_margin(rise.leads.stage_at_most))
    return {
        rise.key: Slot(
            begins[rise.key],
            stages[rise.model, rise.by],
            holds[rise.key],
            files[rise.model, rise.by],
        )
        for rise in rises
    }


def is_due(rise: Rise, slot: Slot, now: float) -> bool:
    """Whether a rise is to begin at `now`, or goes on since it began in time."""
    if rise.rung < Rung.ASLEEP:
        return are_files_due(rise, slot, now)
    return now >= (slot.hold_at if rise.under_way else slot.begin_at)


def are_files_due(rise: Rise, slot: Slot, now: float) -> bool:
    """Whether what a rise reads belongs in RAM at `now`."""
    return now >= slot.stage_at or (rise.staged and now >= slot.hold_files_at)


class _Lanes:
    """The lanes of the GPUs, filled from their ends."""

    def __init__(self) -> None:
        self._free: dict[str, float] = {}
        self._any = inf  # of what may be on any

    def end(self, cards: Iterable[str], by: float) -> float:
        """Return when something on `cards` must end at the latest."""
        on = list(cards)
        frees = [self._free.get(c, inf) for c in on] if on else [*self._free.values()]
        return min([by, self._any, *frees])

    def take(self, cards: Iterable[str], since: float) -> None:
        """Take `cards` from `since` on; none: all of them."""
        on = list(cards)
        for card in on:
            self._free[card] = since
        if not on:
            self._any = since


def _device(rises: Sequence[Rise]) -> dict[tuple[str, float], float]:
    lanes = _Lanes()
    begins: dict[tuple[str, float], float] = {}
    for rise in sorted(rises, key=lambda each: (-each.by, each.lane_s, each.replica)):
        ends = lanes.end(rise.cards, rise.by) if rise.takes else rise.by
        begins[rise.key] = begin = ends - with_margin(rise.lane_s)
        if rise.takes:
            lanes.take(rise.cards, begin)
    return begins


def _disk(
    rises: Sequence[Rise],
    ends: Mapping[tuple[str, float], float],
    takes: Callable[[Rise], float],
) -> dict[tuple[str, float], float]:
    """Return by model and deadline when its files are to be read, before any of its `ends`."""
    by_model: dict[tuple[str, float], tuple[float, float]] = {}
    for rise in rises:
        end, long = by_model.get((rise.model, rise.by), (inf, 0.0))
        by_model[rise.model, rise.by] = min(end, ends[rise.key]), max(long, takes(rise))
    free = inf
    begins: dict[tuple[str, float], float] = {}
    for job, (end, long) in sorted(
        by_model.items(), key=lambda each: (-each[1][0], each[1][1], each[0])
    ):
        begins[job] = min(end, free) - long if long else end
        if long:
            free = begins[job]
    return begins


def _holds(rises: Sequence[Rise]) -> dict[tuple[str, float], float]:
    """Return how early each may have begun, had all begun cold, on one lane where lanes meet."""
    holds: dict[tuple[str, float], float] = {}
    for together in _neighbours(rises):
        free = inf
        ordered = sorted(together, key=lambda each: -each.by)
        for by, block in groupby(ordered, key=lambda each: each.by):
            same = list(block)
            free = min(by, free) - sum(rise.takes_at_most for rise in same)
            holds |= {rise.key: free for rise in same}
    return holds


def _neighbours(rises: Sequence[Rise]) -> Iterator[list[Rise]]:
    """Yield the rises that share cards, also by way of others; one without cards joins all."""
    if any(not rise.cards for rise in rises):
        yield list(rises)
        return
    groups: list[tuple[set[str], list[Rise]]] = []
    for rise in rises:
        cards, members = set(rise.cards), [rise]
        apart = []
        for group in groups:
            if group[0].isdisjoint(cards):
                apart.append(group)
            else:
                cards |= group[0]
                members += group[1]
        groups = [*apart, (cards, members)]
    for _, members in groups:
        yield members
