"""Models as far as their future goes, and where they stand one moment after the other: pure.

All times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

from warmd.ladder import Rung
from warmd.policy import Calendar, Override
from warmd.policy.lead import Leads, leads_of
from warmd.supervisor import Known, Managed, Presence, Standing, Terms
from warmd.supervisor.shelf import Shelf
from warmd.supervisor.soon import figures, figures_of_new

_STRETCHES = 2000
"""So many stretches of one model are looked at, at most."""


@dataclass(frozen=True)
class Span:
    """Where a model stands from `since` to `until`, and why.

    `by`: `calendar`, `operator`, or `rests`, where its calendar says nothing; `now`: as it stands,
    and can't help for the moment; `room`: put aside for what the calendar of another one wants.
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

    def goes_on_as(self, other: Span) -> bool:
        """Whether nobody need hear that this one follows: an operator's word ends with a word."""
        return self.stands_as(other) and (self.by == other.by or other.by != "operator")

    def is_readied_after(self, before: Span) -> bool:
        """Whether it is made ready before it begins: only a calendar names a time for that."""
        return self.by == "calendar" and before.by != "operator"


@dataclass(frozen=True)
class Move:
    """A change of where a model stands, `at` then.

    For a rise `begin_at` says when it begins, `ready_at` when it is done; `short_s`: by how much it
    is late. `fits`: its pool has room for it, else all three are None. `measured`: earlier starts
    say so. `waits`: for whom or what it waits, where that makes it late. Of what is overdue `at` is
    in the past; where an operator's word ends it may stand as before.
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
    waits: str | None = None


@dataclass(frozen=True)
class Party:
    """One model, as far as its future goes. `cards`: those of each replica; `vram` of its pool.

    `least`: the fewest that a calendar may say, where its load may ask for more. `pinned`: it makes
    room for nobody. `presence`: where it stands at this moment, None where nobody knows that: then
    it stands where it shall.
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
    presence: Presence | None = None
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
    return replace(party_of_new(name, terms, leads_of(found)), override=override)


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


def cold_presence(party: Party) -> Presence:
    """Return where a model stands that nobody has run yet."""
    return Presence(tuple(Standing(Rung.COLD) for _ in party.cards))


def spans_of(party: Party, now: float, end: float) -> Iterator[Span]:
    """Yield where a model stands; what follows alike is one span."""
    last: Span | None = None
    for span in _bare_spans(party, now, end):
        if last is not None and span.goes_on_as(last) and last.rests is span.rests:
            last = replace(last, until=span.until)
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def _bare_spans(party: Party, now: float, end: float) -> Iterator[Span]:
    override, n, set_until = party.override, 0, -inf
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
        if now == set_until and by != "operator":
            why = f"the time that an operator set is over: {why}"
        set_until = until if by == "operator" else -inf
        if rung is Rung.ASLEEP and party.cannot_sleep:
            rung = Rung.STAGED
        yield Span(now, until, rung, replicas if rung >= Rung.ASLEEP else 0, why, by)
        now = until
