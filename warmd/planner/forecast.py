"""When rises that were lined up will be ready, and what is in the way of those that will be late.

All times are Unix seconds, all lengths seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf

from warmd.ladder import share_a_card
from warmd.planner.timetable import Rise, Slot
from warmd.policy.estimate import STOP_S

Key = tuple[str, float]


class Late(StrEnum):
    """Why something is not ready in time."""

    LANE = "lane"  # others have their turn on its GPUs, or on the disk, or it is too late to begin
    ROOM = "room"  # its pool is full until somebody goes
    NO_ROOM = "no-room"  # its pool is full for as long as it is wanted


@dataclass(frozen=True)
class Stay:
    """Who has `vram` bytes of a pool on each of some cards, and for how long.

    `yields`: it only rests there, and makes room for what a calendar wants.
    """

    replica: str
    model: str
    pool: str
    vram: int
    cards: frozenset[str]
    since: float
    until: float
    yields: bool = False


@dataclass(frozen=True)
class Outcome:
    """When a rise begins and is ready, infinite where never. `late`: why it isn't in time.

    `behind`: whose stay it waits for, or lacks room beside; no replica of its own model.
    """

    begin_at: float
    ready_at: float
    late: Late | None = None
    behind: tuple[Stay, ...] = ()


@dataclass(frozen=True)
class Rooms:
    """The pools' VRAM, in bytes on each card; who is up already; the stay that each rise begins.

    A rise without one needs no room.
    """

    pools: Mapping[str, int] = field(default_factory=dict)
    stays: Sequence[Stay] = ()
    wants: Mapping[Key, Stay] = field(default_factory=dict)


def forecast(
    rises: Sequence[Rise], slots: Mapping[Key, Slot], rooms: Rooms, now: float
) -> dict[Key, Outcome]:
    """Play the lanes from `now` on, where everything takes as long as was measured."""
    return _Play(slots, rooms, now).of(rises)


class _Play:
    def __init__(self, slots: Mapping[Key, Slot], rooms: Rooms, now: float) -> None:
        self._slots = slots
        self._wants = rooms.wants
        self._pools = rooms.pools
        self._now = now
        self._stays: dict[str, list[Stay]] = {}
        for stay in rooms.stays:
            self._stays.setdefault(stay.pool, []).append(stay)
        self._taken: list[tuple[frozenset[str], float]] = []  # cards, and until when

    def of(self, rises: Sequence[Rise]) -> dict[Key, Outcome]:
        staged = self._staged(rises)
        found: dict[Key, Outcome] = {}
        heap: list[tuple[float, float, str, int]] = []
        for n, rise in enumerate(rises):
            files = staged.get((rise.model, rise.by), -inf)
            if rise.takes:
                first = max(self._slots[rise.key].begin_at, self._now, files)
                heap.append((first, self._slots[rise.key].begin_at, rise.replica, n))
            else:
                begin = self._slots[rise.key].stage_at
                found[rise.key] = _outcome(rise, max(begin, self._now), max(rise.by, files))
        heapq.heapify(heap)
        while heap:
            at, due, name, n = heapq.heappop(heap)
            rise = rises[n]
            self._forget(rise, at)
            begin, behind = self._room(rise, self._lane(rise, at))
            if begin == inf:
                found[rise.key] = Outcome(inf, inf, Late.NO_ROOM, behind)
            elif begin > at:
                heapq.heappush(heap, (begin, due, name, n))
                if behind:
                    found[rise.key] = Outcome(begin, inf, Late.ROOM, behind)
            else:
                found[rise.key] = self._begun(rise, begin, found.get(rise.key))
        return found

    def _begun(self, rise: Rise, begin: float, waited: Outcome | None) -> Outcome:
        ready = begin + rise.takes
        self._taken.append((rise.cards, ready))
        want = self._wants.get(rise.key)
        if want is not None:
            self._stays.setdefault(want.pool, []).append(replace(want, since=begin))
        outcome = _outcome(rise, begin, ready)
        if outcome.late is not None and waited is not None:
            return Outcome(begin, ready, Late.ROOM, waited.behind)
        return outcome

    def _staged(self, rises: Sequence[Rise]) -> dict[Key, float]:
        """Return by model and deadline when its files are in RAM."""
        jobs = {
            (r.model, r.by): (self._slots[r.key].stage_at, r.stages)
            for r in rises
            if r.stages and not r.staged
        }
        free, done = self._now, {}
        for job, (at, long) in sorted(jobs.items(), key=lambda each: (each[1][0], each[0])):
            free = done[job] = max(at, free) + long
        return done

    def _forget(self, rise: Rise, at: float) -> None:
        """Drop the stays in its pool that are over: nothing is asked of earlier times any more."""
        want = self._wants.get(rise.key)
        if want is not None and (stays := self._stays.get(want.pool)):
            self._stays[want.pool] = [each for each in stays if each.until + STOP_S > at]

    def _lane(self, rise: Rise, at: float) -> float:
        """Return from when on its cards' lanes are free."""
        self._taken = [each for each in self._taken if each[1] > at]
        return max([at, *(end for on, end in self._taken if share_a_card(on, rise.cards))])

    def _room(self, rise: Rise, at: float) -> tuple[float, tuple[Stay, ...]]:
        """Return from when on there is room for it, and who has it until then."""
        want = self._wants.get(rise.key)
        if want is None or want.pool not in self._pools:
            return at, ()
        left = self._pools[want.pool] - want.vram
        behind: tuple[Stay, ...] = ()
        while True:
            here = [
                each
                for each in self._stays.get(want.pool, ())
                if not (each.yields or each.replica == rise.replica)
                and each.since <= at < each.until + STOP_S
                and share_a_card(each.cards, want.cards)
            ]
            taken = [
                sum(s.vram for s in here if not (s.cards and card) or card in s.cards)
                for card in want.cards or {""}
            ]
            if max(taken) <= left:
                return at, behind
            behind = tuple(here)
            at = min(each.until for each in here) + STOP_S
            if at >= want.until:
                return inf, behind


def _outcome(rise: Rise, begin: float, ready: float) -> Outcome:
    return Outcome(begin, ready, Late.LANE if ready > rise.by + _PUNCTUAL_S else None)


_PUNCTUAL_S = 1.0
"""Less than this nobody calls late."""
