"""What a model's calendar says: in a sentence, and entry by entry for `warmctl explain`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from math import isinf

from warmd.policy import Calendar, Stretch, Transition, Window
from warmd.spoken import standing
from warmd.status import CalendarStatus, EntryStatus, SaidStatus

CHANGES = 3
"""So many changes ahead are told."""


def calendar_status(calendar: Calendar, now: float) -> CalendarStatus | None:
    """Return the entries as they are at `now`, and what comes; None where there is no entry."""
    if not calendar.entries:
        return None
    says, *changes = islice(calendar.changes(now), 1 + CHANGES)
    told = tuple(SaidStatus(s.since, s.rung, s.replicas, s.rule) for s in changes)
    return CalendarStatus(calendar.zone, tuple(_entries(calendar, says, now)), told)


def calendar_words(calendar: Calendar, says: Stretch, then: Stretch | None, now: float) -> str:
    """Say what holds at `now`, and then: `hot, 2 replicas until 18:00, then asleep`."""
    if then is None:
        return _said(says)
    return f"{_said(says)} until {calendar.clock(says.until, now)}, then {_said(then)}"


def _said(says: Stretch) -> str:
    return "nothing" if says.rung is None else standing(says.rung, says.replicas)


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
