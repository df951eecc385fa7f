"""What a model's calendar says, entry by entry, for `warmctl explain`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isinf

from warmd.policy import Calendar, Stretch, Transition, Window
from warmd.status import CalendarStatus, EntryStatus, SaidStatus

CHANGES = 3
"""So many changes ahead are told."""


def calendar_status(
    calendar: Calendar, ahead: Sequence[Stretch], now: float
) -> CalendarStatus | None:
    """Return the entries as they are at `now`, and what comes; None where there is no entry.

    `ahead`: what is said now, then each change.
    """
    if not calendar.windows and not calendar.transitions:
        return None
    changes = tuple(SaidStatus(s.since, s.rung, s.replicas, s.rule) for s in ahead[1:])
    return CalendarStatus(calendar.zone, tuple(_entries(calendar, ahead[0], now)), changes)


def known(moment: float | None) -> float | None:
    """Return a moment that comes or came: what is infinite never does."""
    return None if moment is None or isinf(moment) else moment


def _entries(calendar: Calendar, says: Stretch, now: float) -> Iterator[EntryStatus]:
    for window in calendar.windows:
        phase = window.phase(now)
        times = known(phase.since), known(phase.until)
        rules = phase.is_open and _rules(window, says)
        yield EntryStatus(window.name, window.rung, window.replicas, phase.is_open, rules, *times)
    for each in calendar.transitions:
        times = each.cron.last_until(now), each.cron.next_after(now)
        yield EntryStatus(each.name, each.rung, each.replicas, None, _rules(each, says), *times)


def _rules(entry: Window | Transition, says: Stretch) -> bool:
    return (entry.name, entry.rung, entry.replicas) == (says.rule, says.rung, says.replicas)
