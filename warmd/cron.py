"""Cron entries as functions of time: when one fired last, and when it fires next.

Five fields as crontab(5) has them; unlike there, a day must fit both the day of the month and the
day of the week where both are given. `last` is a month's last day.

Where clocks are put forward, entries of named hours that they skip fire at that moment, in their
order; where they are put back, such entries fire the first time only. An entry of every hour fires
by the hours that pass.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property, lru_cache
from math import inf
from typing import NamedTuple

from apscheduler.triggers.cron import CronTrigger

from warmd.wall_time import DAY, all_at, day_of, first_at, local_day

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_PART = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/([0-9]{1,2}))?", re.ASCII)
_PART = re.compile(r"(\*|[0-9]+(-[0-9]+)?)(/[0-9]+)?")
_MONTH_PART = re.compile(r"[a-z]{3}(-[a-z]{3})?")
_LAST = "last"
_JANUARY = datetime(2024, 1, 1, tzinfo=UTC)
_SHOWN = {
    "minute": {n: _JANUARY.replace(minute=n) for n in range(60)},
    "hour": {n: _JANUARY.replace(hour=n) for n in range(24)},
    "day": {n: _JANUARY.replace(day=n) for n in range(1, 32)},
    "month": {n: _JANUARY.replace(month=n) for n in range(1, 13)},
}
"""A time with each number that a field may have."""

_LONGEST_YEARS = 41
"""29 February falls on one weekday again after 40 years at most (2088 to 2128)."""


class Firing(NamedTuple):
    """A firing: `at` in Unix seconds, and `shown`, the day and second that it is named by.

    Several that clocks were put forward over fire at once, in the order of `shown`.
    """

    at: float
    shown: tuple[date, int]


class _Fields(NamedTuple):
    """What an entry means. `weekdays`: 0 is Monday; `last_day`: also the month's last day."""

    times: tuple[int, ...]
    every_hour: bool
    days: frozenset[int]
    last_day: bool
    months: frozenset[int]
    weekdays: frozenset[int]

    def has(self, day: date) -> bool:
        fits = day.day in self.days or (self.last_day and (day + DAY).day == 1)
        return fits and day.weekday() in self.weekdays


class _Between(NamedTuple):
    """Two firings with none between them."""

    last: Firing | None
    then: float | None

    def holds_at(self, now: float) -> bool:
        return (-inf if self.last is None else self.last.at) <= now < (self.then or inf)


@dataclass
class _Memo:
    between: _Between | None = None


@dataclass(frozen=True)
class Cron:
    """One entry. `text` has five fields; `zone` is a name such as `Europe/Berlin`."""

    text: str
    zone: str
    _memo: _Memo = field(default_factory=_Memo, init=False, repr=False, compare=False)

    @staticmethod
    def parse(text: str, zone: str) -> Cron:
        """Take an entry; raises `ValueError` with a sentence, also where it would never fire."""
        cron = Cron(text, zone)
        if cron.next_after(0.0) is None:
            raise ValueError("would never fire: no year has such a day")
        return cron

    def next_after(self, now: float) -> float | None:
        """Return when it fires first after `now` (Unix seconds); None where it never does."""
        return self._between(now).then

    def last_until(self, now: float) -> float | None:
        """Return when it fired last, at `now` or before; None where not within forty years."""
        last = self._between(now).last
        return None if last is None else last.at

    def last_firing(self, now: float) -> Firing | None:
        """Return its last firing, at `now` or before; None where not within forty years."""
        return self._between(now).last

    def _between(self, now: float) -> _Between:
        # Of equal entries one is kept (`calendars`), and what it found holds until it fires again.
        between = self._memo.between
        if between is None or not between.holds_at(now):
            between = self._memo.between = self.between(now)
        return between

    def between(self, now: float) -> _Between:
        """Return the firings around `now`, found anew."""
        today = day_of(now, self.zone)
        last, then = None, None
        for day in self._days(today, -1):
            start, after, shown = self._firings(day)
            if number := bisect_right(after, now - start):
                last = Firing(start + after[number - 1], (day, shown[number - 1]))
                break
        for day in self._days(today, 1):
            start, after, shown = self._firings(day)
            if (number := bisect_right(after, now - start)) < len(after):
                then = start + after[number]
                break
        return _Between(last, then)

    def _days(self, day: date, step: int) -> Iterator[date]:
        fields = self._fields
        end = day.year + step * _LONGEST_YEARS
        while day.year != end:
            if day.month not in fields.months:
                first = day.replace(day=1)
                day = first - DAY if step < 0 else (first + 31 * DAY).replace(day=1)
                continue
            if fields.has(day):
                yield day
            day += step * DAY

    def _firings(self, day: date) -> tuple[float, tuple[float, ...], tuple[int, ...]]:
        """Return the day's start, how long after it each firing is, and which time that shows."""
        fields, there = self._fields, local_day(day, self.zone)
        if there.plain:
            return there.start, fields.times, fields.times
        if fields.every_hour:
            found = [(at, t) for t in fields.times for at in all_at(day, t, self.zone)]
        else:
            found = [(first_at(day, t, self.zone), t) for t in fields.times]
        found.sort()
        return there.start, tuple(at - there.start for at, _ in found), tuple(t for _, t in found)

    @cached_property
    def _fields(self) -> _Fields:
        return _read(self.text)


@lru_cache(maxsize=8192)
def _read(text: str) -> _Fields:
    fields = text.lower().split()
    if len(fields) != 5:
        raise ValueError(
            "must have five fields (minute, hour, day of the month, month, day of the week), "
            f'such as "0 20 * * mon-fri", and has {len(fields)}'
        )
    minute, hour, day, month, weekday = fields
    minutes, hours = _values("minute", minute), _values("hour", hour)
    return _Fields(
        times=tuple(h * 3600 + m * 60 for h in sorted(hours) for m in sorted(minutes)),
        every_hour=len(hours) == 24,
        days=_values("day", day),
        last_day=_LAST in day.split(","),
        months=_values("month", month),
        weekdays=frozenset((_DAYS.index(each) - 1) % 7 for each in _weekdays(weekday)),
    )


@lru_cache(maxsize=1024)
def _values(name: str, text: str) -> frozenset[int]:
    """Return which values a field has; raises `ValueError`."""
    for part in text.split(","):
        # APScheduler passes over what stands after a name: `jan/2`, `lastly`.
        is_named = (name == "day" and part == _LAST) or (
            name == "month" and _MONTH_PART.fullmatch(part)
        )
        if not is_named and not _PART.fullmatch(part):
            raise ValueError(f"is no cron entry: {part!r} is no {name}")
    try:
        trigger = CronTrigger(**{name: text}, timezone="UTC")
    except ValueError as error:
        raise ValueError(f"is no cron entry: {error}") from None
    [field] = [each for each in trigger.fields if each.name == name]
    expressions = [each for each in field.expressions if str(each) != _LAST]
    return frozenset(
        number
        for number, shown in _SHOWN[name].items()
        if any(each.get_next_value(shown, field) == number for each in expressions)
    )


def _weekdays(field: str) -> list[str]:
    """Return the days by name: numbers count from Sunday in cron, and from Monday in APScheduler.

    See https://github.com/agronholm/apscheduler/issues/286.
    """
    days: list[str] = []
    for part in field.split(","):
        match = _DAY_PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no day of the week")
        if match[1]:
            first, last = 0, 6
        else:
            first = _weekday(match[2])
            last = first if match[3] is None else _weekday(match[3])
            last = 6 if match[3] is None and match[4] else last
        if last < first:
            last += 7
        if (step := int(match[4] or 1)) < 1:
            raise ValueError(f"{part!r} has a step of nothing")
        days += [_DAYS[day % 7] for day in range(first, last + 1, step)]
    return days


def _weekday(word: str) -> int:
    if word in _DAYS:
        return _DAYS.index(word)
    if word.isdecimal() and int(word) <= 7:
        return int(word)
    raise ValueError(f"{word!r} is no day of the week: take mon to sun, or 0 to 7")
