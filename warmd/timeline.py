"""What the calendars move in the time to come: pure, from terms, clock and measured figures.

Who asks lifts a model above it. Field names of the dataclasses are the stable JSON of
`warmctl plan --next --json`: add, never rename. All times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf, isinf

from warmd.ladder import Rung, replica_name
from warmd.planner.forecast import Outcome, Rooms, Stay, forecast
from warmd.planner.making_room import Lodger, room_after
from warmd.planner.timetable import Rise, Slot, line_up
from warmd.policy import Calendar, Override
from warmd.policy.lead import Leads, leads_of
from warmd.shortfalls import Shortfall, sentences
from warmd.supervisor import Known, Managed, Terms
from warmd.supervisor.shelf import Shelf
from warmd.supervisor.soon import figures, figures_of_new

NOTE = "as the calendar has it; who asks for a model lifts it above"

WEEK_S = 7 * 86400.0
"""So far ahead it is looked for what can't be ready in time."""

_STRETCHES = 2000
"""So many stretches of one model are looked at, at most."""


@dataclass(frozen=True)
class Span:
    """Where a model stands from `since` to `until`, and why.

    `by`: `calendar`, `operator`, or `rests`, where its calendar says nothing.
    """

    since: float
    until: float
    rung: Rung
    replicas: int
    why: str
    by: str = "calendar"

    @property
    def rests(self) -> bool:
        """Whether its calendar says nothing of it."""
        return self.by == "rests"

    def stands_as(self, other: Span) -> bool:
        """Whether a model stands the same in both."""
        return (self.rung, self.replicas) == (other.rung, other.replicas)

    def is_readied_after(self, before: Span) -> bool:
        """Whether it is made ready before it begins: only a calendar names a time for that."""
        return self.by == "calendar" and before.by != "operator"


@dataclass(frozen=True)
class Move:
    """A change of where a model stands, `at` then.

    For a rise `begin_at` says when it begins, `ready_at` when it is done; `short_s`: by how much it
    is late. `fits`: its pool has room for it, else all three are None. `measured`: earlier starts
    say so.
    """

    at: float
    model: str
    from_rung: Rung
    to_rung: Rung
    from_replicas: int
    replicas: int
    why: str
    begin_at: float | None = None
    ready_at: float | None = None
    short_s: float | None = None
    measured: bool = True
    fits: bool = True


@dataclass(frozen=True)
class Lane:
    """One GPU, and the models that stand on it at some time."""

    key: str
    words: str
    models: tuple[str, ...]


@dataclass(frozen=True)
class Course:
    """One model's course, in the time zone of its calendar."""

    zone: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Timeline:
    """What is to come from `since` to `until`. `warnings`: what can't be ready in time."""

    since: float
    until: float
    gpus: tuple[Lane, ...]
    models: dict[str, Course]
    moves: tuple[Move, ...]
    warnings: tuple[str, ...]
    note: str = NOTE


@dataclass(frozen=True)
class Agenda:
    """What is to come; `before`: what would come without the config that was asked about."""

    timeline: Timeline
    before: Timeline | None = None


@dataclass(frozen=True)
class Party:
    """One model, as far as its future goes. `cards`: those of each replica; `vram` of its pool.

    `least`: the fewest that a calendar may say, where its load may ask for more. `pinned`: it makes
    room for nobody. `stands`: where each replica stands now, where that is known.
    """

    name: str
    calendar: Calendar
    resting: Rung
    replicas: int
    leads: Leads
    cards: Sequence[frozenset[str]]
    cannot_sleep: bool = False
    override: Override | None = None
    pool: str | None = None
    vram: int = 0
    stands: Sequence[Rung] = ()
    least: int = 0
    pinned: bool = False

    @property
    def is_planned(self) -> bool:
        """Whether its calendar says anything."""
        return bool(self.calendar.windows or self.calendar.transitions)


def party_of(name: str, terms: Terms, model: Managed | None, known: Known, shelf: Shelf) -> Party:
    """Return a model on `terms`; `model` as it runs now, else what is `known` of it."""
    found = figures_of_new(known) if model is None else figures(model, shelf)
    override = known.override if model is None else model.override
    stands = () if model is None else [model.rung_of(r) for r in model.replicas]
    return replace(party_of_new(name, terms, leads_of(found)), override=override, stands=stands)


def party_of_new(name: str, terms: Terms, leads: Leads) -> Party:
    """Return a model on `terms` of which nobody knows where it stands."""
    wish = terms.wish
    return Party(
        name,
        wish.calendar,
        wish.resting,
        wish.replicas,
        leads,
        tuple(fit.cards for fit in terms.fits),
        wish.cannot_sleep is not None,
        None,
        terms.pool,
        terms.vram,
        least=0 if wish.scale is None else wish.replicas,
        pinned=terms.pinned,
    )


def foretell(
    parties: Sequence[Party],
    pools: Mapping[str, int],
    gpus: Mapping[str, str],
    now: float,
    until: float,
) -> Timeline:
    """Foretell what calendars move between `now` and `until`.

    `pools`: bytes of VRAM on each of their cards; `gpus`: the words for each card, by key.
    """
    spans = {party.name: tuple(_spans(party, now, until)) for party in parties}
    plan = _Plan(parties, spans, pools, now)
    moves = sorted(plan.moves(), key=lambda move: (move.at, move.model))
    active = {party.name for party in parties if len(spans[party.name]) > 1 or party.is_planned}
    lanes = []
    for key, words in gpus.items():
        here = [p.name for p in parties if any(key in c or not c for c in p.cards)]
        names = tuple(name for name in here if name in active)
        if names:
            lanes.append(Lane(key, words, names))
    return Timeline(
        now,
        until,
        tuple(lanes),
        {p.name: Course(p.calendar.zone, spans[p.name]) for p in parties if p.name in active},
        tuple(moves),
        tuple(sentences(plan.shortfalls(gpus), now)),
    )


def _spans(party: Party, now: float, end: float) -> Iterator[Span]:
    """Yield where a model stands; what follows alike is one span."""
    last: Span | None = None
    for span in _bare_spans(party, now, end):
        if last is not None and last.stands_as(span) and last.rests is span.rests:
            last = replace(last, until=span.until)
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def _bare_spans(party: Party, now: float, end: float) -> Iterator[Span]:
    override, n = party.override, 0
    while now < end and n < _STRETCHES:
        stretch, n = party.calendar.at(now), n + 1
        rung = party.resting if stretch.rung is None else stretch.rung
        why = stretch.why or f"its calendar says nothing, and it rests {party.resting}"
        replicas = party.replicas
        if stretch.replicas is not None:
            replicas = max(stretch.replicas, party.least)
        by = "rests" if stretch.rung is None else "calendar"
        until = min(stretch.until, end)
        if override is not None and override.holds_at(now):
            until = min(until, inf if override.until is None else override.until)
            if not override.floor or rung < override.rung:
                rung, why, by = override.rung, "an operator set it", "operator"
                set_to = party.replicas if override.replicas is None else override.replicas
                replicas = min(set_to, len(party.cards))
        if rung is Rung.ASLEEP and party.cannot_sleep:
            rung = Rung.STAGED
        yield Span(now, until, rung, replicas if rung >= Rung.ASLEEP else 0, why, by)
        now = until


@dataclass
class _Plan:
    parties: Sequence[Party]
    spans: Mapping[str, Sequence[Span]]
    pools: Mapping[str, int]
    now: float
    rises: list[Rise] = field(default_factory=list)
    wants: dict[tuple[str, float], Stay] = field(default_factory=dict)
    stays: list[Stay] = field(default_factory=list)

    def __post_init__(self) -> None:
        for party in self.parties:
            self._stay(party, self.spans[party.name][0])
            for before, after in pairwise(self.spans[party.name]):
                if after.is_readied_after(before):
                    self._rise(party, before, after)
                else:
                    self._stay(party, after, before)
        self.rises = [self._with_room(rise) for rise in self.rises]
        self.slots = line_up(self.rises)
        rooms = Rooms(self.pools, self.stays, self.wants)
        self.outcomes = forecast(self.rises, self.slots, rooms, self.now)

    def _until(self, party: Party, index: int, span: Span) -> float:
        """Return until when a replica that is hot in `span` stays so."""
        until = span.until
        for later in self.spans[party.name]:
            if later.since == until and _is_same_stay(index, span, later):
                until = later.until
        return until

    def _lodging(self, party: Party, index: int, span: Span) -> Stay | None:
        if party.pool is None or span.rung is not Rung.HOT:
            return None
        name, cards = replica_name(party.name, index), party.cards[index]
        until = self._until(party, index, span)
        yields = span.rests and not party.pinned
        return Stay(name, party.name, party.pool, party.vram, cards, span.since, until, yields)

    def _stay(self, party: Party, span: Span, before: Span | None = None) -> None:
        for index in range(min(span.replicas, len(party.cards))):
            if before is not None and _is_same_stay(index, span, before):
                continue
            if (stay := self._lodging(party, index, span)) is not None:
                self.stays.append(stay)

    def _rise(self, party: Party, before: Span, after: Span) -> None:
        ups = range(min(after.replicas, len(party.cards)))
        for index in ups if after.rung >= Rung.ASLEEP else range(min(1, len(party.cards))):
            stands = before.rung if index < before.replicas else min(before.rung, Rung.STAGED)
            if before.since == self.now and index < len(party.stands):
                stands = max(stands, party.stands[index])
            if stands >= after.rung:
                stay = self._lodging(party, index, after)
                if stay is not None and not _is_same_stay(index, after, before):
                    self.stays.append(stay)
                continue
            name, cards = replica_name(party.name, index), party.cards[index]
            rise = Rise(
                name, party.name, index, after.since, after.rung, stands, party.leads, cards
            )
            self.rises.append(rise)
            if (stay := self._lodging(party, index, after)) is not None:
                self.wants[rise.key] = stay

    def _with_room(self, rise: Rise) -> Rise:
        """Return a rise with the time that others need to make room for it first."""
        want = self.wants.get(rise.key)
        if want is None or want.pool not in self.pools or not rise.takes:
            return rise
        asides = {party.name: party.leads.aside for party in self.parties}
        firm = [w for key, w in self.wants.items() if key[1] <= rise.by < w.until]
        there = [
            Lodger(s.replica, s.vram, s.cards, asides[s.model] if s.yields else None)
            for s in (*self.stays, *firm)
            if s.pool == want.pool and s.since <= rise.by < s.until
        ]
        # Of one replica the later counts: a calendar's want goes before its rest.
        others = {lodger.replica: lodger for lodger in there}
        newcomer = Lodger(rise.replica, want.vram, want.cards)
        return replace(rise, room=room_after(self.pools[want.pool], newcomer, others.values()))

    def moves(self) -> Iterator[Move]:
        """Yield each change, with what its rises come to."""
        by_need: dict[tuple[str, float], list[Rise]] = {}
        for rise in self.rises:
            by_need.setdefault((rise.model, rise.by), []).append(rise)
        for party in self.parties:
            for before, after in pairwise(self.spans[party.name]):
                if after.stands_as(before):
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
                if after.is_readied_after(before):
                    yield self._timed(move, by_need.get((party.name, after.since), []), party)
                else:
                    yield _untimely(move, party)

    def _timed(self, move: Move, rises: Sequence[Rise], party: Party) -> Move:
        if not rises:
            return move
        begin = min(_begins(each, self.slots[each.key], self.outcomes[each.key]) for each in rises)
        ready = max(self.outcomes[each.key].ready_at for each in rises)
        late = any(self.outcomes[each.key].late for each in rises)
        if isinf(ready):
            return replace(move, fits=False)
        woken = all(each.stands is Rung.ASLEEP for each in rises)
        return replace(
            move,
            begin_at=begin,
            ready_at=ready,
            short_s=ready - move.at if late else 0.0,
            measured=party.leads.woke if woken else party.leads.measured,
        )

    def shortfalls(self, gpus: Mapping[str, str]) -> Iterator[Shortfall]:
        """Yield what can't be ready in time."""
        calendars = {party.name: party.calendar for party in self.parties}
        by_time: dict[float, list[Rise]] = {}
        for rise in self.rises:
            by_time.setdefault(rise.by, []).append(rise)
        for rise in self.rises:
            outcome = self.outcomes[rise.key]
            if outcome.late is None:
                continue
            beside = {o.model for o in by_time[rise.by] if _share(o, rise)}
            want = self.wants.get(rise.key)
            yield Shortfall(
                rise.model,
                calendars[rise.model],
                rise.by,
                outcome,
                tuple(p.name for p in self.parties if p.name in beside | {rise.model}),
                " and ".join(gpus[key] for key in sorted(rise.cards) if key in gpus),
                want.pool if want is not None else "",
                self.pools.get(want.pool, 0) // want.vram if want is not None and want.vram else 0,
            )


def _is_same_stay(index: int, span: Span, beside: Span) -> bool:
    """Whether a replica that is hot in `span` is so in the one beside it, by the same right."""
    return beside.rung is Rung.HOT and beside.replicas > index and beside.rests is span.rests


def _untimely(move: Move, party: Party) -> Move:
    """Return a change for which nothing begins before its time."""
    if move.to_rung <= move.from_rung:
        return move
    takes = party.leads.rise(move.from_rung, move.to_rung)
    takes += party.leads.stage if move.from_rung is Rung.COLD else 0.0
    known = party.leads.woke if move.from_rung is Rung.ASLEEP else party.leads.measured
    ready = move.at + takes
    return replace(move, begin_at=move.at, ready_at=ready, short_s=0.0, measured=known)


def _begins(rise: Rise, slot: Slot, outcome: Outcome) -> float:
    """Return when anything of a rise begins: its files come into RAM before its engine starts."""
    if rise.stands is Rung.COLD and rise.stages:
        return min(outcome.begin_at, slot.stage_at)
    return outcome.begin_at


def _share(one: Rise, other: Rise) -> bool:
    return not (one.cards and other.cards and one.cards.isdisjoint(other.cards))
