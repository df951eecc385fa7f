"""Cron entries as functions of time: when one fired last, and when it fires next.

Five fields as crontab(5) has them; unlike there, a day must fit both the day of the month and the
day of the week where both are given. `last` is a month's last day.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_PART = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/([0-9]{1,2}))?", re.ASCII)
_LONGEST_S = 8 * 366 * 86400.0
"""29 February comes again after eight years at most (1896 to 1904, 2096 to 2104)."""

_NEAR_S = 30.0
"""Closer than this no two firings are, and a search need not look any further."""


@dataclass(frozen=True)
class Cron:
    """One entry. `text` has five fields; `zone` is a name such as `Europe/Berlin`."""

    text: str
    zone: str

    @staticmethod
    def parse(text: str, zone: str) -> Cron:
        """Take an entry; raises `ValueError` with a sentence, also where it would never fire."""
        cron = Cron(text, zone)
        if cron.next_after(0.0) is None:
            raise ValueError("would never fire: no year has such a day")
        return cron

    @cached_property
    def _trigger(self) -> CronTrigger:
        fields = self.text.split()
        if len(fields) != 5:
            raise ValueError(
                "must have five fields (minute, hour, day of the month, month, day of the week), "
                f'such as "0 20 * * mon-fri", and has {len(fields)}'
            )
        minute, hour, day, month, weekday = fields
        try:
            return CronTrigger(
                minute=minute,
                hour=hour,
                day=day,
                month=month,
                day_of_week=_weekdays(weekday),
                timezone=self._zone,
            )
        except ValueError as error:
            raise ValueError(f"is no cron entry: {error}") from None

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.zone)

    def next_after(self, now: float) -> float | None:
        """Return when it fires first after `now` (Unix seconds); None where it never does."""
        after = datetime.fromtimestamp(now, self._zone) + timedelta(microseconds=1)
        fires: datetime | None = self._trigger.get_next_fire_time(None, after)
        return None if fires is None else fires.timestamp()

    def last_until(self, now: float) -> float | None:
        """Return when it fired last, at `now` or before; None where not within eight years."""
        span, found = 3600.0, None
        while found is None and span < 2 * _LONGEST_S:
            found = self.next_after(now - min(span, _LONGEST_S))
            if found is not None and found > now:
                found = None
            span *= 8
        if found is None:
            return None
        end = now
        while end - found > _NEAR_S:
            middle = found + (end - found) / 2
            later = self.next_after(middle)
            if later is not None and later <= end:
                found = later
            else:
                end = middle
        return found


def _weekdays(field: str) -> str:
    """Return the days by name: numbers count from Sunday in cron, and from Monday in APScheduler.

    See https://github.com/agronholm/apscheduler/issues/286.
    """
    if field == "*":
        return field
    days: list[str] = []
    for part in field.lower().split(","):
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
    return ",".join(dict.fromkeys(days))


def _weekday(word: str) -> int:
    if word in _DAYS:
        return _DAYS.index(word)
    if word.isdecimal() and int(word) <= 7:
        return int(word)
    raise ValueError(f"{word!r} is no day of the week: take mon to sun, or 0 to 7")
