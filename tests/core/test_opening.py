"""Whether a calendar is kept: each time to be ready by is judged once, and told where missed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time

import pytest
from rig import House

from warmd.cron import Cron
from warmd.ladder import Phase, Rung
from warmd.policy import Calendar, Transition, Window, Wish
from warmd.policy.opening import (
    Attendance,
    Opened,
    Opening,
    Over,
    Ready,
    attend,
    mark_of,
    opening_of,
)
from warmd.supervisor import Known

DAY = Window("09:00-18:00", "UTC", time(9), time(18), replicas=1)
NOON = Window("11:00-12:00", "UTC", time(11), time(12), replicas=2)
HIDDEN = Window("10:00-17:00", "UTC", time(10), time(17), rung=Rung.ASLEEP)
WISH = Wish(Rung.COLD, 1, 60.0)


def at(clock: str, day: int = 23) -> float:
    return datetime.fromisoformat(f"2026-11-{day:02} {clock}").replace(tzinfo=UTC).timestamp()


def found(calendar: Calendar, clock: str) -> tuple[float, int] | None:
    opening = opening_of(calendar, WISH, calendar.at(at(clock)))
    return None if opening is None else (opening.at, opening.replicas)


def test_an_opening_is_as_old_as_so_many_have_been_wanted() -> None:
    calendar = Calendar((DAY, NOON, HIDDEN))
    assert found(calendar, "08:59:59") is None
    assert found(calendar, "09:00") == (at("09:00"), 1)
    assert found(calendar, "10:30") == (at("09:00"), 1), "what opens behind it changes nothing"
    assert found(calendar, "11:30") == (at("11:00"), 2)
    assert found(calendar, "12:30") == (at("09:00"), 1)
    assert found(calendar, "18:00") is None
    always = Calendar((), (Transition(Cron("0 9 * * *", "UTC"), Rung.HOT),))
    assert found(always, "10:00") is not None, "it fires anew each day for ever"
    asleep = Calendar((replace(DAY, rung=Rung.ASLEEP),))
    assert found(asleep, "10:00") is None


ONE = Opening(at("09:00"), at("18:00"), "window", 1)
TWO = Opening(at("11:00"), at("12:00"), "window of noon", 2)
FRESH = Attendance(since=at("08:00"))


def test_what_is_missed_is_told_once_and_once_more_when_it_is_ready() -> None:
    state, told = attend(FRESH, ONE, 0, at("09:00:01"), rules=True)
    assert told == [Opened(ONE, missed=True)]
    for clock in ("09:00:02", "09:05"):
        state, told = attend(state, ONE, 0, at(clock), rules=True)
        assert told == []
    state, told = attend(state, ONE, 1, at("09:07"), rules=True)
    assert told == [Ready(ONE, 420.0)]
    for ready in (0, 1):  # it failed in the middle: that is told elsewhere
        state, told = attend(state, ONE, ready, at("10:00"), rules=True)
        assert told == []


def test_what_is_kept_is_judged_too_and_what_lies_within_it_by_itself() -> None:
    state, told = attend(FRESH, ONE, 1, at("09:00:01"), rules=True)
    assert told == [Opened(ONE, missed=False)]
    state, told = attend(state, TWO, 1, at("11:00"), rules=True)
    assert told == [Opened(TWO, missed=True)]
    state, told = attend(state, ONE, 1, at("12:00"), rules=True)
    assert told == [Over(TWO)]
    assert attend(state, ONE, 1, at("12:01"), rules=True) == (state, [])


@pytest.mark.parametrize("missed", [False, True])
def test_it_is_told_no_more_once_an_operator_says_otherwise(missed: bool) -> None:
    state = attend(FRESH, ONE, 0, at("09:00"), rules=True)[0] if missed else FRESH
    state, told = attend(state, ONE, 0, at("09:05"), rules=False)
    assert told == []
    assert state.late is None
    for ready in (0, 1):
        assert attend(state, ONE, ready, at("09:10"), rules=True)[1] == []
    assert attend(state, None, 0, at("18:00"), rules=True)[1] == []


def test_one_that_never_was_ready_is_told_as_it_ends() -> None:
    state, _ = attend(FRESH, ONE, 0, at("09:00"), rules=True)
    state, told = attend(state, None, 0, at("18:00"), rules=True)
    assert told == [Over(ONE)]
    assert attend(state, None, 0, at("18:01"), rules=True) == (state, [])


def a_house(clock: str, after: House | None = None, *windows: Window) -> House:
    house = House(after=after)
    terms = house.terms("m", Rung.COLD)
    calendar = Calendar(windows or (DAY,))
    house.supervisor.adopt("m", replace(terms, wish=replace(terms.wish, calendar=calendar)))
    house.time.wall_ahead = at(clock) - house.time.now
    house.stager.done.set()
    return house


def told(house: House) -> list[str]:
    return [line for line in house.recorder.lines if " missed " in line or " late " in line]


async def test_a_start_that_takes_longer_than_ever_is_named_with_how_far_it_is() -> None:
    house = a_house("08:50")
    await house.rest()
    house.time.now += 9 * 60 + 1.0
    await house.until(lambda: house.phase("m.0") is Phase.STARTING)
    house.time.now += 59.5
    await house.rest()
    want = "m missed (starting): m.0 has been starting for 1 min (imports)"
    assert told(house) == [want]
    house.time.now += 20.0
    await house.make_ready("m.0")
    await house.rest()
    assert told(house) == [want, "m ready 20.5 s late for its window 09:00-18:00"]
    assert house.recorder.opened[0][1] == at("09:00")


async def test_a_start_that_failed_is_named_with_its_cause_and_its_next_try() -> None:
    house = a_house("08:59:59.500")
    house.launcher.refusal = "no such file"
    await house.until(lambda: house.phase("m.0") is Phase.BACKING_OFF)
    house.time.now += 0.5
    await house.rest()
    (line,) = told(house)
    assert line.startswith("m missed (failing): m.0 ")
    assert line.endswith(" after a failure: no such file")


async def test_who_keeps_it_from_starting_is_named() -> None:
    house = a_house("08:50")
    terms = replace(house.supervisor.models["m"].terms, unsized="its disk is away")
    house.supervisor.adopt("m", terms)
    await house.rest()
    house.time.now += 600.0
    await house.rest()
    assert told(house) == ["m missed (held-up): its disk is away"]
    house.supervisor.adopt("m", replace(terms, unsized=None))
    await house.rest()
    assert told(house)[1:] == [], "a reload with the same calendar judges nothing anew"
    await house.make_ready("m.0")
    await house.rest()
    assert told(house)[1:] == ["m ready 0 s late for its window 09:00-18:00"]


async def test_a_start_that_fails_meanwhile_says_more_than_who_was_in_its_way() -> None:
    house = a_house("08:50")
    terms = replace(house.supervisor.models["m"].terms, unsized="its disk is away")
    house.supervisor.adopt("m", terms)
    await house.rest()
    house.time.now += 600.0
    await house.rest()
    house.launcher.refusal = "no such file"
    house.supervisor.adopt("m", replace(terms, unsized=None))
    await house.until(lambda: house.phase("m.0") is Phase.BACKING_OFF)
    for _ in range(3):
        await house.rest()
        house.time.now += 1.0
    lines = [line for line in house.recorder.lines if " fails for its " in line]
    assert told(house) == ["m missed (held-up): its disk is away"]
    assert len(lines) == 1, lines
    assert lines[0].startswith("m fails for its window 09:00-18:00: m.0 ")
    assert lines[0].endswith(" after a failure: no such file")


async def test_in_time_is_kept_and_no_word_is_lost_on_it() -> None:
    house = a_house("08:50")
    await house.rest()
    house.time.now += 540.0
    await house.make_ready("m.0")
    house.time.now += 60.0
    await house.rest()
    assert house.recorder.opened == [("m", at("09:00"), None)]
    assert told(house) == []


@pytest.mark.parametrize("says", [Rung.STAGED, Rung.COLD])
async def test_an_operator_s_word_goes_before_it(says: Rung) -> None:
    house = a_house("08:50")
    house.supervisor.word.set_target("m", says, 7200.0)
    await house.rest()
    house.time.now += 700.0
    await house.rest()
    assert house.recorder.opened == []


async def test_what_opened_before_anybody_cared_is_nobody_s_fault() -> None:
    house = a_house("10:00")
    await house.rest()
    assert house.recorder.opened == []
    wish = house.supervisor.models["m"].terms.wish
    other = replace(wish, calendar=Calendar((replace(DAY, start=time(8), text="08:00-18:00"),)))
    house.supervisor.adopt("m", replace(house.supervisor.models["m"].terms, wish=other))
    await house.rest()
    assert house.recorder.opened == []


async def test_the_next_daemon_tells_nothing_twice_and_goes_on_waiting() -> None:
    first = a_house("08:50")
    await first.rest()
    first.time.now += 600.0
    await first.rest()
    assert len(told(first)) == 1
    known = Known(attendance=replace(first.supervisor.models["m"].attendance, since=at("09:00")))
    await first.die()
    second = a_house("09:05", first)
    second.supervisor.succession.restore("m", known)
    await second.rest()
    assert told(second) == []
    second.time.now += 60.0
    await second.make_ready("m.0")
    await second.rest()
    assert told(second) == ["m ready 360 s late for its window 09:00-18:00"]
    await second.die()
    third = a_house("09:10", second)
    third.time.wall_ahead = at("09:10", 24) - third.time.now
    third.supervisor.succession.restore("m", known)
    await third.rest()
    assert told(third) == ["m missed (away): warmd didn't run then, and began at 09:10"]


async def test_a_start_that_is_called_off_as_its_window_closes_is_told() -> None:
    house = a_house("17:59:00")
    await house.until(lambda: house.phase("m.0") is Phase.STARTING)
    house.time.now += 60.0
    await house.until(lambda: house.phase("m.0") is Phase.DOWN)
    why = "m.0 called off after 60 s: it rests cold and nobody asks for it"
    assert [line for line in house.recorder.lines if "called off" in line] == [why]


async def test_what_opens_first_while_no_daemon_runs_is_told_by_the_next_one() -> None:
    first = a_house("08:58")
    await first.rest()
    known = Known(attendance=first.supervisor.models["m"].attendance)
    assert not known.attendance.known, "nothing had opened yet"
    await first.die()
    same = a_house("09:01", first)
    same.supervisor.succession.restore("m", known)
    await same.rest()
    assert told(same) == ["m missed (away): warmd didn't run then, and began at 09:01"]
    await same.die()
    other = a_house("09:01", same, DAY, NOON)
    other.supervisor.succession.restore("m", known)
    await other.rest()
    assert told(other) == [], "another calendar: what it wanted before it was there isn't judged"


def test_a_calendar_is_known_again_however_it_was_read() -> None:
    dates = [datetime(2026, 12, day, tzinfo=UTC).date() for day in range(1, 20)]
    one = replace(DAY, dates=frozenset(dates), skipped=frozenset(dates[:9]))
    again = replace(DAY, dates=frozenset(reversed(dates)), skipped=frozenset(dates[8::-1]))
    assert mark_of(Calendar((one,))) == mark_of(Calendar((again,)))
    marks = {mark_of(Calendar(windows)) for windows in ((), (DAY,), (NOON,), (one,), (DAY, NOON))}
    assert len(marks) == 5
