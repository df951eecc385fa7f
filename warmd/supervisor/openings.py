"""Whether the calendars are kept: what opens is looked at once, and what is late until it isn't."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from warmd.ladder import Phase, Rung
from warmd.policy import Calendar, Stretch
from warmd.policy.estimate import expected_start, expected_wake
from warmd.policy.opening import (
    Hindrance,
    Missed,
    Opened,
    Opening,
    Over,
    Ready,
    attend,
    mark_of,
    opening_of,
)
from warmd.replica import Replica
from warmd.spoken import count, duration
from warmd.supervisor.events import Clock, Events
from warmd.supervisor.model import Managed
from warmd.wall_time import clock as shown

_ON_THE_WAY = (Phase.STARTING, Phase.WARMING, Phase.WAKING, Phase.ADOPTING)
_BROKEN = (Phase.BACKING_OFF, Phase.FAILED)


@dataclass
class _Read:
    """What was read of a model's calendar last."""

    calendar: Calendar
    says: Stretch
    opening: Opening | None
    failing: float | None = None  # the opening that is late, and for which a start has failed


class Openings:
    """Tells of each time to be ready by, once; alone writes what is known of them."""

    def __init__(self, clock: Clock, events: Events) -> None:
        self._clock = clock
        self._events = events
        self._read: dict[str, _Read] = {}

    def look(self, models: Iterable[Managed]) -> None:
        """Look at all models; to be called once what can be begun has begun."""
        wall = self._clock.wall()
        for model in models:
            was = model.attendance
            if model.terms.wish.calendar.entries or was.late is not None or was.mark:
                self._look(model, wall)

    def _look(self, model: Managed, wall: float) -> None:
        is_first = model.name not in self._read
        opening, target = self._opening(model, wall), model.target
        was = model.attendance
        if was.late is None and (opening is None or opening.at in was.known):
            return  # there is nothing to judge, as at most looks
        wanted = opening is None or (target.rung is Rung.HOT and target.least >= opening.replicas)
        rules = wanted and not model.retired
        ready = [r.state.phase for r in model.replicas].count(Phase.READY)
        model.attendance, told = attend(was, opening, ready, wall, rules=rules)
        for each in told:
            match each:
                case Opened(opening=opened, missed=missed):
                    why = self._why(model, opened, ready) if missed else None
                    if missed and is_first:
                        began = shown(wall, opened.at, opened.zone)
                        away = f"warmd didn't run then, and began at {began}"
                        why = Missed(Hindrance.AWAY, away, ready)
                    if why is not None and why.hindrance is Hindrance.FAILING:
                        self._read[model.name].failing = opened.at
                    self._events.window_opened(model.name, opened, why)
                case Ready(opening=opened, late=late):
                    self._events.window_ready(model.name, opened, late)
                case Over(opening=opened):
                    self._events.window_over(model.name, opened)
        self._see_failures(model, ready)

    def _see_failures(self, model: Managed, ready: int) -> None:
        """A start that fails while it is late says more than what was in its way at first."""
        late, read = model.attendance.late, self._read[model.name]
        if late is None or read.failing == late.at:
            return
        why = self._why(model, late, ready)
        if why.hindrance is Hindrance.FAILING:
            read.failing = late.at
            self._events.window_failing(model.name, late, why)

    def _opening(self, model: Managed, wall: float) -> Opening | None:
        """Return what holds, read anew only where the calendar says something else."""
        calendar, says = model.terms.wish.calendar, model.diary.says(wall)
        read = self._read.get(model.name)
        if read is None or read.says is not says or read.calendar is not calendar:
            was = model.attendance
            if read is None and was.late is not None:  # of an earlier life
                late = replace(was.late, zone=calendar.zone)
                was = replace(was, late=late if wall < late.until else None)
            mark = was.mark if read and read.calendar is calendar else mark_of(calendar)
            if mark != was.mark:
                # What this calendar wanted before it was there is nobody's fault.
                was = replace(was, since=wall, mark=mark)
                self._events.calendar_in_force(model.name, mark, wall)
            model.attendance = was
            opening = opening_of(calendar, model.terms.wish, says)
            read = self._read[model.name] = _Read(calendar, says, opening)
        return read.opening

    def _why(self, model: Managed, opening: Opening, ready: int) -> Missed:
        """Say why `model` isn't ready: what failed, else what holds it up, else how far it is."""
        now = self._clock.monotonic()
        short = [r for r in model.replicas[: opening.replicas] if r.state.phase is not Phase.READY]
        if broken := next((r for r in short if r.state.phase in _BROKEN), None):
            return Missed(Hindrance.FAILING, _failed(broken, now), ready)
        if coming := next((r for r in short if r.state.phase in _ON_THE_WAY), None):
            failing = coming.state.trouble is not None
            hindrance = Hindrance.FAILING if failing else Hindrance.STARTING
            return Missed(hindrance, _under_way(model, coming, now), ready)
        why = model.held_up_by or _doing(short, now)
        return Missed(Hindrance.HELD_UP, why, ready)


def _failed(replica: Replica, now: float) -> str:
    state = replica.state
    if state.retry_at is None:
        return f"{replica.name} was given up{_after(replica)}"
    wait = duration(max(0.0, state.retry_at - now))
    return f"{replica.name} is tried again in {wait}{_after(replica)}"


def _after(replica: Replica) -> str:
    """Say how often it has failed in a row, and why at last; nothing where it hasn't."""
    state = replica.state
    if state.trouble is None:
        return ""
    times = f"{count(state.failures, 'failure')} in a row" if state.failures > 1 else "a failure"
    return f" after {times}: {state.trouble}"


def _under_way(model: Managed, replica: Replica, now: float) -> str:
    state, name = replica.state, replica.name
    if state.phase is Phase.ADOPTING:
        return f"{name}, which an earlier warmd left, is being taken over"
    if state.phase is Phase.WAKING:
        about = f" of about {duration(expected_wake(model.wakes))}" if model.wakes else ""
        return f"{name} has been waking for {duration(now - state.since)}{about}"
    began = state.since if state.started_at is None else state.started_at
    about = f" of about {duration(expected_start(model.starts))}" if model.starts else ""
    stage = "" if replica.stage is None else f" ({replica.stage.label})"
    return f"{name} has been starting for {duration(now - began)}{about}{stage}{_after(replica)}"


def _doing(short: Iterable[Replica], now: float) -> str:
    replica = next(iter(short))
    state = replica.state
    lasts = duration(max(0.0, now - state.since))
    if state.phase is Phase.DOWN:
        return f"{replica.name} isn't started yet"
    return f"{replica.name} is {state.phase.words} for {lasts}: {state.reason}"
