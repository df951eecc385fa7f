"""Ready by: how early a rise begins, who begins first, and that nothing falls back on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig import House

from warmd.ladder import Phase, Rung
from warmd.planner.timetable import Rise, line_up
from warmd.policy import Calendar, Hygiene, Rank, Scale, Window
from warmd.policy.lead import Figures, Leads, leads_of, with_margin
from warmd.supervisor import SleepPolicy

EIGHT_GB = 8_000_000_000
SLEEPS = SleepPolicy(1, Hygiene(50, 10**9), rehearse=False, key="k")


@pytest.mark.parametrize(
    ("figures", "stands", "to", "seconds", "stage"),
    [
        # Nothing measured: the estimate, and half a gigabyte a second.
        (Figures(files=EIGHT_GB), Rung.COLD, Rung.HOT, 90.0, 16.0),
        # Nobody has looked at the files yet.
        (Figures(), Rung.STAGED, Rung.HOT, 90.0, 60.0),
        # Met on disk: what one that meets them in RAM takes at most.
        (Figures({Rung.COLD: [80.0]}, files=EIGHT_GB), Rung.COLD, Rung.HOT, 80.0, 16.0),
        (
            Figures({Rung.COLD: [80.0], Rung.STAGED: [40.0]}, files=EIGHT_GB, disk_rate=4e9),
            *(Rung.COLD, Rung.HOT, 40.0, 2.0),
        ),
        # No room to stage them: they are read while the engine starts.
        (
            Figures({Rung.COLD: [80.0], Rung.STAGED: [40.0]}, files=EIGHT_GB, stages=False),
            *(Rung.COLD, Rung.HOT, 80.0, 0.0),
        ),
        # 19 of 20 take no longer.
        (Figures({Rung.STAGED: [*range(1, 21)]}, files=0), Rung.STAGED, Rung.HOT, 19.0, 0.0),
        (Figures({Rung.STAGED: [30.0]}, sleep_s=4.0, files=0), Rung.COLD, Rung.ASLEEP, 34.0, 0.0),
        (Figures(wakes=[2.0, 3.0], files=0), Rung.ASLEEP, Rung.HOT, 3.0, 0.0),
        (Figures(files=0), Rung.ASLEEP, Rung.HOT, 6.0, 0.0),
        (Figures(files=0), Rung.HOT, Rung.ASLEEP, 0.0, 0.0),
    ],
)
def test_a_lead_is_what_that_path_took(
    figures: Figures, stands: Rung, to: Rung, seconds: float, stage: float
) -> None:
    leads = leads_of(figures)
    assert (leads.rise(stands, to), leads.stage) == (seconds, stage)


def test_a_margin_is_the_larger_of_five_seconds_and_a_tenth() -> None:
    assert [with_margin(s) for s in (0.0, 3.0, 50.0, 200.0)] == [0.0, 8.0, 55.0, 220.0]


def rise(
    name: str, by: float, start: float, *, stage: float = 0.0, cards: str = "0", wake: bool = False
) -> Rise:
    leads = Leads(start, start, 5.0, stage, stage)
    stands = Rung.ASLEEP if wake else Rung.COLD
    return Rise(f"{name}.0", name, 0, by, Rung.HOT, stands, leads, frozenset(cards.split()))


def begins(*rises: Rise) -> dict[str, float]:
    slots = line_up(rises)
    return {each.model: slots[each.key].begin_at for each in rises}


def test_the_longest_begins_first_and_gpus_do_not_wait_for_each_other() -> None:
    long, short = rise("long", 1000.0, 100.0), rise("short", 1000.0, 50.0)
    apart = rise("apart", 1000.0, 50.0, cards="1")
    assert begins(short, long, apart) == {"short": 945.0, "long": 835.0, "apart": 945.0}
    both = rise("both", 1000.0, 200.0, cards="0 1")
    assert begins(short, apart, both) == {"short": 945.0, "apart": 945.0, "both": 725.0}


def test_an_earlier_deadline_makes_room_for_a_later_one_only_where_they_meet() -> None:
    first, second = rise("first", 900.0, 100.0), rise("second", 1000.0, 150.0)
    assert begins(first, second) == {"second": 835.0, "first": 725.0}
    assert begins(first, rise("second", 2000.0, 150.0)) == {"second": 1835.0, "first": 790.0}


def test_files_come_one_after_the_other_before_their_starts() -> None:
    a, b = rise("a", 1000.0, 50.0, stage=40.0), rise("b", 1000.0, 50.0, stage=100.0, cards="1")
    slots = line_up([a, b])
    assert slots[a.key].stage_at == 945.0 - 45.0
    assert slots[b.key].stage_at == 900.0 - 110.0
    assert line_up([rise("c", 1000.0, 3.0, stage=40.0, wake=True)])["c.0", 1000.0].stage_at == 992.0


_RISES = st.lists(
    st.builds(
        rise,
        st.integers(0, 30).map(str),
        st.integers(10, 20).map(lambda n: 600.0 * n),
        st.integers(1, 300).map(float),
        stage=st.integers(0, 100).map(float),
        cards=st.sampled_from(["0", "1", "2", "0 1", "1 2", ""]),
        wake=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda each: each.model,
)


@given(_RISES)
def test_slots_never_overlap_and_all_end_in_time(rises: Sequence[Rise]) -> None:
    slots = line_up(rises)
    for card in "012":
        lane = sorted(
            (slots[r.key].begin_at, slots[r.key].begin_at + with_margin(r.takes), r.by)
            for r in rises
            if card in r.cards or not r.cards
        )
        assert all(end <= by + 1e-6 for _, end, by in lane)
        assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(lane))
    disk = sorted(
        (slots[r.key].stage_at, slots[r.key].stage_at + with_margin(r.stages), r)
        for r in rises
        if r.stages
    )
    assert all(end <= slots[r.key].begin_at + 1e-6 for _, end, r in disk)
    assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(disk))


@given(_RISES, st.sets(st.integers(0, 30).map(str)), st.sets(st.integers(0, 30).map(str)))
def test_what_has_begun_is_never_found_to_be_too_early(
    rises: Sequence[Rise], awake: set[str], asleep: set[str]
) -> None:
    """Whatever the others do meanwhile: a hold is no later than any begin that there was."""
    scene = [
        replace(
            r, under_way=r.model in awake, stands=Rung.ASLEEP if r.model in asleep else r.stands
        )
        for r in rises
    ]
    then, now = line_up(scene), line_up(rises)
    for each in scene:
        if not each.under_way:
            assert now[each.key].hold_at <= then[each.key].begin_at + 1e-6
        assert now[each.key].hold_files_at <= then[each.key].stage_at + 1e-6
        assert then[each.key].hold_at == now[each.key].hold_at


def opening(at: float, rung: Rung = Rung.HOT, replicas: int | None = None) -> Calendar:
    """A calendar with one window, from `at` (seconds after midnight, UTC) for an hour."""
    start = time(int(at // 3600), int(at % 3600 // 60))
    to = time(int(at // 3600) + 1, int(at % 3600 // 60))
    return Calendar((Window("daily", "UTC", start, to, rung=rung, replicas=replicas),))


def planned(house: House, name: str, calendar: Calendar, count: int = 1, **more: Any) -> None:
    terms = house.terms(name, Rung.COLD, count, **more)
    house.supervisor.adopt(name, replace(terms, wish=replace(terms.wish, calendar=calendar)))


async def test_a_window_makes_ready_before_it_opens_and_the_target_never_falls() -> None:
    house = House()
    opens = 7200.0  # the wall clock is 1000 s ahead
    planned(house, "m", opening(opens))
    house.supervisor.models["m"].starts_from = {Rung.STAGED: [100.0]}
    began: dict[Rung, float] = {}
    heights: list[int] = []
    house.stager.done.set()
    wall = opens - 400.0
    while wall < opens:
        house.time.now = wall - 1000.0
        await house.rest()
        model = house.supervisor.models["m"]
        heights.append(model.target.rung.height)
        began.setdefault(model.target.rung, wall)
        if house.phase("m.0") is Phase.STARTING and wall >= began[Rung.HOT] + 20.0:
            # It is done sooner than any before: its lead is shorter from now on.
            house.makes["m.0"].up.set()
            house.makes["m.0"].answers.set()
        wall += 5.0
    assert heights == sorted(heights)
    assert house.phase("m.0") is Phase.READY
    assert began[Rung.HOT] == pytest.approx(opens - 110.0, abs=5.0)
    assert began[Rung.STAGED] == pytest.approx(opens - 115.0, abs=10.0)
    assert (
        house.supervisor.models["m"].target.reason
        == "it is to be hot by 02:00: then its window daily is open"
    )
    house.time.now = opens - 1000.0
    await house.rest()
    assert house.supervisor.models["m"].target.reason == "its window daily is open"
    await house.launcher.close()


async def test_the_first_start_measured_does_not_send_it_back() -> None:
    """Its estimate was 90 s and it took none: it stays for the window."""
    house = House()
    planned(house, "m", opening(7200.0))
    house.stager.done.set()
    house.time.now = 7200.0 - 98.0 - 1000.0
    await house.make_ready("m.0")
    for _ in range(9):
        house.time.now += 10.0
        await house.rest()
        assert house.phase("m.0") is Phase.READY
    await house.launcher.close()


async def test_a_reload_that_leaves_the_calendar_alone_does_not_call_off_what_rises() -> None:
    house = House()
    planned(house, "m", opening(7200.0))
    house.stager.done.set()
    house.time.now = 7200.0 - 50.0 - 1000.0
    await house.until(lambda: house.phase("m.0") is Phase.STARTING)
    terms = house.supervisor.models["m"].terms
    assert house.supervisor.view.outlook("m", terms).target.rung is Rung.HOT
    never = replace(terms, wish=replace(terms.wish, calendar=Calendar()))
    assert house.supervisor.view.outlook("m", never).target.rung is Rung.COLD
    await house.launcher.close()


async def test_a_reload_that_moves_the_window_of_what_rises_calls_it_off_once_or_never() -> None:
    house = House()
    planned(house, "m", opening(7200.0))
    house.supervisor.models["m"].starts_from = {Rung.STAGED: [60.0]}
    house.stager.done.set()
    house.time.now = 7200.0 - 50.0 - 1000.0
    await house.until(lambda: house.phase("m.0") is Phase.STARTING)
    for opens in (7260.0, 7200.0, 7140.0, 7200.0):  # it may have been begun for any of these
        planned(house, "m", opening(opens))
        await house.rest()
        assert (house.phase("m.0"), len(house.launcher.started)) == (Phase.STARTING, 1)
    planned(house, "m", opening(7800.0))
    for _ in range(10):
        house.time.now += 10.0
        await house.rest()
        assert house.phase("m.0") is Phase.DOWN
    assert len(house.launcher.started) == 1
    house.time.now = 7800.0 - 30.0 - 1000.0
    await house.make_ready("m.0")
    assert len(house.launcher.started) == 2
    await house.launcher.close()


@pytest.mark.parametrize("outlives", [True, False])
async def test_a_restart_of_warmd_within_the_lead_goes_on_where_it_was(outlives: bool) -> None:
    old = House()
    planned(old, "m", opening(7200.0))
    old.stager.done.set()
    old.time.now = 7200.0 - 60.0 - 1000.0
    await old.make_ready("m.0")
    await old.die()
    house = House(after=old)
    planned(house, "m", opening(7200.0))
    found, _ = house.supervisor.succession.left_behind()
    house.launcher.sweep(spare=found if outlives else ())
    for name, record in found.items() if outlives else ():
        house.supervisor.succession.take_over(name, record)
    house.stager.done.set()
    house.tick()
    target = house.supervisor.models["m"].target
    assert (target.rung, target.rank) == (Rung.HOT, Rank.CALENDAR)
    if outlives:
        await house.until(lambda: house.phase("m.0") is Phase.READY)
    else:
        await house.until(lambda: bool(house.launcher.started))
        house.makes["m.0"].up.set()
        await house.until(lambda: house.phase("m.0") is Phase.READY)
    assert len(house.launcher.started) == (0 if outlives else 1)
    await house.launcher.close()


async def test_what_is_due_earlier_starts_first() -> None:
    house = House()
    for name, opens, took in (("late", 7260.0, 10.0), ("soon", 7200.0, 100.0)):
        planned(house, name, opening(opens))
        house.supervisor.models[name].starts_from = {Rung.STAGED: [took]}
    house.stager.done.set()
    house.time.now = 7190.0 - 1000.0  # both are due: warmd was not there before
    await house.rest()
    assert [house.phase(f"{n}.0") for n in ("soon", "late")] == [Phase.STARTING, Phase.DOWN]
    await house.launcher.close()


async def test_the_second_replica_alone_rises_for_a_window_of_two() -> None:
    house = House()
    planned(house, "m", opening(7200.0, replicas=2), count=2)
    house.supervisor.models["m"].starts_from = {Rung.STAGED: [10.0]}
    house.stager.done.set()
    house.time.now = 7200.0 - 28.0 - 1000.0
    await house.make_ready("m.0")
    model = house.supervisor.models["m"]
    assert (model.target.rung, model.target.replicas) == (Rung.HOT, 1)
    house.time.now = 7200.0 - 14.0 - 1000.0
    await house.make_ready("m.1")
    assert house.phase("m.0") is Phase.READY
    await house.launcher.close()


async def test_a_window_of_fewer_than_the_least_for_its_load_makes_those_ready() -> None:
    house = House()
    planned(house, "m", opening(7200.0, replicas=1), count=2)
    terms = house.supervisor.models["m"].terms
    wish = replace(terms.wish, scale=Scale(4, 4, 10.0, 60.0))
    house.supervisor.adopt("m", replace(terms, wish=wish))
    house.stager.done.set()
    house.time.now = 7200.0 - 10.0 - 1000.0
    for name in ("m.0", "m.1"):
        await house.make_ready(name)
    await house.launcher.close()


async def test_a_window_moves_what_only_rests_hot_and_a_request_moves_that_back() -> None:
    house = House()
    for name, resting in (("rests", Rung.HOT), ("m", Rung.COLD)):
        terms = house.terms(name, resting, sleep=SLEEPS, pool="p", vram=60)
        calendar = opening(7200.0) if name == "m" else Calendar()
        wish = replace(terms.wish, calendar=calendar)
        house.supervisor.adopt(name, replace(terms, wish=wish))
    house.stager.done.set()
    await house.make_ready("rests.0")
    house.time.now = 7200.0 - 60.0 - 1000.0
    await house.make_ready("m.0")
    assert house.phase("rests.0") is Phase.ASLEEP
    for _ in range(5):
        house.time.now += 100.0
        await house.rest()
    phases = house.phase("m.0"), house.phase("rests.0")
    assert phases == (Phase.READY, Phase.ASLEEP), "neither moves again by itself"
    lease = asyncio.create_task(house.supervisor.acquire("rests"))
    await house.until(lambda: house.phase("rests.0") is Phase.READY)
    (await lease).release()
    house.time.now += 30.0
    await house.rest()
    assert house.phase("m.0") is Phase.ASLEEP, "it was in use a moment ago"
    house.time.now += 31.0  # its idle.after
    await house.until(lambda: house.phase("m.0") is Phase.READY)
    await house.launcher.close()


async def test_an_operators_word_goes_before_what_comes() -> None:
    house = House()
    planned(house, "m", opening(7200.0))
    house.supervisor.word.set_target("m", Rung.COLD, None)
    house.time.now = 7190.0 - 1000.0
    await house.rest()
    assert house.phase("m.0") is Phase.DOWN


@settings(max_examples=40)
@given(st.integers(0, 7200), st.integers(1, 200))
def test_a_restart_at_any_time_finds_the_same(gone: int, took: int) -> None:
    """A daemon that has just come up wants what one that was never away wants."""

    async def wanted(now: float) -> Rung:
        house = House()
        planned(house, "m", opening(7200.0))
        house.supervisor.models["m"].starts_from = {Rung.STAGED: [float(took)]}
        house.time.now = now - 1000.0
        house.supervisor.tick()
        return house.supervisor.models["m"].target.rung

    lead = with_margin(took)
    due = asyncio.run(wanted(float(gone)))
    if gone >= 7200.0 - lead:
        assert due is Rung.HOT
    elif gone < 7200.0 - lead - 70.0:
        assert due is Rung.COLD


@pytest.mark.parametrize(("later", "to"), [(60.0, Rung.HOT), (3600.0, Rung.COLD)])
async def test_a_plan_asks_the_moved_calendar_what_it_wants_soon(later: float, to: Rung) -> None:
    house = House()
    planned(house, "m", opening(7200.0))
    house.stager.done.set()
    house.time.now = 7200.0 - 50.0 - 1000.0
    await house.until(lambda: house.phase("m.0") is Phase.STARTING)
    terms, view = house.supervisor.models["m"].terms, house.supervisor.view
    moved = replace(terms, wish=replace(terms.wish, calendar=opening(7200.0 + later)))
    before = house.supervisor.models["m"].coming
    coming = view.coming_on({"m": moved}, house.supervisor.rules)
    ahead = view.outlook("m", moved, None, coming["m"])
    assert house.supervisor.models["m"].coming is before, "who asks changes nothing"
    house.supervisor.adopt("m", moved)
    await house.rest()
    assert (ahead.target.rung, house.supervisor.models["m"].target.rung) == (to, to)
    await house.launcher.close()
