"""Where models stand and why, booked by the hour; what a calendar spares those who come."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import time
from typing import cast

import pytest
from rig import FakeTime, House

from warmd.chronicle import Chronicle
from warmd.control import Metrics
from warmd.history import History
from warmd.history.hours import Hours
from warmd.ladder import Phase, Rung, Standing
from warmd.policy import Calendar, Rank, Target, Window
from warmd.residency import StartFiles
from warmd.supervisor import spared, standings

ALWAYS = Calendar((Window("daily 00:00-24:00", "UTC", time(), None),))
HOUR = 3600.0


def house(calendar: Calendar = ALWAYS, resting: Rung = Rung.STAGED, replicas: int = 1) -> House:
    house = House()
    house.time.wall_ahead = 1_750_003_200.0
    terms = house.terms("m", resting, replicas)
    wish = replace(terms.wish, calendar=calendar)
    house.supervisor.adopt("m", replace(terms, wish=wish))
    return house


def told(house: House) -> list[tuple[Rung, str, int, int, bool]]:
    found = standings(house.supervisor.models.values())
    return [(s.rung, s.cause, s.replicas, s.gpus, s.highest) for s in found]


async def test_replicas_are_counted_by_rung_and_their_gpus_while_an_engine_is_up() -> None:
    here = house(replicas=2)
    await here.rest()
    assert told(here) == [(Rung.COLD, "calendar", 2, 1, True)], "one starts, the other waits"
    here.stager.done.set()
    await here.make_ready("m.0")
    assert told(here) == [
        (Rung.HOT, "calendar", 1, 1, True),
        (Rung.STAGED, "calendar", 1, 0, False),
    ]
    lease = await here.supervisor.acquire("m")
    here.tick()
    assert told(here)[0] == (Rung.HOT, "demand", 1, 1, True)
    lease.release()
    here.time.now += 61
    here.tick()
    assert told(here)[0][1] == "calendar"
    here.supervisor.word.set_target("m", Rung.HOT, None)
    here.tick()
    assert told(here)[0][1] == "operator"


async def test_what_rests_hot_is_not_hot_for_its_calendar() -> None:
    here = house(resting=Rung.HOT)
    await here.rest()
    assert told(here)[0][1] == "rests"
    await here.make_ready("m.0")
    assert spared(here.supervisor.models["m"], here.time.now) is None


async def test_what_the_calendar_adds_is_booked_on_it_and_what_load_adds_on_demand() -> None:
    here = house(resting=Rung.HOT, replicas=3)
    model = here.supervisor.models["m"]
    for name in ("m.0", "m.1", "m.2"):
        await here.make_ready(name)
    wish = replace(
        model.terms.wish, replicas=1, calendar=Calendar((replace(ALWAYS.windows[0], replicas=2),))
    )
    here.supervisor.adopt("m", replace(model.terms, wish=wish))
    here.tick()
    by_cause = {s.cause: s.replicas for s in standings([model])}
    assert by_cause == {"rests": 2, "calendar": 1}, "the third is on its way out"
    assert sum(s.highest for s in standings([model])) == 1
    model.target = Target(Rung.HOT, 3, "it is asked for", Rank.DEMAND, extra=1, added=1)
    assert {(s.cause, s.replicas) for s in standings([model])} == {("demand", 2), ("calendar", 1)}


async def test_only_the_first_after_an_idle_time_is_spared_by_the_calendar() -> None:
    here = house()
    model = here.supervisor.models["m"]
    await here.rest()
    assert spared(model, here.time.now) is None, "it isn't hot yet: there is a wait"
    await here.make_ready("m.0")
    assert spared(model, here.time.now) is Rung.STAGED
    lease = await here.supervisor.acquire("m")
    assert spared(model, here.time.now) is None, "before the loop has looked again, too"
    lease.release()
    here.time.now += 59
    assert spared(model, here.time.now) is None, "demand would have kept it hot"
    here.time.now += 2
    here.tick()
    assert spared(model, here.time.now) is Rung.STAGED
    here.supervisor.word.set_target("m", Rung.STAGED, None)
    await here.until(lambda: here.phase("m.0") is not Phase.READY)
    assert spared(model, here.time.now) is None


async def test_without_a_calendar_nobody_is_spared() -> None:
    here = house(Calendar(), Rung.HOT)
    await here.make_ready("m.0")
    assert spared(here.supervisor.models["m"], here.time.now) is None


HOT = Standing("m", Rung.HOT, "demand", 2, 4, highest=True)
STAGED = replace(HOT, rung=Rung.STAGED, replicas=1, gpus=0, highest=False)


@pytest.mark.parametrize(
    ("seconds", "until", "booked"),
    [
        (1.0, 100.5, {0: 1.0}),
        (1.0, HOUR, {0: 1.0}),
        (3.0, HOUR + 1, {0: 2.0, 1: 1.0}),
        (2 * HOUR + 10, 3 * HOUR + 4, {0: 6.0, 1: HOUR, 2: HOUR, 3: 4.0}),
        (5.0, 2.0, {-1: 3.0, 0: 2.0}),
    ],
)
def test_a_time_is_booked_on_the_hours_it_lay_in(
    seconds: float, until: float, booked: dict[int, float]
) -> None:
    hours = Hours()
    hours.book([HOT, STAGED], seconds, until)
    found = hours.take()
    hot = {hour: count for (_, hour, rung, _), count in found.items() if rung == "hot"}
    assert {hour: count.seconds for hour, count in hot.items()} == booked
    assert math.isclose(sum(c.replica_seconds for c in hot.values()), 2 * seconds)
    assert math.isclose(sum(c.gpu_seconds for c in hot.values()), 4 * seconds)
    assert sum(count.seconds for count in found.values()) == seconds, "the highest rung alone"
    assert hours.take() == {}


class Booked:
    """The history and the metrics, as far as hours go."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float]] = []

    def count_hours(self, stood: list[Standing], seconds: float, until: float) -> None:
        self.rows += [(each.rung.value, seconds, until) for each in stood]

    def stood(self, stood: list[Standing], seconds: float) -> None:
        pass


def test_a_clock_that_is_set_and_a_flood_of_events_make_no_hours() -> None:
    time, booked = FakeTime(), Booked()
    chronicle = Chronicle(
        cast("History", booked), cast("Metrics", booked), time.clock, cast("StartFiles", None)
    )
    cold = replace(HOT, rung=Rung.COLD)
    chronicle.stands([cold])
    for _ in range(9):
        time.now += 0.1
        chronicle.stands([cold])
    assert booked.rows == [], "nothing has changed, and no second is over"
    time.now += 0.05
    chronicle.stands([HOT])
    assert [(rung, round(seconds, 3)) for rung, seconds, _ in booked.rows] == [("cold", 0.95)]
    time.wall_ahead += 10 * HOUR
    time.now += 1
    chronicle.stands([HOT])
    time.wall_ahead -= 20 * HOUR
    time.now += 1
    chronicle.stands([HOT])
    assert [(rung, round(seconds, 3)) for rung, seconds, _ in booked.rows[1:]] == [("hot", 1.0)] * 2
