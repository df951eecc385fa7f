"""When rises that were lined up will be ready, and what is in the way of those that will be late.

Who makes room is as `planner/room` decides it: a calendar moves, without a request, only what
rests. All times are Unix seconds, all lengths seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf

from warmd.ladder import share_a_card
from warmd.planner.making_room import Lodger, room_after
from warmd.planner.timetable import Rise, Slot
from warmd.policy.estimate import STOP_S

Key = tuple[str, float]


class Late(StrEnum):
    """Why something is not ready in time."""

    LANE = "lane"  # others have their turn on its GPUs, or on the disk, or it is too late to begin
    ROOM = "room"  # its pool is full until somebody goes
    NO_ROOM = "no-room"  # its pool is full for as long as it is wanted
    CLOSED = "closed"  # it is wanted no longer before it would be ready
    HELD = "held"  # something else keeps it from beginning, and nobody knows for how long


@dataclass(frozen=True)
class Stay:
    """Who has `vram` bytes of a pool on each of some cards, and for how long.

    `yields`: it only rests there, and makes room for what others want; `moves`: its calendar or an
    operator wants it, and so moves who rests; `used`: somebody asks for it now, at least until
    `until`; `aside_s`: what putting it aside takes.
    """

    replica: str
    model: str
    pool: str
    vram: int
    cards: frozenset[str]
    since: float
    until: float
    yields: bool = False
    moves: bool = False
    used: bool = False
    aside_s: float = STOP_S

    def is_there(self, at: float) -> bool:
        """Whether it has its room at `at`: a while is needed to go."""
        return self.since <= at < self.until + STOP_S


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
class Aside:
    """A stay that ends `at`, for it makes room for the replica of `want`. `back`: it rises then."""

    stay: Stay
    at: float
    want: Stay
    back: Rise | None


@dataclass(frozen=True)
class Rooms:
    """The pools' VRAM, in bytes on each card; who is up already; the stay that each rise begins.

    A rise without one needs no room. `back`: how each replica rises again that is put aside.
    """

    pools: Mapping[str, int] = field(default_factory=dict)
    stays: Sequence[Stay] = ()
    wants: Mapping[Key, Stay] = field(default_factory=dict)
    back: Mapping[str, Rise] = field(default_factory=dict)

    def with_room_made(self, rise: Rise) -> Rise:
        """Return a rise with the time that others need to make room for it first."""
        want = self.wants.get(rise.key)
        if want is None or want.pool not in self.pools or not rise.takes:
            return rise
        firm = [w for key, w in self.wants.items() if key[1] <= rise.by < w.until]
        there = [
            Lodger(s.replica, s.vram, s.cards, s.aside_s if s.yields else None)
            for s in (*self.stays, *firm)
            if s.pool == want.pool and s.since <= rise.by < s.until
        ]
        # Of one replica the later counts: a calendar's want goes before its rest.
        others = {lodger.replica: lodger for lodger in there}
        newcomer = Lodger(rise.replica, want.vram, want.cards)
        return replace(rise, room=room_after(self.pools[want.pool], newcomer, others.values()))


@dataclass(frozen=True)
class Now:
    """What is so at this moment.

    `busy`: cards, and until when operations have them; `begun`: when rises that are under way began
    and will be ready; `not_before`: when others are tried again; `held`: those that can't begin,
    or have begun and failed before, so that nobody knows when they are ready;
    `timeless`: those that are due by no time, and never late; `closes`: when others are wanted no
    longer, and are called off.
    """

    at: float
    busy: Sequence[tuple[frozenset[str], float]] = ()
    begun: Mapping[Key, tuple[float, float]] = field(default_factory=dict)
    not_before: Mapping[Key, float] = field(default_factory=dict)
    held: frozenset[Key] = frozenset()
    timeless: frozenset[Key] = frozenset()
    closes: Mapping[Key, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Forecast:
    """What comes of each rise, and who makes room meanwhile; `outcomes` also of who comes back."""

    outcomes: Mapping[Key, Outcome]
    asides: Sequence[Aside] = ()


def forecast(rises: Sequence[Rise], slots: Mapping[Key, Slot], rooms: Rooms, now: Now) -> Forecast:
    """Play the lanes from `now` on, where everything takes as long as was measured."""
    play = _Play(slots, rooms, now)
    return Forecast(play.of(rises), play.asides)


class _Play:
    def __init__(self, slots: Mapping[Key, Slot], rooms: Rooms, now: Now) -> None:
        self._slots = slots
        self._wants = dict(rooms.wants)
        self._pools = rooms.pools
        self._back = rooms.back
        self._now = now
        self._stays: dict[str, list[Stay]] = {}
        for stay in rooms.stays:
            self._stays.setdefault(stay.pool, []).append(stay)
        self._taken = list(now.busy)  # cards, and until when
        self._timeless = set(now.timeless)
        self.asides: list[Aside] = []
        self._heap: list[tuple[float, bool, float, str, float, Rise]] = []

    def of(self, rises: Sequence[Rise]) -> dict[Key, Outcome]:
        staged = self._staged(rises)
        found: dict[Key, Outcome] = {}
        for rise in rises:
            files = staged.get((rise.model, rise.by), -inf)
            if rise.key in self._now.begun:
                begin, ready = self._now.begun[rise.key]
                self._settle(rise)
                found[rise.key] = self._outcome(rise, begin, ready)
                if rise.key in self._now.held:
                    found[rise.key] = Outcome(begin, inf, Late.HELD)
            elif rise.takes:
                due = self._slots[rise.key].begin_at
                held = self._now.not_before.get(rise.key, -inf)
                self._push(rise, max(due, self._now.at, files, held), due)
            else:
                begin = max(self._slots[rise.key].stage_at, self._now.at)
                found[rise.key] = self._outcome(rise, begin, max(rise.by, files, begin))
                if rise.key in self._now.held:
                    found[rise.key] = Outcome(inf, inf, Late.HELD)
        while self._heap:
            at, _, due, _, _, rise = heapq.heappop(self._heap)
            self._forget(rise, at)
            lane = self._lane(rise, at)
            begin, behind, aside = self._room(rise, lane)
            if begin == inf:
                found[rise.key] = Outcome(inf, inf, Late.NO_ROOM, behind)
            elif begin >= self._now.closes.get(rise.key, inf):
                found[rise.key] = Outcome(begin, inf, Late.CLOSED, behind)
            elif begin > at:
                self._push(rise, begin, due)
                if behind:
                    found[rise.key] = Outcome(begin, inf, Late.ROOM, behind)
            elif rise.key in self._now.held and at <= self._now.at and not aside:
                found[rise.key] = Outcome(inf, inf, Late.HELD)
            else:
                found[rise.key] = self._begun(rise, begin, found.get(rise.key), aside)
        return found

    def _push(self, rise: Rise, at: float, due: float) -> None:
        want = self._wants.get(rise.key)
        only_rests = want is not None and not want.moves  # in the same moment it goes last
        heapq.heappush(self._heap, (at, only_rests, due, rise.replica, rise.by, rise))

    def _settle(self, rise: Rise) -> None:
        want = self._wants.get(rise.key)
        if want is not None:
            self._stays.setdefault(want.pool, []).append(replace(want, since=self._now.at))

    def _begun(
        self, rise: Rise, begin: float, waited: Outcome | None, aside: Sequence[Stay]
    ) -> Outcome:
        ready = begin + sum(stay.aside_s for stay in aside) + rise.takes
        closes = self._now.closes.get(rise.key, inf)
        self._taken.append((rise.cards, min(ready, closes + STOP_S)))
        want = self._wants.get(rise.key)
        if want is not None:
            self._stays.setdefault(want.pool, []).append(replace(want, since=begin))
            for stay in aside:
                self._put_aside(stay, begin, want)
        outcome = self._outcome(rise, begin, ready)
        if waited is None or outcome.late is Late.CLOSED:
            return outcome
        return replace(outcome, late=outcome.late and Late.ROOM, behind=waited.behind)

    def _put_aside(self, stay: Stay, at: float, want: Stay) -> None:
        """Let a stay end, and its replica rise again once that for which it went is over."""
        self._stays[stay.pool].remove(stay)
        again, back = want.until + STOP_S, self._back.get(stay.replica)
        if back is not None and again < stay.until:
            back = replace(back, by=again)
            self._wants[back.key] = replace(stay, since=again)
            self._timeless.add(back.key)
            self._push(back, again, again)
        else:
            back = None
        self.asides.append(Aside(stay, at, want, back))

    def _staged(self, rises: Sequence[Rise]) -> dict[Key, float]:
        """Return by model and deadline when its files are in RAM."""
        jobs = {
            (r.model, r.by): (self._slots[r.key].stage_at, r.stages)
            for r in rises
            if r.stages and not r.staged and r.key not in self._now.begun
        }
        free, done = self._now.at, {}
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

    def _room(self, rise: Rise, at: float) -> tuple[float, tuple[Stay, ...], tuple[Stay, ...]]:
        """Return from when on there is room for it, who has it until then, and who goes for it."""
        want = self._wants.get(rise.key)
        if want is None or want.pool not in self._pools:
            return at, (), ()
        left = self._pools[want.pool] - want.vram
        behind: tuple[Stay, ...] = ()
        while True:
            here = [
                each
                for each in self._stays.get(want.pool, ())
                if each.replica != rise.replica
                and each.is_there(at)
                and share_a_card(each.cards, want.cards)
            ]
            firm = [each for each in here if not (each.yields and want.moves)]
            stay_put = {each.replica for each in firm}
            rest = [each for each in here if each.replica not in stay_put]
            if _most(firm, want) <= left:
                return at, behind, tuple(_victims(firm, rest, want, left))
            behind = tuple(firm)
            at = min(each.until for each in firm) + STOP_S
            if at >= want.until:
                return inf, behind, ()

    def _outcome(self, rise: Rise, begin: float, ready: float) -> Outcome:
        if ready >= self._now.closes.get(rise.key, inf):
            return Outcome(begin, inf, Late.CLOSED)
        timely = rise.key in self._timeless or ready <= rise.by + _PUNCTUAL_S
        return Outcome(begin, ready, None if timely else Late.LANE)


def _most(stays: Sequence[Stay], want: Stay) -> int:
    """Return what is taken on that card of `want` on which most is; no replica counts twice."""
    by_replica = {each.replica: each for each in stays}.values()
    return max(
        sum(s.vram for s in by_replica if not (s.cards and card) or card in s.cards)
        for card in want.cards or {""}
    )


def _victims(firm: Sequence[Stay], rest: Sequence[Stay], want: Stay, left: int) -> list[Stay]:
    """Return who of those that rest goes: one that is enough by itself before several."""
    gone: list[Stay] = []
    staying = list(rest)
    while staying and (lacking := _most([*firm, *staying], want) - left) > 0:
        first = min(staying, key=lambda each: (each.vram < lacking, each.replica))
        staying.remove(first)
        gone.append(first)
    return gone


_PUNCTUAL_S = 1.0
"""Less than this nobody calls late."""
