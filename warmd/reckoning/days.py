"""The past by the days and hours of a time zone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime
from zoneinfo import ZoneInfo

from warmd.history import Occupied, Waited
from warmd.ladder import Rung
from warmd.reckoning.account import LETTERS, UNKNOWN

HOUR_S = 3600.0
_HOURS = 24
_KNOWN_HOURS = 12
"""A day of which less is known says nothing of how days are."""


def strips(
    occupied: Iterable[Occupied], zone: ZoneInfo, since: float, until: float
) -> dict[str, str]:
    """Return 24 letters for each day: the rung on which the model stood longest in each hour.

    An hour of a zone that is off by half of one is told by when it began. The hour that clocks
    leave out is unknown, of the one that they repeat both count.
    """
    stood: dict[tuple[date, int], dict[str, float]] = {}
    passed: dict[tuple[date, int], float] = {}
    for hour, rungs in _by_hour(occupied).items():
        begins = hour * HOUR_S
        there = datetime.fromtimestamp(begins, zone)
        key = there.date(), there.hour
        sums = stood.setdefault(key, {})
        for rung, seconds in rungs.items():
            sums[rung] = sums.get(rung, 0.0) + seconds
        whole = min(until, begins + HOUR_S) - max(since, begins)
        passed[key] = passed.get(key, 0.0) + whole
    known = {day for day, _ in stood}
    first, last = (min(known), max(known)) if known else (date.max, date.min)
    days = (date.fromordinal(n) for n in range(first.toordinal(), last.toordinal() + 1))
    return {
        day.isoformat(): "".join(
            _letter(stood.get((day, hour), {}), passed.get((day, hour), 0.0))
            for hour in range(_HOURS)
        )
        for day in days
    }


def whole_days(days: Mapping[str, str], first: date, today: date) -> list[date]:
    """Return the days between, the first and the last left out, of which enough is known."""
    known = (d for d, hours in days.items() if _HOURS - hours.count(UNKNOWN) >= _KNOWN_HOURS)
    return [day for day in map(date.fromisoformat, known) if first < day < today]


def waits_by_day(
    waited: Iterable[Waited], zone: ZoneInfo, days: Collection[date]
) -> dict[date, list[float]]:
    """Return the minutes after midnight at which requests came that met the model not hot."""
    hot = Rung.HOT.value
    return _minutes((each.at for each in waited if each.met != hot), zone, days)


def use_by_day(
    use: Iterable[tuple[int, int]], zone: ZoneInfo, days: Collection[date]
) -> dict[date, list[float]]:
    """Return the minutes of each day in which requests ended, from Unix minutes."""
    return _minutes((60.0 * at for each in use for at in each), zone, days)


def day_of(at: float, zone: ZoneInfo) -> date:
    """Return the day in which a time (Unix seconds) lies."""
    return datetime.fromtimestamp(at, zone).date()


def _minutes(
    times: Iterable[float], zone: ZoneInfo, days: Collection[date]
) -> dict[date, list[float]]:
    found: dict[date, list[float]] = {day: [] for day in days}
    for at in times:
        there = datetime.fromtimestamp(at, zone)
        if (minutes := found.get(there.date())) is not None:
            minutes.append(there.hour * 60 + there.minute + there.second / 60)
    return found


def _by_hour(occupied: Iterable[Occupied]) -> dict[int, dict[str, float]]:
    hours: dict[int, dict[str, float]] = {}
    for each in occupied:
        rungs = hours.setdefault(each.hour, {})
        rungs[each.rung] = rungs.get(each.rung, 0.0) + each.seconds
    return hours


def _letter(stood: Mapping[str, float], passed: float) -> str:
    known = sum(stood.values())
    if not known:
        return UNKNOWN
    rung, seconds = max(stood.items(), key=lambda each: each[1])
    return UNKNOWN if passed - known > seconds else LETTERS.get(rung, UNKNOWN)
