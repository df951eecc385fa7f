"""One sentence of advice on a model's calendar, where its days give one. Pure.

People go before GPU-hours: somebody who waits in the hours before a window opens, then somebody
who waits each day at the same time, then windows that nobody needs, or not all of.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from statistics import median

from warmd.ladder import Rung
from warmd.policy.calendar import Window
from warmd.spoken import duration

_MOST = 0.6
"""What happens on so many of the days is a habit."""

_FEW_DAYS = 3
_DAYS_TO_CUT = 5
_FEW_WAITS = 5
_BEFORE = 120
"""Who waits within so many minutes before a window opens was early for it."""

_WORTH_CUTTING = 60
_MARGIN = 5
_DAY = 24 * 60


@dataclass(frozen=True)
class Habits:
    """How a model was used on whole days, by the clock of its users.

    `days`: those of which is known how they were; `waits`: minutes after midnight at which requests
    came that met it not hot; `use`: minutes at which requests ended; `start_s`: what half of its
    starts took at most; `gpus` of one replica; `added`: GPU-hours that it was hot for its calendar.
    """

    days: Collection[date]
    waits: Mapping[date, Sequence[float]] = field(default_factory=dict)
    use: Mapping[date, Sequence[float]] = field(default_factory=dict)
    windows: Sequence[Window] = ()
    replicas: int = 1
    gpus: float = 1.0
    added: float = 0.0
    start_s: float | None = None
    cannot_sleep: str | None = None


def advise(habits: Habits) -> str | None:
    """Return the most valuable sentence, None where the figures give none."""
    hot = [window for window in habits.windows if window.rung is Rung.HOT]
    for window in hot:
        if (said := _late(habits, window)) is not None:
            return said
    said = _same_time(habits, hot) or _unused(habits, hot)
    if said is not None:
        return said
    cuts = [cut for window in hot if (cut := _longer_than_use(habits, window)) is not None]
    if cuts:
        return max(cuts)[1]
    return _starts_for_want_of_sleep(habits)


def _late(habits: Habits, window: Window) -> str | None:
    """People wait shortly before it opens."""
    opens = _minutes(window)[0]
    days = [day for day in habits.days if window.opens_on(day)]
    firsts = _firsts(habits.waits, days, max(0, opens - _BEFORE), opens)
    if not _is_habit(len(firsts), len(days)):
        return None
    begins, early = clock(median(firsts)), clock(_floor(_low(firsts), 15))
    return (
        f"the rush begins at {begins}; the window's {clock(opens)} is late on {len(firsts)} of "
        f'{_of_days(days)}: write from = "{early}"'
    )


def _same_time(habits: Habits, hot: Sequence[Window]) -> str | None:
    """People wait at the same time of the day, outside of any window."""
    waits = {
        day: [at for at in minutes if not any(_is_open(w, day, at) for w in hot)]
        for day, minutes in habits.waits.items()
    }
    best: tuple[float, int, str] | None = None
    for days in (habits.days, [day for day in habits.days if day.weekday() < 5]):
        for firsts in _in_each_hour(waits, days):
            worth = len(firsts) / max(1, len(days)), len(firsts)
            if not _is_habit(len(firsts), len(days)) or (best and worth <= best[:2]):
                continue
            opens = _floor(_low(firsts), 30)
            spared = sum(first >= opens for first in firsts)
            said = (
                f"people wait at about {clock(_round(median(firsts), 5))} on {len(firsts)} of "
                f"{_of_days(days)}: a window from {clock(opens)} would have spared "
                f"{spared} of them"
            )
            best = (*worth, said)
    return None if best is None else best[2]


def _unused(habits: Habits, hot: Sequence[Window]) -> str | None:
    """Nobody asks for it while a window keeps it hot."""
    days = [day for day in habits.days if any(window.opens_on(day) for window in hot)]
    used = any(_is_open(w, day, at) for w in hot for day in days for at in habits.use.get(day, ()))
    if used or len(days) < _FEW_DAYS or habits.added < 1:
        return None
    return (
        f"nobody asked for it in its windows on {_of_days(days)}, which cost {habits.added:.0f} "
        'GPU-hours: take them away, or let them keep it warm with rung = "asleep"'
    )


def _longer_than_use(habits: Habits, window: Window) -> tuple[float, str] | None:
    """Return the GPU-hours a week that a window may lose at one end, with the sentence."""
    opens, closes = _minutes(window)
    days = [day for day in habits.days if window.opens_on(day)]
    if len(days) < _DAYS_TO_CUT or closes <= opens:
        return None
    within = [[at for at in habits.use.get(d, ()) if opens <= at < closes] for d in days]
    lasts = sorted(max(minutes, default=opens) for minutes in within)
    firsts = sorted(min(minutes, default=closes) for minutes in within)
    spare = len(days) // 10  # so many days may be otherwise
    end = min(closes, _ceil(lasts[-1 - spare] + _MARGIN, 30))
    begin = max(opens, _floor(firsts[spare] - _MARGIN, 30))
    if end <= opens or begin >= closes:
        return None  # hardly used: where it is never, that has its own sentence
    whole = f"window {window.text}"
    if closes - end >= begin - opens:
        cut, said = closes - end, f"{whole} could end at {clock(end)}: nobody asked after that"
        unused = sum(last < end for last in lasts)
    else:
        cut, said = begin - opens, f"{whole} could begin at {clock(begin)}: nobody asked earlier"
        unused = sum(first >= begin for first in firsts)
    if cut < _WORTH_CUTTING:
        return None
    replicas = habits.replicas if window.replicas is None else window.replicas
    week = 7 * len(days) / len(habits.days) * cut / 60 * habits.gpus * replicas
    return week, f"{said} on {unused} of {_of_days(days)}, which saves {week:.0f} GPU-hours a week"


def _starts_for_want_of_sleep(habits: Habits) -> str | None:
    waits = sum(len(minutes) for minutes in habits.waits.values())
    if habits.cannot_sleep is None or habits.start_s is None or waits < _FEW_WAITS:
        return None
    return (
        f"{waits} requests waited for it, and half of its starts took {duration(habits.start_s)} "
        f"or more; it could wake in seconds, but it can't sleep: {habits.cannot_sleep}"
    )


def clock(minute: float) -> str:
    """Say a minute of the day: `08:37`."""
    hours, minutes = divmod(int(minute), 60)
    return f"{hours:02}:{minutes:02}"


def _firsts(
    minutes: Mapping[date, Sequence[float]], days: Collection[date], begin: float, end: float
) -> list[float]:
    """Return the first minute of each day that lies between, of those days that have one."""
    within = ([at for at in minutes.get(day, ()) if begin <= at < end] for day in days)
    return sorted(min(each) for each in within if each)


def _in_each_hour(
    minutes: Mapping[date, Sequence[float]], days: Collection[date]
) -> Iterator[list[float]]:
    """Yield for each hour that begins with one half its first minute of each day that has one."""
    halves: dict[int, dict[date, float]] = {}
    for day in days:
        for at in sorted(minutes.get(day, ()), reverse=True):
            halves.setdefault(int(at // 30), {})[day] = at
    for half in sorted(halves):
        for begin in (half - 1, half):
            both = halves.get(begin + 1, {}) | halves.get(begin, {})
            yield sorted(both.values())


def _is_habit(days: int, of: int) -> bool:
    return days >= _FEW_DAYS and days >= _MOST * of


def _is_open(window: Window, day: date, minute: float) -> bool:
    opens, closes = _minutes(window)
    if closes > opens:
        return window.opens_on(day) and opens <= minute < closes
    before = date.fromordinal(day.toordinal() - 1)
    return (window.opens_on(day) and minute >= opens) or (
        window.opens_on(before) and minute < closes
    )


def _minutes(window: Window) -> tuple[int, int]:
    """Return the minutes of the day at which it opens and closes."""
    to = _DAY if window.to is None else window.to.hour * 60 + window.to.minute
    return window.start.hour * 60 + window.start.minute, to


def _of_days(days: Collection[date]) -> str:
    work = all(day.weekday() < 5 for day in days)
    return f"{len(days)} {'workdays' if work else 'days'}"


def _low(ranked: Sequence[float]) -> float:
    """Return what all but a tenth of them reach."""
    return ranked[len(ranked) // 10]


def _floor(minute: float, step: int) -> int:
    return int(minute // step * step)


def _ceil(minute: float, step: int) -> int:
    return math.ceil(minute / step) * step


def _round(minute: float, step: int) -> int:
    return round(minute / step) * step
