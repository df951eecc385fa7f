"""What the calendar says of a model at a time: a pure function of config and clock.

Windows are open or closed, and the transition in force is the last that fired, also where nobody
was awake then. The rule: an open window goes before a transition; of several open windows, and of
transitions that fired at the same moment, the warmest holds, then that with the most replicas.

Each entry keeps what it found last, and models with equal entries share them (`calendars`): a memo
only, which changes no answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from itertools import islice
from math import inf

from warmd.cron import Cron, Firing
from warmd.ladder import Rung
from warmd.wall_time import DAY_S, clock, day_of, first_at, last_at, local_day, zone

_SEARCHED = 366 + 8
"""Days around now within which a window opens, or it is taken never to open."""

_LONG_S = DAY_S / 2
"""Longer spans may meet the next one where clocks are put forward or back."""

_STEPS = 500
"""So many firings that change nothing are passed over to find a change."""


@dataclass(frozen=True)
class Phase:
    """That a window is open, or closed, from `since` until `until` (Unix seconds)."""

    since: float
    until: float
    is_open: bool

    def holds_at(self, now: float) -> bool:
        """Whether `now` is within it."""
        return self.since <= now < self.until


@dataclass
class Memo:
    """What a window found last."""

    phase: Phase | None = None


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
    _memo: Memo = field(default_factory=Memo, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What it is called where it stands beside cron entries."""
        return f"window {self.text}"

    def opens_on(self, day: date) -> bool:
        """Whether it opens on `day`, which a zone may skip as a whole."""
        return (
            day not in self.skipped
            and (day.weekday() in self.days or day in self.dates)
            and local_day(day, self.zone).is_there
        )

    def span(self, day: date) -> tuple[float, float]:
        """Return when it opens and closes, having opened on `day`, in Unix seconds.

        Where clocks are put back it is open from the first to the last of the hours of that name;
        hours that they are put forward over are not there.
        """
        start, end = _span_of(self.start, self.to)
        return first_at(day, start, self.zone), last_at(day, end, self.zone)

    def around(self, now: float) -> tuple[float, float] | None:
        """Return the span in which it is open at `now`; None where it is closed."""
        phase = self.phase(now)
        return (phase.since, phase.until) if phase.is_open else None

    def next_after(self, now: float) -> float | None:
        """Return when it opens first after `now`; None where it doesn't within a year."""
        phase = self.phase(now)
        if not phase.is_open:
            return None if phase.until == inf else phase.until
        return next((at for at, _ in self._spans(now, 1) if at > now), None)

    def phase(self, now: float) -> Phase:
        """Return whether it is open at `now`, and from when until when that is so."""
        phase = self._memo.phase
        if phase is None or not phase.holds_at(now):
            phase = self._memo.phase = self.found(now)
        return phase

    def found(self, now: float) -> Phase:
        """Return its phase at `now`, found anew."""
        opens, closes = next((s for s in self._spans(now, -1) if s[0] <= now), (-inf, -inf))
        if closes - opens < _LONG_S and now < closes:
            return Phase(opens, closes, is_open=True)
        then = next((at for at, _ in self._spans(now, 1) if at > now), inf)
        if now < closes:
            return Phase(opens, min(closes, then), is_open=True)
        return Phase(closes, then, is_open=False)

    def _spans(self, now: float, step: int) -> Iterator[tuple[float, float]]:
        """Yield its spans from today's on, or from today's back."""
        today = day_of(now, self.zone)
        for day in self._days_from(today, step):
            if self.opens_on(day):
                yield self.span(day)

    def _days_from(self, today: date, step: int) -> Iterator[date]:
        if not self.days:
            dates = sorted(day for day in self.dates if day == today or (day > today) == (step > 0))
            yield from dates[::step]
            return
        weekday = today.weekday()
        for n in range(0, step * (_SEARCHED + len(self.skipped)), step):
            if (weekday + n) % 7 in self.days or self.dates:
                yield today + timedelta(n)


@dataclass(frozen=True)
class Transition:
    """From each firing of `cron` on, the model stands at `rung`; `replicas` None: its own."""

    cron: Cron
    rung: Rung
    replicas: int | None = None

    @property
    def name(self) -> str:
        """What it is called where it stands beside windows."""
        return f'cron entry "{self.cron.text}"'


@dataclass(frozen=True)
class Stretch:
    """What the calendar says from `since` until `until` (Unix seconds, may be infinite).

    `rung` None: it says nothing, and the model's own rules hold. `why` names what rules, `rule` in
    short; it rules since `began`, which may be earlier than `since`.
    """

    since: float
    until: float
    rung: Rung | None = None
    replicas: int | None = None
    why: str = ""
    rule: str = ""
    began: float = -inf

    def holds_at(self, now: float) -> bool:
        """Whether `now` is within it."""
        return self.since <= now < self.until

    def says_as(self, other: Stretch) -> bool:
        """Whether it says the same as `other`, by the same rule."""
        ours, theirs = ((s.rung, s.replicas, s.rule) for s in (self, other))
        return ours == theirs


@dataclass(frozen=True)
class Calendar:
    """The calendar of one model. `names_zone`: its zone isn't the host's, so its times name it."""

    windows: tuple[Window, ...] = ()
    transitions: tuple[Transition, ...] = ()
    zone: str = "UTC"
    names_zone: bool = False

    @property
    def entries(self) -> int:
        """How many windows and transitions it has."""
        return len(self.windows) + len(self.transitions)

    def at(self, now: float) -> Stretch:
        """Return what it says at `now`, and for how long nothing of that changes."""
        since, until = -inf, inf
        opened: list[tuple[Window, Phase]] = []
        for window in self.windows:
            phase = window.phase(now)
            since, until = max(since, phase.since), min(until, phase.until)
            if phase.is_open:
                opened.append((window, phase))
        if opened:  # what fires meanwhile counts when the last window has closed
            ruling, phase = max(opened, key=lambda each: (*_warmth(each[0]), each[0].text))
            why = f"its window {ruling.text}{self._in_zone} is open"
            said = ruling.rung, ruling.replicas, why, ruling.name, phase.since
            return Stretch(since, until, *said)
        return self._fired(now, since, until)

    def _fired(self, now: float, since: float, until: float) -> Stretch:
        """Return what the transitions say where no window is open."""
        fired: list[tuple[Firing, Transition]] = []
        for each in self.transitions:
            if (then := each.cron.next_after(now)) is not None:
                until = min(until, then)
            if (last := each.cron.last_firing(now)) is not None:
                since = max(since, last.at)
                fired.append((last, each))
        if not fired:
            return Stretch(since, until)
        last, transition = max(fired, key=_fired_late)
        at = datetime.fromtimestamp(last.at, zone(self.zone))
        why = f"its {transition.name} set it so at {at:%H:%M}{self._in_zone} on {at:%a %Y-%m-%d}"
        said = transition.rung, transition.replicas, why, transition.name, last.at
        return Stretch(since, until, *said)

    def stretches(self, now: float, end: float) -> Iterator[Stretch]:
        """Yield what it says from `now` on, one stretch after the other, until `end`."""
        while now < end:
            stretch = self.at(now)
            yield stretch
            now = stretch.until

    def changes(self, now: float) -> Iterator[Stretch]:
        """Yield what it says at `now`, then each change of that: what goes on is one stretch.

        Each begins where it begins to say so, and only the last that is known may end too early.
        """
        steps = self.stretches(now, inf)
        said = next(steps)
        while said.until < inf:
            for stretch in islice(steps, _STEPS):
                if not stretch.says_as(said):
                    break
                said = replace(said, until=stretch.until)
            else:
                break
            yield said
            said = stretch
        yield said

    def clock(self, at: float, now: float) -> str:
        """Say a time as its users read it: `09:00`, with the day where it isn't today's.

        Where its zone isn't the host's: `09:00 America/New_York`.
        """
        return clock(at, now, self.zone) + self._in_zone

    @property
    def _in_zone(self) -> str:
        return f" {self.zone}" if self.names_zone else ""


NO_CALENDAR = Calendar()

SILENT = Stretch(-inf, inf)
"""What a calendar without entries says."""


def _warmth(entry: Window | Transition) -> tuple[Rung, int]:
    return entry.rung, entry.replicas or 0


def _fired_late(each: tuple[Firing, Transition]) -> tuple[Firing, Rung, int, str]:
    firing, transition = each
    return firing, *_warmth(transition), transition.cron.text


@lru_cache(maxsize=4096)
def _span_of(start: time, to: time | None) -> tuple[int, int]:
    """Return when a window opens and closes, in seconds of the day on which it opens."""
    opens = start.hour * 3600 + start.minute * 60
    closes = DAY_S if to is None else to.hour * 3600 + to.minute * 60
    return opens, closes if closes > opens else closes + DAY_S
