"""A model under a calendar: as the clock says, wherever it was set to, and as operators say."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, time

import pytest
from rig import House

from warmd.cron import Cron
from warmd.ladder import Phase, Rung
from warmd.planner import ModelFacts
from warmd.policy import Calendar, Hygiene, Rank, Scale, Transition, Window
from warmd.supervisor import Known, SleepPolicy, Terms, calendar_status

WORK = Window("mon-fri 09:00-18:00", "UTC", time(9), time(18), frozenset(range(5)), replicas=2)
LUNCH = Window("daily 12:00-13:00", "UTC", time(12), time(13), rung=Rung.ASLEEP)
NIGHT = Transition(Cron("0 20 * * *", "UTC"), Rung.COLD)
SLEEPS = SleepPolicy(1, Hygiene(50, 10**9), rehearse=False, key="k")


def a_house(calendar: Calendar, clock: str, after: House | None = None) -> House:
    house = House(after=after)
    house.supervisor.adopt("m", under(house, calendar))
    set_clock(house, clock)
    return house


def under(house: House, calendar: Calendar) -> Terms:
    terms = house.terms("m", Rung.STAGED, 2, sleep=SLEEPS)
    return replace(terms, wish=replace(terms.wish, replicas=1, calendar=calendar))


def set_clock(house: House, clock: str) -> None:
    """Set the wall clock, as `date -s` or a suspended machine does: no time has passed."""
    wall = datetime.fromisoformat(clock).replace(tzinfo=UTC).timestamp()
    house.time.wall_ahead = wall - house.time.now


def wanted(house: House) -> ModelFacts:
    house.supervisor.tick()
    return house.supervisor.models["m"].facts(house.time.now)


async def test_the_target_goes_by_the_clock_wherever_it_is_set_to() -> None:
    house = a_house(Calendar((WORK,), (NIGHT,)), "2026-11-23 08:59:59")
    seen = []
    for clock in (
        "2026-11-23 09:00",
        "2026-11-23 17:59:59",
        "2026-11-23 18:00",
        "2026-11-23 21:00",
        "2026-11-23 12:00",  # back into the window
        "2026-11-22 12:00",  # back to the Sunday before
        "2027-11-23 12:00",
    ):
        set_clock(house, clock)
        target = wanted(house).target
        seen.append((clock[8:], target.rung, target.replicas, target.rank))
    hot, cold = (Rung.HOT, 2, Rank.CALENDAR), (Rung.COLD, 1, Rank.CALENDAR)
    assert seen == [
        ("23 09:00", *hot),
        ("23 17:59:59", *hot),
        ("23 18:00", *cold),
        ("23 21:00", *cold),
        ("23 12:00", *hot),
        ("22 12:00", *cold),
        ("23 12:00", *hot),
    ]


async def test_a_clock_set_back_into_a_window_from_hours_without_one() -> None:
    house = a_house(Calendar((WORK,)), "2026-11-23 19:00")
    assert wanted(house).target.reason == "it rests staged and nobody asks for it"
    set_clock(house, "2026-11-23 17:00")
    assert wanted(house).target.reason == "its window mon-fri 09:00-18:00 is open"


async def test_a_window_starts_its_engines_and_lets_them_go_when_it_closes() -> None:
    house = a_house(Calendar((replace(WORK, replicas=None),)), "2026-11-23 08:30:00")
    house.stager.done.set()
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    assert not house.launcher.started
    house.time.now += 1800.0
    await house.make_ready("m.0")
    house.time.now += 8 * 3600.0
    await house.rest()
    assert house.phase("m.0") is Phase.READY, "nobody asked, and its window is open"
    house.time.now += 3600.0
    await house.until(lambda: house.phase("m.0") is Phase.DOWN)
    assert len(house.launcher.started) == 1


async def test_no_sleep_is_rehearsed_as_a_window_opens_or_before_somebody_came() -> None:
    """What was ready before its window was put to sleep at the very second in which it opened."""
    house = a_house(Calendar((replace(WORK, replicas=None),)), "2026-11-23 08:30:00")
    terms = house.supervisor.models["m"].terms
    house.supervisor.models["m"].terms = replace(terms, sleep=replace(SLEEPS, rehearse=True))
    house.stager.done.set()
    await house.rest()
    house.time.now += 1720.0
    await house.make_ready("m.0")
    for _ in range(3):
        house.time.now += 60.0
        await house.rest()
    assert house.makes["m.0"].did == []
    (await house.supervisor.acquire("m")).release()
    house.time.now += 31.0
    await house.until(lambda: house.makes["m.0"].did == ["sleep 1", "wake 1"])


async def test_what_is_asked_in_a_window_below_hot_falls_back_to_its_rung_and_no_lower() -> None:
    house = a_house(Calendar((LUNCH,), (NIGHT,)), "2026-11-23 12:00")
    lease = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    (await lease).release()
    target = wanted(house).target
    assert (target.rung, target.rank) == (Rung.HOT, Rank.DEMAND)
    house.time.now += 1800.0  # longer than idle.after and idle.keep
    target = wanted(house).target
    assert (target.rung, target.reason) == (Rung.ASLEEP, "its window daily 12:00-13:00 is open")
    assert target.otherwise is Rung.STAGED


async def test_what_the_calendar_keeps_cold_is_no_refusal() -> None:
    house = a_house(Calendar((), (NIGHT,)), "2026-11-23 21:00")
    assert wanted(house).target.rung is Rung.COLD
    lease = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    (await lease).release()


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_an_operator_sets_goes_before_the_calendar_and_ends_by_itself(
    restarted: bool,
) -> None:
    calendar = Calendar((WORK,), (NIGHT,))
    house = a_house(calendar, "2026-11-23 10:00")
    house.supervisor.word.set_target("m", Rung.COLD, 7200.0)
    status = house.supervisor.view.statuses()["m"]
    ends = house.time.now + house.time.wall_ahead + 7200.0
    assert (status.target, status.rank, status.until) == (Rung.COLD, "operator", ends)
    if restarted:
        set_override = house.supervisor.models["m"].override
        house = a_house(calendar, "2026-11-23 11:00", house)
        house.supervisor.succession.restore("m", Known(override=set_override))
    set_clock(house, "2026-11-23 11:59:59")
    assert wanted(house).target.rung is Rung.COLD
    house.time.now += 1.0
    assert wanted(house).target.reason == "its window mon-fri 09:00-18:00 is open"


async def test_the_status_tells_what_rules_until_when_and_what_comes() -> None:
    house = a_house(Calendar((WORK, LUNCH), (NIGHT,)), "2026-11-23 12:30")
    wish = house.supervisor.models["m"].terms.wish
    calendar = calendar_status(wish.calendar, house.time.clock.wall())
    assert calendar is not None

    def clock(at: float | None) -> str | None:
        return None if at is None else f"{datetime.fromtimestamp(at, UTC):%d %H:%M}"

    told = [(e.words, e.is_open, e.rules, clock(e.since), clock(e.until)) for e in calendar.entries]
    assert told == [
        ("window mon-fri 09:00-18:00", True, True, "23 09:00", "23 18:00"),
        ("window daily 12:00-13:00", True, False, "23 12:00", "23 13:00"),
        ('cron entry "0 20 * * *"', None, False, "22 20:00", "23 20:00"),
    ]
    comes = [(clock(c.at), c.rung, c.replicas, c.words) for c in calendar.changes]
    night, work = 'cron entry "0 20 * * *"', "window mon-fri 09:00-18:00"
    assert comes == [
        ("23 18:00", Rung.COLD, None, night),
        ("24 09:00", Rung.HOT, 2, work),
        ("24 18:00", Rung.COLD, None, night),
    ]
    house.supervisor.tick()
    status = house.supervisor.view.statuses()["m"]
    assert (status.rank, clock(status.until)) == ("calendar", "23 18:00")
    assert status.calendar == "hot, 2 replicas until 18:00, then cold"
    set_clock(house, "2026-11-23 19:00")
    status = house.supervisor.view.statuses()["m"]
    assert status.calendar == "cold until Tue 09:00, then hot, 2 replicas"
    house.supervisor.adopt("m", under(house, Calendar((WORK,))))
    house.supervisor.tick()
    status = house.supervisor.view.statuses()["m"]
    assert (status.rank, clock(status.until)) == ("rests", "24 09:00")
    assert status.calendar == "nothing until Tue 09:00, then hot, 2 replicas"


async def test_other_terms_have_another_calendar_at_once() -> None:
    house = a_house(Calendar((WORK,)), "2026-11-23 12:00")
    assert wanted(house).target.rung is Rung.HOT
    house.supervisor.adopt("m", under(house, Calendar((LUNCH,))))
    assert wanted(house).target.rung is Rung.ASLEEP
    house.supervisor.adopt("m", under(house, Calendar()))
    assert wanted(house).target.rung is Rung.STAGED
    assert house.supervisor.view.statuses()["m"].calendar is None
    assert calendar_status(Calendar(), 0.0) is None


async def test_a_change_of_replicas_that_is_the_calendars_and_not_the_loads_says_so() -> None:
    house = a_house(Calendar((WORK,)), "2026-11-23 17:00")
    wish = house.supervisor.models["m"].terms.wish
    wish = replace(wish, resting=Rung.HOT, scale=Scale(2, 2, 10.0, 60.0), most=2)
    house.supervisor.adopt("m", replace(under(house, Calendar((WORK,))), wish=wish))
    for _ in range(3):  # its load needs but one of the two
        wanted(house)
        house.time.now += 61.0
    set_clock(house, "2026-11-23 18:00")
    wanted(house)
    wanted(house)
    assert "m wants 1 replicas, not 2: it rests hot" in house.recorder.lines


async def test_what_is_asked_for_inside_its_window_rests_only_once_that_is_over() -> None:
    """`held up` of others says for how long it stays."""
    house = a_house(Calendar((WORK,)), "2026-11-23 17:00")
    wanted(house)
    house.supervisor.models["m"].last_request = house.time.now
    facts = wanted(house)
    assert facts.target.rank is Rank.DEMAND
    assert facts.stays_for == pytest.approx(3600.0, abs=60.0)
    set_clock(house, "2026-11-23 17:59:59")
    idle_after = house.supervisor.models["m"].terms.wish.idle_after
    assert wanted(house).stays_for == pytest.approx(idle_after, abs=60.0)
