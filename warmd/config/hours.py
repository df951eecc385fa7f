"""Times of day, weekdays, dates and zones as people write them: `"09:00"`, `"mon-fri"`.

Every parser raises `ValueError`; its text is the sentence for the operator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, time
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_GROUPS = {"daily": "mon-sun", "weekdays": "mon-fri", "weekends": "sat-sun"}
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_MIDNIGHT = "24:00"


@dataclass(frozen=True)
class Days:
    """Weekdays, of which 0 is Monday, as they were written."""

    text: str
    numbers: frozenset[int]

    @staticmethod
    def parse(text: str) -> Days:
        """Take `mon-fri`, `sat,sun`, `fri-mon`, `daily`, `weekdays` or `weekends`."""
        numbers: set[int] = set()
        for part in text.lower().replace(" ", "").split(","):
            first, dash, last = _GROUPS.get(part, part).partition("-")
            if first not in WEEKDAYS or (dash and last not in WEEKDAYS):
                raise ValueError(
                    'must be days such as "mon-fri", "sat,sun", "daily", "weekdays" or "weekends"'
                )
            one = WEEKDAYS.index(first)
            many = (WEEKDAYS.index(last or first) - one) % 7
            numbers |= {(one + n) % 7 for n in range(many + 1)}
        return Days(text, frozenset(numbers))

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class TimeOfDay:
    """A time of day; `at` None is midnight at the day's end."""

    text: str
    at: time | None

    @staticmethod
    def parse(text: str) -> TimeOfDay:
        """Take `09:00`, or `24:00` for the end of the day."""
        if text == _MIDNIGHT:
            return TimeOfDay(text, None)
        match = _TIME.fullmatch(text)
        if match is None:
            raise ValueError('must be a time such as "09:00" or "17:30", from "00:00" to "24:00"')
        return TimeOfDay(text, time(int(match[1]), int(match[2])))

    def __str__(self) -> str:
        return self.text


def parse_date(text: str) -> date:
    """Take `2026-12-24`."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError('must be a date such as "2026-12-24"') from None


def parse_zone(text: str) -> str:
    """Take a zone that this host knows, such as `Europe/Berlin`."""
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            'must be a time zone that this host knows, such as "Europe/Berlin" or "UTC" '
            "(`timedatectl list-timezones` lists them)"
        ) from None
    return text
