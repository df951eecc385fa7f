"""What the calendar costs: the targets of many models by their windows and cron entries."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from datetime import time as clock_time
from math import inf
from statistics import quantiles

from report import Table

from warmd.cron import Cron
from warmd.ladder import Rung
from warmd.policy import Calendar, Demand, Transition, Window, Wish, decide_target

MODELS, WINDOWS, ENTRIES = 64, 10, 10
_AIM_MS = 1.0
_ZONE = "Europe/Berlin"
MONDAY = datetime(2026, 11, 23, 8, tzinfo=UTC).timestamp()  # 09:00 there, when all begin to work
_NOBODY = Demand(0, 0, inf)


def drawn(chance: random.Random) -> Calendar:
    """Ten windows, one of them the same for all, and ten cron entries, none as another model's."""
    work = Window("mon-fri 09:00-18:00", _ZONE, clock_time(9), clock_time(18), frozenset(range(5)))
    windows = [work]
    while len(windows) < WINDOWS:
        start, to = (clock_time(chance.randrange(24), chance.randrange(60)) for _ in range(2))
        days = frozenset(chance.sample(range(7), 3))
        windows.append(Window(f"{days} {start}-{to}", _ZONE, start, to, days, rung=Rung.ASLEEP))
    transitions = [
        Transition(
            Cron(f"{chance.randrange(60)} {hour * 2} * * {chance.randrange(7)}", _ZONE), Rung.STAGED
        )
        for hour in range(ENTRIES)
    ]
    return Calendar(tuple(windows), tuple(transitions), _ZONE)


def run(seconds: float) -> Sequence[Table]:
    """Evaluate at moments of a year, for `seconds` in all."""
    chance = random.Random(7)  # noqa: S311  no secret is made of it
    fresh: list[list[Calendar]] = []

    def calendars() -> list[Calendar]:
        if not fresh:
            fresh.append([drawn(chance) for _ in range(MODELS)])
        return fresh[-1]

    def anew() -> list[Calendar]:
        made = [drawn(chance) for _ in range(MODELS)]
        for each in made:
            for transition in each.transitions:
                transition.cron.next_after(0.0)  # as the config check does
        return made

    def steady() -> float:
        says = [(Wish(Rung.STAGED, 1, 300.0, calendar=c), c.at(MONDAY)) for c in calendars()]
        began = time.process_time()
        for wish, stretch in says:
            if stretch.holds_at(MONDAY):  # as each tick asks first
                decide_target(wish, None, _NOBODY, MONDAY, stretch)
        return time.process_time() - began

    def common_change() -> float:
        for each in calendars():
            each.at(MONDAY - 1)
        return _cpu(lambda: [each.at(MONDAY) for each in calendars()])

    def next_change() -> float:
        each = chance.choice(calendars())
        now = MONDAY + chance.uniform(0, 3e7)
        each.at(now)
        return _cpu(lambda: each.at(now).until)

    def by_chance() -> float:
        now = MONDAY + chance.uniform(0, 3e7)
        return _cpu(lambda: [each.at(now) for each in calendars()])

    def first() -> float:
        made = anew()
        return _cpu(lambda: [each.at(MONDAY) for each in made])

    kinds = {
        "64 targets while nothing changes": (steady, _AIM_MS),
        "64 calendars at a change that all have (09:00)": (common_change, _AIM_MS),
        "one calendar: its next change": (next_change, None),
        "64 calendars at any moment: the clock was set": (by_chance, None),
        "64 calendars, 1280 different entries, the first time": (first, None),
    }
    rows = {
        name: (*_cuts(measure, seconds / len(kinds)), aim) for name, (measure, aim) in kinds.items()
    }
    title = f"calendar: {MODELS} models, {WINDOWS} windows and {ENTRIES} cron entries each"
    return [Table(f"{title}, ms of CPU", ("p50", "p99", "max", "aim"), rows)]


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _cuts(measure: Callable[[], float], seconds: float) -> tuple[float, float, float]:
    taken: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(taken) < 3:
        taken.append(measure() * 1000)
    cuts = quantiles(taken, n=100, method="inclusive")
    return cuts[49], cuts[98], max(taken)
