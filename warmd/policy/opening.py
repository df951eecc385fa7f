"""Whether a calendar is kept: since when it wants a model ready, and what is to be told of that.

A window's `from`, and a cron entry's firing, is a time to be ready by. Each is judged once, when it
has come; who is late then is told of again when it is ready, or when that is wanted no longer.
Pure: state in, state out, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256

from warmd.ladder import Rung
from warmd.policy.calendar import Calendar, Stretch, Window
from warmd.policy.target import Wish

_BACK = 100
"""So many stretches that want as much are gone back over, to find when that began."""

_KNOWN = 16
"""So many openings are remembered: windows lie within each other, and clocks are set back."""

_JUST_BEFORE_S = 1e-3


class Hindrance(StrEnum):
    """What kept a model from being ready when its calendar wanted it."""

    AWAY = "away"  # warmd didn't run then
    FAILING = "failing"
    STARTING = "starting"
    HELD_UP = "held-up"


@dataclass(frozen=True)
class Opening:
    """Since `at` a calendar wants `replicas` of a model ready, and until `until` (Unix seconds).

    `name`: its entry; `zone`: in which its time is said.
    """

    at: float
    until: float
    name: str
    replicas: int
    zone: str = "UTC"


@dataclass(frozen=True)
class Missed:
    """Why a model wasn't ready: the kind of it, and a sentence. `ready`: so many replicas were."""

    hindrance: Hindrance
    reason: str
    ready: int = 0


@dataclass(frozen=True)
class Opened:
    """Its time has come; `missed`: the model isn't ready."""

    opening: Opening
    missed: bool


@dataclass(frozen=True)
class Ready:
    """What was missed is ready at last, `late` seconds after its time."""

    opening: Opening
    late: float


@dataclass(frozen=True)
class Over:
    """What was missed is wanted no longer, and never was ready."""

    opening: Opening


@dataclass(frozen=True)
class Attendance:
    """What was judged: the times of the last openings, and the one that is late.

    What opened before `since` is not for this life to judge. `mark`: of the calendar that was in
    force last, empty where none was.
    """

    known: tuple[float, ...] = ()
    late: Opening | None = None
    since: float = float("-inf")
    mark: str = ""

    def knows(self, at: float) -> Attendance:
        """Return it with an opening more."""
        return replace(self, known=(*self.known, at)[-_KNOWN:])


def mark_of(calendar: Calendar) -> str:
    """Return what tells a calendar from others, over restarts too; empty where it says nothing."""
    if not calendar.entries:
        return ""
    windows = [
        (w.zone, str(w.start), str(w.to), sorted(w.days), *_dates(w), w.rung.value, w.replicas)
        for w in calendar.windows
    ]
    cron = [(t.cron.zone, t.cron.text, t.rung.value, t.replicas) for t in calendar.transitions]
    return sha256(repr((windows, cron)).encode()).hexdigest()


def _dates(window: Window) -> tuple[list[str], list[str]]:
    return sorted(map(str, window.dates)), sorted(map(str, window.skipped))


def opening_of(calendar: Calendar, wish: Wish, says: Stretch) -> Opening | None:
    """Return the opening that `says` belongs to: None where it wants nothing ready.

    It is as old as the calendar has wanted so many without a break.
    """
    if says.rung is not Rung.HOT:
        return None
    replicas, first = wish.many(says.replicas), says
    for _ in range(_BACK):
        before = calendar.at(first.since - _JUST_BEFORE_S)
        if before.rung is not Rung.HOT or wish.many(before.replicas) < replicas:
            break
        if before.since >= first.since:
            break  # it never began
        first = before
    return Opening(first.since, says.until, says.rule, replicas, calendar.zone)


def attend(
    was: Attendance, opening: Opening | None, ready: int, now: float, *, rules: bool
) -> tuple[Attendance, list[Opened | Ready | Over]]:
    """Return what is known at `now` (Unix seconds), and what is to be told.

    `opening`: what holds, `ready`: so many replicas are; `rules`: nothing goes before the calendar,
    as an operator's word does.
    """
    told: list[Opened | Ready | Over] = []
    state, late = was, was.late
    if late is not None and (not rules or (opening is not None and opening.at > late.at)):
        late = None  # an operator has said otherwise, or more is wanted now
    if late is not None and (opening is None or opening.at < late.at):
        told.append(Over(late))
        late = None
    if opening is not None and opening.at not in was.known:
        state = state.knows(opening.at)
        if rules and opening.at >= was.since:
            missed = ready < opening.replicas
            told.append(Opened(opening, missed))
            late = opening if missed else late
    elif late is not None and opening is not None and opening.at == late.at:
        late = opening
        if ready >= opening.replicas:
            told.append(Ready(opening, max(0.0, now - opening.at)))
            late = None
    return state if late is state.late else replace(state, late=late), told
