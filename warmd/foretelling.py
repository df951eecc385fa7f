"""From calendars to what they move: each model's rises, played forward, and what comes of them.

Pure. All times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf, isinf

from warmd.ladder import Rung, replica_name
from warmd.parties import Move, Party, Span
from warmd.planner.forecast import Aside, Key, Late, Now, Outcome, Rooms, Stay, forecast
from warmd.planner.timetable import Rise, Slot, line_up
from warmd.policy.estimate import STOP_S
from warmd.shortfalls import NOT_WITHIN, Shortfall, beside
from warmd.supervisor import Standing

_SOON_S = 600.0
"""What is up now for a moment that is nearer than this is up for it."""


@dataclass
class Foretold:
    """What comes of `spans`, as they would be if nothing took time or room, from `now` on."""

    parties: Sequence[Party]
    spans: Mapping[str, Sequence[Span]]
    pools: Mapping[str, int]
    now: float
    end: float
    rises: list[Rise] = field(default_factory=list)
    wants: dict[Key, Stay] = field(default_factory=dict)
    stays: list[Stay] = field(default_factory=list)
    begun: dict[Key, tuple[float, float]] = field(default_factory=dict)
    not_before: dict[Key, float] = field(default_factory=dict)
    held: dict[Key, str] = field(default_factory=dict)
    timeless: set[Key] = field(default_factory=set)
    closes: dict[Key, float] = field(default_factory=dict)
    overdue: dict[str, list[Rise]] = field(default_factory=dict)  # what shall be there already

    def __post_init__(self) -> None:
        busy: dict[str, tuple[frozenset[str], float]] = {}
        for party in self.parties:
            busy |= dict(self._is_there(party))
            first = self.spans[party.name][0]
            if party.presence is None:
                self._stay(party, first)
            else:
                self._begin(party, first)
            for before, after in pairwise(self.spans[party.name]):
                self._rise(party, before, after)
        rooms = Rooms(self.pools, self.stays, self.wants, self._ways_back())
        self.slots = line_up(
            [
                rooms.with_room_made(rise)
                for rise in self.rises
                if rise.key not in self.timeless and rise.by > self.now
            ]
        )
        for rise in self.rises:
            self.slots.setdefault(rise.key, Slot(rise.by, rise.by, rise.by, rise.by))
        now = Now(
            self.now,
            [*self._busy(busy)],
            self.begun,
            self.not_before,
            frozenset(key for key in self.held if self._is_held(key)),
            frozenset(self.timeless),
            self.closes,
        )
        found = forecast(self.rises, self.slots, rooms, now)
        self.outcomes, self.asides = found.outcomes, found.asides

    def _is_held(self, key: Key) -> bool:
        return key in self.begun or self.slots[key].begin_at <= self.now

    def _is_there(self, party: Party) -> Iterator[tuple[str, tuple[frozenset[str], float]]]:
        """Note who is asked for; yield by replica the cards that are busy, and until when."""
        if party.presence is None:
            return
        used_until = party.presence.used_until
        for index, stands in enumerate(party.presence.replicas[: len(party.cards)]):
            if stands.free_at > self.now:
                yield replica_name(party.name, index), (party.cards[index], stands.free_at)
            if stands.awake and used_until > self.now and party.pool is not None:
                stay = self._room_of(party, index, self.now, used_until)
                self.stays.append(replace(stay, used=True))

    def _busy(
        self, busy: Mapping[str, tuple[frozenset[str], float]]
    ) -> Iterator[tuple[frozenset[str], float]]:
        """Yield the cards that are busy; a rise is called off once nobody wants it any more."""
        for replica, (cards, free_at) in busy.items():
            closes = [self.closes.get(key, inf) for key in self.begun if key[0] == replica]
            yield cards, min(free_at, max(closes, default=inf) + STOP_S)

    def _ways_back(self) -> dict[str, Rise]:
        """Return how each replica rises again that was put aside, `by` left open."""
        found = {}
        for party in self.parties:
            stands = _aside_rung(party)
            for index, cards in enumerate(party.cards):
                name = replica_name(party.name, index)
                found[name] = Rise(
                    name, party.name, index, inf, Rung.HOT, stands, party.leads, cards, staged=True
                )
        return found

    def _until(self, party: Party, index: int, span: Span) -> float:
        """Return until when a replica that is hot in `span` stays so."""
        until = span.until
        for later in self.spans[party.name]:
            if later.since == until and _is_same_stay(index, span, later):
                until = later.until
        return until

    def _closes(self, party: Party, index: int, span: Span) -> float:
        """Return when what a calendar wants of a replica is wanted no longer by anybody."""
        if span.by != "calendar" or span.rung < Rung.ASLEEP:
            return inf
        until = span.until
        for later in self.spans[party.name]:
            if later.since == until and later.rung >= span.rung and later.replicas > index:
                until = later.until
        return max(until, _used_until(party))

    def _room_of(self, party: Party, index: int, since: float, until: float) -> Stay:
        name, cards = replica_name(party.name, index), party.cards[index]
        pool, aside_s = party.pool or "", party.leads.aside
        return Stay(name, party.name, pool, party.vram, cards, since, until, aside_s=aside_s)

    def _lodging(self, party: Party, index: int, span: Span) -> Stay | None:
        if party.pool is None or span.rung is not Rung.HOT:
            return None
        stay = self._room_of(party, index, span.since, self._until(party, index, span))
        yields = span.rests and not party.pinned
        return replace(stay, yields=yields, moves=span.by in ("calendar", "operator"))

    def _stay(self, party: Party, span: Span) -> None:
        for index in range(min(span.replicas, len(party.cards))):
            if (stay := self._lodging(party, index, span)) is not None:
                self.stays.append(stay)

    def _begin(self, party: Party, span: Span) -> None:
        """Take what is from what is: what shall be there by now and isn't is overdue."""
        began = party.calendar.at(self.now).began
        timely = span.by == "calendar" and not isinf(began)
        for index in _those_up(party, span):
            stands = _standing(party, index)
            # What starts or wakes stands lower than hot as long, and for that only is it late.
            if stands.rung >= span.rung and (stands.ready_at is None or span.rung < Rung.HOT):
                if (stay := self._lodging(party, index, span)) is not None:
                    self.stays.append(stay)
                continue
            rise = self._add(party, index, began if timely else self.now, span, stands.rung)
            if not timely:
                self.timeless.add(rise.key)
            self.overdue.setdefault(party.name, []).append(rise)
            self._as_it_is(party, stands, rise)

    def _as_it_is(self, party: Party, stands: Standing, rise: Rise) -> None:
        """Note of the next rise of a replica what is so of it at this moment."""
        presence = party.presence
        if stands.ready_at is not None and stands.began_at is not None:
            self.begun[rise.key] = stands.began_at, max(stands.ready_at, self.now)
            if stands.trouble is not None:
                self.held[rise.key] = f"it is {stands.doing}, and failed before: {stands.trouble}"
        elif stands.given_up:
            self.held[rise.key] = f"it was given up: {stands.trouble}"
        elif stands.retry_at > self.now:
            self.not_before[rise.key] = stands.retry_at
        elif presence is not None and presence.held_up is not None:
            self.held[rise.key] = presence.held_up
        if stands.trouble is not None and rise.key in self.wants:
            self.wants[rise.key] = replace(self.wants[rise.key], moves=False)

    def _add(self, party: Party, index: int, by: float, span: Span, stands: Rung) -> Rise:
        name, cards = replica_name(party.name, index), party.cards[index]
        staged = stands is Rung.STAGED
        rise = Rise(
            name, party.name, index, by, span.rung, stands, party.leads, cards, staged=staged
        )
        self.rises.append(rise)
        if (closes := self._closes(party, index, span)) < self.end:
            self.closes[rise.key] = closes
        if (stay := self._lodging(party, index, span)) is not None:
            self.wants[rise.key] = stay
        return rise

    def _rise(self, party: Party, before: Span, after: Span) -> None:
        for index in _those_up(party, after):
            stands = before.rung if index < before.replicas else min(before.rung, Rung.STAGED)
            is_now = _standing(party, index) if before.since == self.now else _DOWN
            is_up = min(is_now.rung, _shall(party))
            soon = after.since <= max(self.now + _SOON_S, _used_until(party))
            # What is up now for who asks has gone to rest by a time that is far away.
            stands = max(stands, is_up if soon else min(is_up, _aside_rung(party)))
            rises = soon and after.rung is Rung.HOT and is_now.ready_at is not None
            if stands >= after.rung and not rises:
                stay = self._lodging(party, index, after)
                if stay is not None and not _is_same_stay(index, after, before):
                    self.stays.append(stay)
                continue
            rise = self._add(party, index, after.since, after, stands)
            if not after.is_readied_after(before):
                self.timeless.add(rise.key)
            if soon and is_now is not _DOWN:
                self._as_it_is(party, is_now, rise)

    def spans_of(self, party: Party) -> Iterator[Span]:
        """Yield where a model stands, with what is so now, and where it makes room for others."""
        spans = list(self.spans[party.name])
        if late := self.overdue.get(party.name):
            spans[:1] = self._late_first(party, spans[0], late)
        asides = [each for each in self.asides if each.stay.model == party.name]
        for aside in asides:
            spans = [part for span in spans for part in self._without(party, span, aside)]
        return iter(spans)

    def _late_first(self, party: Party, span: Span, late: Sequence[Rise]) -> Iterator[Span]:
        ready = min(span.until, max(self.outcomes[rise.key].ready_at for rise in late))
        n, stands = _now(party, span)
        worst = max(late, key=lambda rise: self.outcomes[rise.key].ready_at)
        why = self._waits(party, worst) or f"it is {_standing(party, worst.index).doing}"
        if ready > span.since:
            by = "room" if span.rests and self.outcomes[worst.key].behind else "now"
            yield Span(span.since, ready, stands, n, f"{why}; {span.why}", by)
        if ready < span.until:
            yield replace(span, since=ready)

    def _back_at(self, aside: Aside) -> float:
        outcome = None if aside.back is None else self.outcomes.get(aside.back.key)
        return inf if outcome is None else outcome.ready_at

    def _without(self, party: Party, span: Span, aside: Aside) -> Iterator[Span]:
        """Yield the parts of a span from which a replica is put aside for a while."""
        since, until = max(span.since, aside.at), min(span.until, self._back_at(aside))
        takes = span.rung is Rung.HOT and span.by in ("rests", "room")
        if not takes or since >= until:
            yield span
            return
        if span.since < since:
            yield replace(span, until=since)
        stands, n = (Rung.HOT, span.replicas - 1) if span.replicas > 1 else (_aside_rung(party), 0)
        n = 1 if stands is Rung.ASLEEP else n
        goes_for = next(each for each in self.parties if each.name == aside.want.model)
        yield Span(since, until, stands, n, _put_aside(aside, goes_for), "room")
        if until < span.until:
            yield replace(span, since=until)

    def moves(self) -> Iterator[Move]:
        """Yield each change, with what its rises come to."""
        by_need: dict[tuple[str, float], list[Rise]] = {}
        for rise in self.rises:
            by_need.setdefault((rise.model, rise.by), []).append(rise)
        for party in self.parties:
            if late := self.overdue.get(party.name):
                span = self.spans[party.name][0]
                n, stands = _now(party, span)
                move = Move(late[0].by, party.name, stands, span.rung, n, span.replicas, span.why)
                yield self._timed(move, late, party)
            for before, after in pairwise(self.spans[party.name]):
                if after.goes_on_as(before):
                    continue
                move = Move(
                    after.since,
                    party.name,
                    before.rung,
                    after.rung,
                    before.replicas,
                    after.replicas,
                    after.why,
                )
                yield self._timed(move, by_need.get((party.name, after.since), []), party)
        yield from self._moved_aside()

    def _moved_aside(self) -> Iterator[Move]:
        """Yield what calendars of other models move, there and back."""
        parties = {party.name: party for party in self.parties}
        for aside in self.asides:
            party = parties[aside.stay.model]
            if aside.at >= self.end:
                continue
            to = _aside_rung(party)
            kept = 1 if to is Rung.ASLEEP else 0
            why = _put_aside(aside, parties[aside.want.model])
            yield Move(aside.at, party.name, Rung.HOT, to, 1, kept, why)
            if aside.back is not None and aside.back.by < self.end:
                again = f"it rests {party.resting}, and {aside.want.model} has gone from there"
                move = Move(aside.back.by, party.name, to, Rung.HOT, kept, 1, again)
                yield self._timed(move, [aside.back], party)

    def _timed(self, move: Move, rises: Sequence[Rise], party: Party) -> Move:
        if not rises:
            return self._there_already(move, party)
        begin = min(self._begins(each, self.outcomes[each.key]) for each in rises)
        worst = max(rises, key=lambda each: self.outcomes[each.key].ready_at)
        outcome = self.outcomes[worst.key]
        late = any(self.outcomes[each.key].late for each in rises)
        waits = self._waits(party, worst)
        if outcome.late is Late.CLOSED:
            waits = f"{waits}; {NOT_WITHIN}" if waits else NOT_WITHIN
        if isinf(outcome.ready_at):
            return replace(move, fits=outcome.late is not Late.NO_ROOM, waits=waits)
        woken = all(each.stands is Rung.ASLEEP for each in rises)
        return replace(
            move,
            begin_at=begin,
            ready_at=outcome.ready_at,
            short_s=outcome.ready_at - move.at if late else 0.0,
            measured=party.leads.woke if woken else party.leads.measured,
            waits=waits,
        )

    def _begins(self, rise: Rise, outcome: Outcome) -> float:
        """Return when anything of a rise begins: its files come into RAM before its engine."""
        if rise.stands is Rung.COLD and rise.stages and rise.key not in self.begun:
            return min(outcome.begin_at, max(self._slot(rise).stage_at, self.now))
        return outcome.begin_at

    def _slot(self, rise: Rise) -> Slot:
        return self.slots.get(rise.key) or Slot(rise.by, rise.by, rise.by, rise.by)

    def _there_already(self, move: Move, party: Party) -> Move:
        """Say of a rise that was begun in time that it is done."""
        first = self.spans[party.name][0]
        if party.presence is None or move.at != first.until or move.to_rung <= move.from_rung:
            return move
        since = max((_standing(party, n).since for n in range(max(1, move.replicas))), default=0.0)
        return replace(move, begin_at=since, ready_at=since, short_s=0.0)

    def _waits(self, party: Party, rise: Rise) -> str | None:
        """Say for whom or what a rise waits that is overdue, or comes late for that."""
        outcome, presence = self.outcomes[rise.key], party.presence
        stands = _standing(party, rise.index)
        if outcome.late is Late.HELD:
            return self.held[rise.key]
        if rise.key in self.begun:
            return None
        waited = outcome.begin_at > self._slot(rise).begin_at + 1.0
        if outcome.behind and waited:
            waits = beside(rise.model, outcome.behind)
            failed = stands.trouble if rise.by <= self.now else None
            return waits if failed is None else f"{waits}; it failed before: {failed}"
        if rise.key in self.not_before and presence is not None:
            at = party.calendar.clock(self.not_before[rise.key], self.now)
            return f"it is tried again at {at}: {stands.trouble}"
        if outcome.begin_at > self.now + 1.0 >= self._slot(rise).begin_at:
            return "it waits for its turn on its device, or for its files"
        return None

    def shortfalls(self, gpus: Mapping[str, str]) -> Iterator[Shortfall]:
        """Yield what can't be ready in time."""
        parties = {party.name: party for party in self.parties}
        by_time: dict[float, list[Rise]] = {}
        for rise in self.rises:
            by_time.setdefault(rise.by, []).append(rise)
        for rise in self.rises:
            outcome = self.outcomes[rise.key]
            if outcome.late is None or rise.key in self.timeless:
                continue
            party = parties[rise.model]
            beside = {o.model for o in by_time[rise.by] if _share(o, rise)}
            want = self.wants.get(rise.key)
            yield Shortfall(
                rise.model,
                party.calendar,
                rise.by,
                outcome,
                tuple(p.name for p in self.parties if p.name in beside | {rise.model}),
                " and ".join(gpus[key] for key in sorted(rise.cards) if key in gpus),
                want.pool if want is not None else "",
                self.pools.get(want.pool, 0) // want.vram if want is not None and want.vram else 0,
                self._waits(party, rise) or self._doing(party, rise),
            )

    def _doing(self, party: Party, rise: Rise) -> str:
        doing = _standing(party, rise.index).doing
        return f"it is {doing}" if rise.key in self.begun else "it begins only now"


def _those_up(party: Party, span: Span) -> range:
    """Return the replicas that stand on the rung of a span; files are those of all."""
    return range(min(span.replicas if span.rung >= Rung.ASLEEP else 1, len(party.cards)))


_DOWN = Standing(Rung.COLD)


def _standing(party: Party, index: int) -> Standing:
    if party.presence is None or index >= len(party.presence.replicas):
        return _DOWN
    return party.presence.replicas[index]


def _used_until(party: Party) -> float:
    return 0.0 if party.presence is None else party.presence.used_until


def _shall(party: Party) -> Rung:
    return Rung.HOT if party.presence is None else party.presence.shall


def _now(party: Party, span: Span) -> tuple[int, Rung]:
    """Return on which rung a model stands at this moment, and how many of its replicas."""
    rungs = [_standing(party, index).rung for index in _those_up(party, span)]
    there = [rung for rung in rungs if rung >= span.rung]
    stands = max(there or rungs, default=Rung.COLD)
    return (rungs.count(stands) if stands >= Rung.ASLEEP else 0), stands


def _aside_rung(party: Party) -> Rung:
    """Return where a replica stands that was put aside: as warm as it can."""
    return Rung.STAGED if party.cannot_sleep else Rung.ASLEEP


def _put_aside(aside: Aside, party: Party) -> str:
    """Say why a replica goes; `party` is whom it goes for."""
    override = party.override
    is_set = override is not None and override.rung is Rung.HOT and override.holds_at(aside.at)
    who = "an operator set hot" if is_set else "its calendar wants"
    pool = f"in pool {aside.stay.pool} for {aside.want.model}, which {who}"
    return f"it is put aside {pool}: it only rests there"


def _is_same_stay(index: int, span: Span, beside: Span) -> bool:
    """Whether a replica that is hot in `span` is so in the one beside it, by the same right."""
    return beside.rung is Rung.HOT and beside.replicas > index and beside.rests is span.rests


def _share(one: Rise, other: Rise) -> bool:
    return not (one.cards and other.cards and one.cards.isdisjoint(other.cards))
