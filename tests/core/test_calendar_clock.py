"""The calendar against a clock that is read step by step: whole years, and where clocks change."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from test_calendar import BERLIN, LORD_HOWE, NEW_YORK, ZONES, a_transition, a_window, at, utc

from warmd.ladder import Rung
from warmd.policy import Calendar, Transition, Window

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Entry:
    """A cron entry by what it means; None: every one."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...] | None = None
    day: int | str | None = None
    weekdays: tuple[int, ...] | None = None  # 0 is Sunday, as in cron
    rung: Rung = Rung.HOT
    replicas: int | None = None

    def transition(self, zone: str) -> Transition:
        def listed(values: Sequence[object] | None) -> str:
            return "*" if values is None else ",".join(map(str, values))

        day = "*" if self.day is None else str(self.day)
        text = f"{listed(self.minutes)} {listed(self.hours)} {day} * {listed(self.weekdays)}"
        return a_transition(text, self.rung, zone, self.replicas)

    def means(self, shown: datetime) -> bool:
        last = (shown + timedelta(days=1)).day == 1
        return (
            shown.minute in self.minutes
            and (self.hours is None or shown.hour in self.hours)
            and (self.day is None or (last if self.day == "last" else shown.day == self.day))
            and (self.weekdays is None or shown.isoweekday() % 7 in self.weekdays)
        )


@dataclass
class Reader:
    """Looks at the clock at each `step` and remembers what has happened, as a person would."""

    entries: Sequence[Entry]
    windows: Sequence[Window]
    zone: str
    now: float
    step: timedelta = MINUTE

    def __post_init__(self) -> None:
        self.shown = self._shown()
        self.last: tuple[Rung, int] | None = None
        self.closings: dict[tuple[Window, date], datetime] = {}

    def _shown(self) -> datetime:
        return datetime.fromtimestamp(self.now, ZoneInfo(self.zone))

    def states(self, end: float) -> Iterator[tuple[float, tuple[Rung, int] | None]]:
        """Yield each moment with the rung and replicas (0: the model's own) then."""
        while self.now < end:
            self.now += self.step.total_seconds()
            before, self.shown = self.shown.replace(tzinfo=None), self._shown()
            shown = self.shown.replace(tzinfo=None, fold=0)
            skipped = []
            while (before := before.replace(fold=0) + self.step) < shown:
                skipped.append(before)
            for each in (*skipped, shown):
                self._happens(each, real=each == shown)
            opened = [(w.rung, w.replicas or 0) for w, _ in self.closings]
            yield self.now, max(opened, default=self.last)

    def _happens(self, shown: datetime, *, real: bool) -> None:
        again = real and self.shown.fold == 1
        fired = [
            (e.rung, e.replicas or 0)
            for e in self.entries
            if e.means(shown) and (real if e.hours is None else not again)
        ]
        self.last = max(fired, default=self.last)
        twice = self.shown.replace(fold=0).utcoffset() != self.shown.replace(fold=1).utcoffset()
        for key in [key for key, closes in self.closings.items() if closes == shown]:
            if again or not (real and twice):
                del self.closings[key]
        for window in self.windows:
            if shown.time() == window.start and not again and window.opens_on(shown.date()):
                end = window.to or time()
                late = end <= window.start
                closes = datetime.combine(shown.date() + late * timedelta(days=1), end)
                self.closings[window, shown.date()] = closes


def agrees(calendar: Calendar, reader: Reader, begin: float, end: float) -> int:
    """Compare them at each step from `begin` on; return how often the state changed."""
    changes, was = 0, None
    for now, state in reader.states(end):
        if now < begin:
            continue
        says = calendar.at(now)
        found = None if says.rung is None else (says.rung, says.replicas or 0)
        assert found == state, (calendar, utc(now))
        changes += was is not None and was != state
        was = state
    return changes


OF_A_YEAR = (
    Entry((0,), (20,), weekdays=(1, 2, 3, 4, 5), rung=Rung.STAGED),
    Entry((30,), (2,), rung=Rung.ASLEEP),
    Entry((0,), (3,), weekdays=(0,), rung=Rung.COLD),
    Entry((0, 30), None, day=15, rung=Rung.ASLEEP, replicas=2),
    Entry((0,), (12,), day="last", rung=Rung.HOT, replicas=3),
)


@pytest.mark.parametrize("zone", ZONES)
def test_a_year_of_ticks_has_each_transition_once(zone: str) -> None:
    windows = (
        a_window(
            "09:00", "18:00", zone, days=frozenset(range(5)), skipped=frozenset({date(2026, 5, 1)})
        ),
        a_window("22:30", "02:30", zone, days=frozenset({5}), rung=Rung.ASLEEP),
        a_window("02:00", "03:00", zone, days=frozenset({6}), replicas=2),
        a_window("00:00", "24:00", zone, days=frozenset(), dates=frozenset({date(2026, 12, 31)})),
    )
    calendar = Calendar(windows, tuple(e.transition(zone) for e in OF_A_YEAR), zone)
    begin, end = at("2026-01-01"), at("2027-01-01")
    reader = Reader(OF_A_YEAR, windows, zone, begin - 40 * 86400, timedelta(minutes=30))
    changes = agrees(calendar, reader, begin, end)
    ahead, says = 0, calendar.at(begin)
    for stretch in calendar.stretches(begin, end):
        ahead += (stretch.rung, stretch.replicas) != (says.rung, says.replicas)
        says = stretch
    assert ahead == changes > 1000


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        (BERLIN, "2026-03-29"),
        (BERLIN, "2026-10-25"),
        (NEW_YORK, "2026-03-08"),
        (NEW_YORK, "2026-11-01"),
        (LORD_HOWE, "2026-10-04"),
        (LORD_HOWE, "2026-04-05"),
    ],
)
def test_any_calendar_holds_minute_by_minute_where_clocks_change(zone: str, day: str) -> None:
    chance = random.Random(f"{zone} {day}")
    rungs = list(Rung)
    for _ in range(4):
        entries = [
            Entry(
                tuple(chance.sample(range(60), 2)),
                tuple(chance.sample(range(5), 2)) if chance.random() < 0.8 else None,
                weekdays=tuple(chance.sample(range(7), 5)),
                rung=chance.choice(rungs),
                replicas=chance.choice((None, 2)),
            )
            for _ in range(3)
        ]
        windows = [
            a_window(
                f"{chance.randrange(4):02}:{chance.randrange(60):02}",
                f"{chance.randrange(4):02}:{chance.randrange(60):02}",
                zone,
                rung=chance.choice(rungs),
                days=frozenset(chance.sample(range(7), 3)),
            )
            for _ in range(2)
        ]
        windows = [each for each in windows if each.start != each.to]
        noon = at(f"{day} 12:00", zone)
        calendar = Calendar(tuple(windows), tuple(e.transition(zone) for e in entries), zone)
        reader = Reader(entries, windows, zone, noon - 8 * 86400)
        agrees(calendar, reader, noon - 86400, noon + 43200)
