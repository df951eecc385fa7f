"""What can't be ready by the time that calendars name, in sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, isinf

from warmd.planner.forecast import Late, Outcome, Stay
from warmd.policy import Calendar
from warmd.spoken import count, duration
from warmd.wall_time import clock

NOT_WITHIN = "it is not ready within its window"
"""Said of what its calendar wants no longer before it would be ready."""

_TOLD = 8
"""So many sentences are said; the rest is counted."""


@dataclass(frozen=True)
class Shortfall:
    """One rise that is late. `together`: the models due at the same moment where it is.

    `where`: its GPUs in words, may be empty; `pool` is empty where it has none, and `fits` says how
    many of its engines that has room for; `because`: for whom or what it waits.
    """

    model: str
    calendar: Calendar
    by: float
    outcome: Outcome
    together: tuple[str, ...]
    where: str
    pool: str
    fits: int
    because: str = ""


def overdue(found: Iterable[Shortfall], now: float) -> Iterator[str]:
    """Say of each model that shall be there already why it isn't, and when it will be."""
    worst: dict[str, Shortfall] = {}
    for each in found:
        was = worst.get(each.model)
        if was is None or each.outcome.ready_at > was.outcome.ready_at:
            worst[each.model] = each
    for name in sorted(worst):
        late = worst[name]
        where = f" on {late.where}" if late.where else ""
        told = f"{name} is late since {late.calendar.clock(late.by, now)}{where}: {late.because}"
        if late.outcome.late is Late.CLOSED:
            told = f"{told}; {NOT_WITHIN}"
        yield told if isinf(late.outcome.ready_at) else f"{told}; {_ready(late, now)}"


def _ready(late: Shortfall, now: float) -> str:
    used = any(stay.used for stay in late.outcome.behind)
    least = " at the earliest" if used else ""
    ready = _to_the_minute(late.calendar, late.outcome.ready_at, now)
    return f"it is ready at {ready}{least}"


def beside(model: str, stays: Sequence[Stay]) -> str:
    """Say who has the room that `model` waits for."""
    pool = f"its room in pool {stays[0].pool}"
    used = sorted({stay.model for stay in stays if stay.used} - {model})
    others = sorted({stay.model for stay in stays if not stay.used} - {model, *used})
    told = []
    if used:
        are = "is in use and has" if len(used) == 1 else "are in use and have"
        told.append(f"{_listed(used)} {are}")
    if others:
        told.append(f"{_listed(others)} {'has' if len(others) == 1 else 'have'}")
    return f"it waits, for {' and '.join(told) or 'another replica has'} {pool}"


def _listed(models: Sequence[str]) -> str:
    return models[0] if len(models) < 2 else f"{', '.join(models[:-1])} and {models[-1]}"


def sentences(found: Iterable[Shortfall], now: float) -> Iterator[str]:
    """Say each once: what recurs at the same time of day is told of its first time."""
    told: dict[tuple[object, ...], tuple[str, int]] = {}
    by_moment: dict[tuple[object, ...], list[Shortfall]] = {}
    for each in sorted(found, key=lambda each: (each.by, each.model)):
        alone = each.model if each.outcome.late is Late.CLOSED else ""
        key = each.by, each.outcome.late, each.where, each.pool, alone
        by_moment.setdefault(key, []).append(each)
    for same in by_moment.values():
        sentence = _sentence(same, now)
        first = same[0]
        models = tuple(sorted(s.model for s in same))
        kind = _clock(first), models, first.outcome.late, first.where, first.pool
        was, times = told.get(kind, (sentence, 0))
        told[kind] = was, times + 1
    for sentence, times in list(told.values())[:_TOLD]:
        again = f" (and {count(times - 1, 'time')} more)" if times > 1 else ""
        yield sentence + again
    if len(told) > _TOLD:
        yield f"{count(len(told) - _TOLD, 'more shortfall')} like these: see warmctl plan --next 7d"


def _clock(each: Shortfall) -> str:
    return clock(each.by, each.by, each.calendar.zone)


def _sentence(same: Sequence[Shortfall], now: float) -> str:
    worst = max(same, key=lambda each: each.outcome.ready_at)
    outcome, calendar = worst.outcome, worst.calendar
    by = calendar.clock(worst.by, now)
    names, where = _names(worst.together), f" on {worst.where}" if worst.where else ""
    if outcome.late is Late.NO_ROOM:
        if len(worst.together) > 1:
            fits = "one" if worst.fits == 1 else str(worst.fits)
            return (
                f"{names} by {by} in pool {worst.pool}, which has room for {fits}: "
                f"{worst.model} finds none"
            )
        return (
            f"{worst.model} by {by} in pool {worst.pool}: it finds no room there for as long as it "
            f"is wanted: {_beside(worst, 'is hot', 'are hot')} there"
        )
    if outcome.late is Late.HELD:
        # Nobody knows for how long.
        return f"{worst.model} by {by}{where}: {worst.because}"
    if outcome.late is Late.CLOSED:
        return f"{worst.model} by {by}{where}: {NOT_WITHIN}"
    short = duration(round(outcome.ready_at - worst.by))
    ready = _to_the_minute(calendar, outcome.ready_at, worst.by)
    if outcome.late is Late.ROOM and any(stay.used for stay in outcome.behind):
        return (
            f"{worst.model} by {by}{where}: {short} short: {worst.because}; {worst.model} is ready "
            f"at {ready} at the earliest"
        )
    if outcome.late is Late.ROOM and outcome.behind and not isinf(outcome.begin_at):
        return (
            f"{worst.model} by {by}{where}: {short} short; {_beside(worst, 'has', 'have')} its "
            f"room in pool {worst.pool} before, and {worst.model} is ready at {ready}"
        )
    who = worst.model if len(worst.together) > 1 else "it"
    return f"{names} by {by}{where}: {short} short; {who} is ready at {ready}"


def _to_the_minute(calendar: Calendar, at: float, now: float) -> str:
    """Say when something is ready, and never earlier than it is."""
    return clock(ceil((at - 1.0) / 60.0) * 60.0, now, calendar.zone)


def _beside(late: Shortfall, one: str, several: str) -> str:
    """Name who has the room that is lacking, and say that with the verb that fits."""
    models = sorted({stay.model for stay in late.outcome.behind} - {late.model})
    return f"{_listed(models or ['another replica'])} {one if len(models) < 2 else several}"


def _names(models: Sequence[str]) -> str:
    return f"{_listed(models)}{('', ' both', ' all')[min(len(models), 3) - 1]}"
