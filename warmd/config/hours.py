"""Times of day, weekdays, dates and zones as people write them: `"09:00"`, `"mon-fri"`.

Every parser raises `ValueError`; its text is the sentence for the operator.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from zoneinfo import ZoneInfoNotFoundError

from warmd.wall_time import zone

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_GROUPS = {"daily": "mon-sun", "weekdays": "mon-fri", "weekends": "sat-sun"}
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MIDNIGHT = "24:00"
_LOCALTIME = Path("/etc/localtime")
_ZONES = "zoneinfo/"


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
    def of(at: time) -> TimeOfDay:
        """Take a time as TOML itself has it: `09:00:00`."""
        if at.second or at.microsecond:
            raise ValueError('must be a time of whole minutes, such as "09:00"')
        return TimeOfDay(f"{at:%H:%M}", at)

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
    if _DATE.fullmatch(text):
        with suppress(ValueError):
            return date.fromisoformat(text)
    raise ValueError('must be a date such as "2026-12-24"')


def parse_zone(text: str) -> str:
    """Take a zone that this host knows, such as `Europe/Berlin`."""
    if not _is_known(text):
        raise ValueError(
            'must be a time zone that this host knows, such as "Europe/Berlin" or "UTC" '
            f"({_LISTED if _is_known(_SURELY_THERE) else _NO_ZONES})"
        )
    return text


def host_zone(localtime: Path = _LOCALTIME) -> str:
    """Return the name of the machine's time zone: UTC where none is set, as localtime(5) has it.

    Raises `ValueError` with a sentence where it can't be told, or this host has no data of it.
    """
    try:
        _, found, name = str(localtime.readlink()).rpartition(_ZONES)
        if not found:
            _, found, name = str(localtime.resolve(strict=True)).rpartition(_ZONES)
    except FileNotFoundError:
        return "UTC"
    except OSError:  # a copy of a zone's file, as containers have it
        found, name = "", ""
    if not found:
        raise ValueError(f"{localtime} is no link to a time zone")
    if not _is_known(name):
        raise ValueError(f"the machine's own, {name}, is not known here ({_NO_ZONES})")
    return name


_LISTED = "`timedatectl list-timezones` lists them"
_NO_ZONES = "install tzdata"
_SURELY_THERE = "Europe/London"


def _is_known(name: str) -> bool:
    try:
        zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
