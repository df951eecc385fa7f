"""From the config's windows and cron entries to a model's calendar."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, time
from pathlib import Path

from warmd.config import Settings, WindowSettings
from warmd.cron import Cron
from warmd.policy import Calendar, Transition, Window

_LOCALTIME = Path("/etc/localtime")
_ZONES = "zoneinfo/"


def host_zone() -> str:
    """Return the name of the machine's time zone; UTC where that can't be told."""
    try:
        _, found, name = str(_LOCALTIME.resolve(strict=True)).rpartition(_ZONES)
    except OSError:
        return "UTC"
    return name if found else "UTC"


def zone_of(settings: Settings, model: str) -> str:
    """Return the name of the time zone by which the times of `model` are read."""
    return settings.models[model].timezone or settings.host.timezone or host_zone()


def calendar_of(settings: Settings, model: str) -> Calendar:
    """Return the calendar of `model`."""
    table, zone = settings.models[model], zone_of(settings, model)
    return Calendar(
        windows=tuple(_window(settings, each, zone) for each in table.windows),
        transitions=tuple(
            Transition(Cron(each.at, zone), each.rung, each.replicas)
            for each in table.cron
            if each.rung is not None
        ),
        zone=zone,
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
