"""Local days and times as moments: where clocks are put forward or back, by one rule for all.

Times of day are whole seconds since 00:00 as clocks show them; moments are Unix seconds.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache, lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

DAY = timedelta(days=1)
DAY_S = 86400


class LocalDay(NamedTuple):
    """A day of a zone. `plain`: from `start` on its clocks show 24 hours, one after the other.

    `is_there`: zones that cross the date line skip a whole day (Pacific/Apia, 2011-12-30).
    """

    start: float
    plain: bool
    is_there: bool


@cache
def zone(name: str) -> tzinfo:
    """Return a zone by its name; raises `ZoneInfoNotFoundError`. UTC needs no tzdata."""
    return UTC if name == "UTC" else ZoneInfo(name)


def day_of(moment: float, name: str) -> date:
    """Return which day it is then in the zone `name`."""
    return datetime.fromtimestamp(moment, zone(name)).date()


@lru_cache(maxsize=4096)
def local_day(day: date, name: str) -> LocalDay:
    """Return what a day is like in the zone `name`."""
    tz = zone(name)
    start, end = _first(day, 0, tz), _first(day + DAY, 0, tz)
    ends = (datetime.fromtimestamp(each, tz).utcoffset() for each in (start, end - 1))
    return LocalDay(start, end - start == DAY_S and next(ends) == next(ends), end > start)


def first_at(day: date, seconds: int, name: str) -> float:
    """Return when clocks first show a time, or are put forward over it."""
    there = local_day(day, name)
    return there.start + seconds if there.plain else _first(day, seconds, zone(name))


def last_at(day: date, seconds: int, name: str) -> float:
    """Return when clocks last show a time, or are put forward over it."""
    if seconds >= DAY_S:
        day, seconds = day + DAY, seconds - DAY_S
    there = local_day(day, name)
    if there.plain:
        return there.start + seconds
    early, late = _both(day, seconds, zone(name))
    return late if early <= late else _first(day, seconds, zone(name))


def all_at(day: date, seconds: int, name: str) -> tuple[float, ...]:
    """Return each moment at which clocks show a time: none, one or two."""
    early, late = _both(day, seconds, zone(name))
    return () if early > late else tuple(dict.fromkeys((early, late)))


def clock(at: float, now: float, name: str) -> str:
    """Say a time as its users read it: `09:00`, with the day where it isn't today's."""
    then, today = (datetime.fromtimestamp(t, zone(name)) for t in (at, now))
    if then.date() == today.date():
        return f"{then:%H:%M}"
    near = abs(then.date() - today.date()) < 6 * DAY
    return f"{then:%a %H:%M}" if near else f"{then:%a %Y-%m-%d %H:%M}"


def _both(day: date, seconds: int, tz: tzinfo) -> tuple[float, float]:
    """Return the first and the second such time; where it is skipped the later first (PEP 495)."""
    shown = datetime.combine(day, time(), tz) + timedelta(seconds=seconds)
    return shown.timestamp(), shown.replace(fold=1).timestamp()


def _first(day: date, seconds: int, tz: tzinfo) -> float:
    early, late = _both(day, seconds, tz)
    if early <= late:
        return early
    # Skipped: the clocks were put forward between `late` and `early`.
    before, after = late, early
    was = datetime.fromtimestamp(before, tz).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle, tz).utcoffset() == was:
            before = middle
        else:
            after = middle
    return after
