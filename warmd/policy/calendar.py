"""What the calendar says of a model at a time: a pure function of config and clock.

Windows are open or closed, and the transition in force is the last that fired, also where nobody
was awake then. The rule: an open window goes before a transition; of several open windows, and of
transitions that fired at the same moment, the warmest holds, then that with the most replicas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cache
from math import inf
from zoneinfo import ZoneInfo

from warmd.cron import Cron
from warmd.ladder import Rung

_DAY = timedelta(days=1)
_SEARCHED = 366 + 8
"""Days ahead within which a window opens, or it is taken never to open again."""


@dataclass(frozen=True)
class Window:
    """Hours of certain days. `text` names it for people; `replicas` None: the model's own.

    It opens on weekdays (`days`, 0 is Monday) and on `dates`, but never on `skipped`: with `to` at
    or before `start` it closes on the next day, and a `to` of None is midnight.
    """

    text: str
    zone: str
    start: time
    to: time | None
    days: frozenset[int] = frozenset(range(7))
    dates: frozenset[date] = frozenset()
    skipped: frozenset[date] = frozenset()
    rung: Rung = Rung.HOT
    replicas: int | None = None

    def opens_on(self, day: date) -> bool:
        """Whether it opens on `day`."""
        return day not in self.skipped and (day.weekday() in self.days or day in self.dates)

    def span(self, day: date) -> tuple[float, float]:
        """Return when it opens and closes, having opened on `day`, in Unix seconds.

        Where clocks are put back it is open from the first to the last of the hours of that name.
        """
        ends = day if self.to is not None and self.to > self.start else day + _DAY
        return (
            _instant(day, self.start, self.zone, fold=0),
            _instant(ends, self.to or time(), self.zone, fold=1),
        )

    def around(self, now: float) -> tuple[float, float] | None:
        """Return the span in which it is open at `now`; None where it is closed."""
        today = datetime.fromtimestamp(now, _zone(self.zone)).date()
        for day in (today - _DAY, today):
            if self.opens_on(day):
                opens, closes = self.span(day)
                if opens <= now < closes:
                    return opens, closes
        return None

    def next_after(self, now: float) -> float | None:
        """Return when it opens first after `now`; None where it doesn't within a year."""
        today = datetime.fromtimestamp(now, _zone(self.zone)).date()
        for day in self._days_from(today):
            if self.opens_on(day) and (opens := self.span(day)[0]) > now:
                return opens
        return None

    def _days_from(self, today: date) -> Iterator[date]:
        if not self.days:
            yield from sorted(day for day in self.dates if day >= today)
            return
        for n in range(_SEARCHED):
            yield today + n * _DAY


@dataclass(frozen=True)
class Transition:
    """From each firing of `cron` on, the model stands at `rung`; `replicas` None: its own."""

    cron: Cron
    rung: Rung
    replicas: int | None = None


@dataclass(frozen=True)
class Stretch:
    """What the calendar says from `since` until `until` (Unix seconds, may be infinite).

    `rung` None: it says nothing, and the model's own rules hold. `why` names what rules.
    """

    since: float
    until: float
    rung: Rung | None = None
    replicas: int | None = None
    why: str = ""

    def holds_at(self, now: float) -> bool:
        """Whether `now` is within it."""
        return self.since <= now < self.until


@dataclass(frozen=True)
class Calendar:
    """The calendar of one model."""

    windows: tuple[Window, ...] = ()
    transitions: tuple[Transition, ...] = ()
    zone: str = "UTC"

    def at(self, now: float) -> Stretch:
        """Return what it says at `now`, and for how long nothing of that changes."""
        opened = [(w, span) for w in self.windows if (span := w.around(now)) is not None]
        fired = [(t, at) for t in self.transitions if (at := t.cron.last_until(now)) is not None]
        since = max([-inf, *(span[0] for _, span in opened), *(at for _, at in fired)])
        ends = [span[1] for _, span in opened]
        ends += [at for w in self.windows if (at := w.next_after(now)) is not None]
        ends += [at for t in self.transitions if (at := t.cron.next_after(now)) is not None]
        until = min(ends, default=inf)
        if opened:
            window = max((w for w, _ in opened), key=lambda w: (*_warmth(w), w.text))
            why = f"its window {window.text} is open"
            return Stretch(since, until, window.rung, window.replicas, why)
        if fired:
            last = max(at for _, at in fired)
            same = [t for t, at in fired if at == last]
            ruling = max(same, key=lambda t: (*_warmth(t), t.cron.text))
            why = f'its cron entry "{ruling.cron.text}" set it so at {self.clock(last, now)}'
            return Stretch(since, until, ruling.rung, ruling.replicas, why)
        return Stretch(since, until)

    def stretches(self, now: float, end: float) -> Iterator[Stretch]:
        """Yield what it says from `now` on, one stretch after the other, until `end`."""
        while now < end:
            stretch = self.at(now)
            yield stretch
            now = stretch.until

    def clock(self, at: float, now: float) -> str:
        """Say a time as its users read it: `09:00`, with the day where it isn't today's."""
        then, today = (datetime.fromtimestamp(t, _zone(self.zone)) for t in (at, now))
        if then.date() == today.date():
            return f"{then:%H:%M}"
        near = abs(then.date() - today.date()) < 6 * _DAY
        return f"{then:%a %H:%M}" if near else f"{then:%Y-%m-%d %H:%M}"


NO_CALENDAR = Calendar()

SILENT = Stretch(-inf, inf)
"""What a calendar without entries says."""


def _warmth(entry: Window | Transition) -> tuple[int, int]:
    return entry.rung.height, entry.replicas or 0


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _instant(day: date, at: time, zone: str, *, fold: int) -> float:
    """Return the moment in Unix seconds; one that clocks jump over comes so much later."""
    tz = _zone(zone)
    moment = datetime.combine(day, at, tz)
    late = moment.replace(fold=fold)
    skipped = datetime.fromtimestamp(late.timestamp(), tz).replace(tzinfo=None) != late.replace(
        tzinfo=None, fold=0
    )
    return (moment if skipped else late).timestamp()
