"""From the config's windows and cron entries to a model's calendar."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, time
from functools import lru_cache
from typing import TypeVar

from warmd.config import Settings, WindowSettings, host_zone
from warmd.cron import Cron
from warmd.policy import Calendar, Transition, Window

_Entry = TypeVar("_Entry", Window, Cron)


@lru_cache(maxsize=8192)
def _one(entry: _Entry) -> _Entry:
    """Return the one of all equal entries that is kept: what it finds is found for all."""
    return entry


def look_up(settings: Settings, now: float) -> None:
    """Find what all calendars say at `now`, aside: the event loop then finds it found."""
    for model in settings.models:
        calendar_of(settings, model).at(now)


def zone_of(settings: Settings, model: str) -> str:
    """Return the name of the time zone by which the times of `model` are read."""
    return settings.models[model].timezone or _host_zone(settings)


def _host_zone(settings: Settings) -> str:
    if settings.host.timezone is not None:
        return settings.host.timezone
    try:
        return host_zone()
    except ValueError:
        return "UTC"  # the config check refuses a calendar then; it may have been there before


def calendar_of(settings: Settings, model: str) -> Calendar:
    """Return the calendar of `model`."""
    table, zone = settings.models[model], zone_of(settings, model)
    return Calendar(
        windows=tuple(_one(_window(settings, each, zone)) for each in table.windows),
        transitions=tuple(
            Transition(_one(Cron(each.at, zone)), each.rung, each.replicas)
            for each in table.cron
            if each.rung is not None
        ),
        zone=zone,
        names_zone=zone != _host_zone(settings),
    )


def _window(settings: Settings, table: WindowSettings, zone: str) -> Window:
    return Window(
        text=_named(table),
        zone=zone,
        start=table.start.at or time(),  # the config check lets no window begin at 24:00
        to=table.to.at,
        days=_weekdays(table),
        dates=_dates(settings, table.dates),
        skipped=_dates(settings, table.skip),
        rung=table.rung,
        replicas=table.replicas,
    )


def _weekdays(table: WindowSettings) -> frozenset[int]:
    if table.days is not None:
        return table.days.numbers
    return frozenset() if table.dates else frozenset(range(7))


def _named(table: WindowSettings) -> str:
    """Name a window as its users wrote it: `mon-fri 09:00-18:00`."""
    days = [*([] if table.days is None else [str(table.days)]), *table.dates]
    besides = f" except {','.join(table.skip)}" if table.skip else ""
    return f"{','.join(days) or 'daily'} {table.start}-{table.to}{besides}"


def _dates(settings: Settings, names: Sequence[str]) -> frozenset[date]:
    found: set[date] = set()
    for name in names:
        if name in settings.calendars:
            found.update(settings.calendars[name].dates)
        else:
            found.add(date.fromisoformat(name))
    return frozenset(found)
