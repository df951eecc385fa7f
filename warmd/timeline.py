"""What the calendars move in the time to come: pure, from terms, clock and measured figures.

Who asks lifts a model above it. Field names of the dataclasses are the stable JSON of
`warmctl plan --next --json`: add, never rename. All times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmd.foretelling import Foretold
from warmd.parties import Move, Party, Span, spans_of
from warmd.shortfalls import overdue, sentences

NOTE = "as the calendar has it; who asks for a model lifts it above"

WEEK_S = 7 * 86400.0
"""So far ahead it is looked for what can't be ready in time."""


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
    """What is to come from `since` to `until`. `warnings`: what can't be ready in time.

    `overdue`: those of them that tell what is late already.
    """

    since: float
    until: float
    gpus: tuple[Lane, ...]
    models: dict[str, Course]
    moves: tuple[Move, ...]
    warnings: tuple[str, ...]
    note: str = NOTE
    overdue: tuple[str, ...] = ()


@dataclass(frozen=True)
class Agenda:
    """What is to come; `before`: what would come without the config that was asked about."""

    timeline: Timeline
    before: Timeline | None = None


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
    bare = {party.name: tuple(spans_of(party, now, until)) for party in parties}
    plan = Foretold(parties, bare, pools, now, until)
    moves = sorted(plan.moves(), key=lambda move: (move.at, move.model))
    spans = {party.name: tuple(plan.spans_of(party)) for party in parties}
    moved = {move.model for move in moves}
    active = {p.name for p in parties if len(spans[p.name]) > 1 or p.is_planned} | moved
    lanes = []
    for key, words in gpus.items():
        here = [p.name for p in parties if any(key in c or not c for c in p.cards)]
        names = tuple(name for name in here if name in active)
        if names:
            lanes.append(Lane(key, words, names))
    short = list(plan.shortfalls(gpus))
    late = tuple(overdue([each for each in short if each.by <= now], now))
    return Timeline(
        now,
        until,
        tuple(lanes),
        {p.name: Course(p.calendar.zone, spans[p.name]) for p in parties if p.name in active},
        tuple(moves),
        (*late, *sentences([each for each in short if each.by > now], now)),
        overdue=late,
    )
