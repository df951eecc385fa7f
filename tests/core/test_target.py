"""Targets follow from facts: config, clock, demand, and what an operator set."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmd.ladder import Phase, Rung, Stage
from warmd.policy import (
    SILENT,
    Coming,
    Demand,
    Override,
    Progress,
    Rank,
    Stretch,
    Wish,
    decide_target,
    held_hot,
    measured_ready_in,
    ready_in,
    soonest,
    why_not_ready,
)
from warmd.spoken import duration

NOBODY = Demand(waiting=0, in_flight=0, idle_s=math.inf)
STAGED = Wish(Rung.STAGED, 2, idle_after=300.0, idle_then=Rung.STAGED, idle_keep=9e9)


@pytest.mark.parametrize(
    ("demand", "rung", "reason"),
    [
        (NOBODY, Rung.STAGED, "it rests staged and nobody asks for it"),
        (Demand(1, 0, math.inf), Rung.HOT, "1 request waits for it"),
        (Demand(3, 1, 0.0), Rung.HOT, "3 requests wait for it"),
        (Demand(0, 2, 5.0), Rung.HOT, "2 requests in flight"),
        (Demand(0, 0, 299.0), Rung.HOT, "it had a request within the last 5 min"),
        (Demand(0, 0, 300.0), Rung.STAGED, "it had no request for 5 min and rests staged"),
    ],
)
def test_demand_makes_hot_and_quiet_lets_rest(demand: Demand, rung: Rung, reason: str) -> None:
    target = decide_target(STAGED, None, demand, now=0.0)
    assert (target.rung, target.reason, target.replicas) == (rung, reason, 2)


def test_what_cools_to_sleep_rests_when_its_time_there_is_over() -> None:
    wish = Wish(Rung.STAGED, 1, idle_after=300.0, idle_keep=7200.0)
    asleep = decide_target(wish, None, Demand(0, 0, 300.0), 0.0)
    assert (asleep.rung, asleep.reason) == (
        Rung.ASLEEP,
        "it had no request for 5 min, and is to be asleep until it had none for 2 h",
    )
    rests = decide_target(wish, None, Demand(0, 0, 7200.0), 0.0)
    assert (rests.rung, rests.reason) == (Rung.STAGED, "it had no request for 2 h and rests staged")
    lively = replace(wish, cannot_sleep="it is too lively")
    told = decide_target(lively, None, Demand(0, 0, 300.0), 0.0)
    assert (told.rung, told.reason.partition(", but ")[2]) == (
        Rung.STAGED,
        "it can't sleep: it is too lively",
    )


def test_what_an_operator_had_put_aside_needs_a_new_request_to_rise_again() -> None:
    just_now = Demand(0, 0, 1.0, aside=Rung.STAGED)
    told = decide_target(STAGED, None, just_now, 0.0)
    assert (told.rung, told.rank) == (Rung.STAGED, Rank.RESTS)
    assert told.reason == (
        "nobody has asked for it since an operator set it to staged, and it rests staged"
    )
    assert decide_target(STAGED, None, replace(just_now, waiting=1), 0.0).rung is Rung.HOT
    hot = decide_target(replace(STAGED, resting=Rung.HOT), None, just_now, 0.0)
    assert (hot.rung, hot.rank) == (Rung.HOT, Rank.RESTS)
    cools = Wish(Rung.COLD, 1, idle_after=300.0, idle_keep=7200.0)
    assert decide_target(cools, None, just_now, 0.0).rung is Rung.COLD, "no start for a sleep"
    slept = replace(just_now, aside=Rung.ASLEEP)
    assert decide_target(cools, None, slept, 0.0).rung is Rung.ASLEEP, "it sleeps already"
    assert decide_target(cools, None, replace(slept, idle_s=7200.0), 0.0).rung is Rung.COLD


def test_a_model_that_rests_hot_needs_no_demand() -> None:
    assert decide_target(Wish(Rung.HOT, 1, 0.0), None, NOBODY, 0.0).rung is Rung.HOT


def test_where_room_is_short_an_operators_word_goes_before_demand_and_that_before_resting() -> None:
    operator = decide_target(STAGED, Override(Rung.HOT, None), NOBODY, 0.0)
    asked = decide_target(STAGED, None, Demand(0, 0, 1.0), 0.0)
    rests = decide_target(Wish(Rung.HOT, 1, 60.0), None, NOBODY, 0.0)
    rests_and_asked = decide_target(Wish(Rung.HOT, 1, 60.0), None, Demand(0, 0, 1.0), 0.0)
    assert operator.rank < asked.rank == rests_and_asked.rank < rests.rank


def test_what_an_operator_wants_at_least_is_an_operators_word_where_it_decides() -> None:
    floor = Override(Rung.STAGED, None, floor=True)
    cold = Wish(Rung.COLD, 1, 300.0)
    assert decide_target(cold, floor, NOBODY, 0.0).rank is Rank.OPERATOR
    assert decide_target(STAGED, floor, NOBODY, 0.0).rank is Rank.OPERATOR
    assert decide_target(cold, floor, Demand(1, 0, 0.0), 0.0).rank is Rank.DEMAND


def test_an_operator_wins_over_demand_until_the_time_is_over() -> None:
    cold = Override(Rung.COLD, until=100.0)
    waiting = Demand(1, 0, 0.0)
    held = decide_target(STAGED, cold, waiting, now=40.0)
    assert held.rung is Rung.COLD
    assert held.reason == "an operator set it to cold"
    assert decide_target(STAGED, cold, waiting, now=100.0).rung is Rung.HOT
    assert decide_target(STAGED, Override(Rung.HOT, None), NOBODY, 1e12).rung is Rung.HOT


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_the_target_is_the_same_whichever_moments_were_missed(now: float, other: float) -> None:
    override = Override(Rung.HOT, until=5e8)
    first = decide_target(STAGED, override, NOBODY, now)
    decide_target(STAGED, override, NOBODY, other)
    assert decide_target(STAGED, override, NOBODY, now) == first


def progress(phase: Phase, **known: object) -> Progress:
    facts: dict[str, object] = {
        "stage": None,
        "elapsed": 0.0,
        "retry_in": 0.0,
        "ahead": 0.0,
        "starts": [30.0, 40.0, 500.0],
    }
    return Progress(phase=phase, **(facts | known))  # type: ignore[arg-type]  # a table of facts


def test_estimates_rest_on_measured_starts() -> None:
    assert ready_in(progress(Phase.DOWN)) == 40.0
    assert ready_in(progress(Phase.BACKING_OFF, retry_in=8.0)) == 48.0
    assert ready_in(progress(Phase.STARTING, elapsed=25.0)) == 15.0
    assert ready_in(progress(Phase.STARTING, elapsed=400.0)) == 4.0, "late, so not yet nothing"
    assert ready_in(progress(Phase.DOWN, starts=[])) == 90.0
    assert ready_in(progress(Phase.DOWN, ahead=25.0)) == 65.0, "others are before it"
    assert ready_in(progress(Phase.STOPPING)) == 45.0
    assert ready_in(progress(Phase.READY)) == 1.0


def test_who_waits_is_told_what_the_model_does() -> None:
    starting = progress(Phase.STARTING, stage=Stage.WEIGHTS, elapsed=25.0)
    assert why_not_ready("m", starting) == "m is starting (weights), ready in about 15 s"
    loading = replace(starting, percent=63)
    assert why_not_ready("m", loading) == "m is starting (weights 63%), ready in about 15 s"
    late = replace(loading, elapsed=45.0)
    assert why_not_ready("m", late) == (
        "m is starting (weights 63%), which takes longer than the usual 40 s"
    )
    failed = why_not_ready("m", progress(Phase.FAILED))
    assert failed == "m can't be started and needs an operator"
    assert all(why_not_ready("m", progress(phase)).startswith("m ") for phase in Phase)


def test_before_the_quickest_that_was_measured_nobody_expects_it() -> None:
    assert soonest(progress(Phase.DOWN, ahead=25.0)) == 30.0, "others may be called off"
    assert soonest(progress(Phase.BACKING_OFF, retry_in=8.0)) == 38.0
    assert soonest(progress(Phase.STARTING, elapsed=25.0)) == 5.0
    assert soonest(progress(Phase.STARTING, elapsed=31.0)) == 0.0, "at any moment"
    assert soonest(progress(Phase.FALLING_ASLEEP, wakes=[2.0, 1.0])) == 1.0
    assert soonest(progress(Phase.ADOPTING, wakes=[2.0])) == 0.0, "it may be hot"
    assert soonest(progress(Phase.DOWN, starts=[])) == 0.0
    assert soonest(progress(Phase.ASLEEP)) == 0.0, "starts tell nothing of a wake"


def test_a_figure_is_given_where_it_was_measured_and_something_comes_of_it() -> None:
    assert measured_ready_in(progress(Phase.READY)) == 0.0
    assert measured_ready_in(progress(Phase.STARTING, elapsed=25.0)) == 15.0
    assert measured_ready_in(progress(Phase.DOWN, ahead=25.0, held_up="b starts there")) == 65.0
    assert measured_ready_in(progress(Phase.DOWN, held_up="the pool is full")) is None
    assert measured_ready_in(progress(Phase.DOWN, starts=[])) is None
    assert measured_ready_in(progress(Phase.FAILED)) is None


def test_who_waits_is_told_what_is_in_the_way_and_no_time_is_promised_for_that() -> None:
    lacks = "the host's memory lacks 3.9 GiB for m.0"
    assert why_not_ready("m", progress(Phase.DOWN, held_up=lacks)) == (
        f"m waits to be started: {lacks}; its start then takes about 40 s"
    )
    assert why_not_ready("m", progress(Phase.DOWN, held_up=lacks, starts=[])) == (
        f"m waits to be started: {lacks}; how long its start then takes was never measured yet"
    )
    assert why_not_ready("m", progress(Phase.ASLEEP, held_up=lacks, wakes=[2.0])) == (
        f"m waits to be woken: {lacks}; its wake then takes about 2 s"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0 s"),
        (0.4, "0.4 s"),
        (3.0, "3 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (200.0, "3 min 20 s"),
        (7500.0, "2 h 5 min"),
        (3600.0, "1 h"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_what_is_kept_at_least_staged_follows_its_own_policy_above_that() -> None:
    """Who stages a model ahead of need must not turn its users away."""
    floor = Override(Rung.STAGED, until=100.0, floor=True)
    resting = replace(STAGED, resting=Rung.COLD)
    kept = decide_target(resting, floor, NOBODY, 50.0)
    assert (kept.rung, kept.reason) == (Rung.STAGED, "an operator wants it at least staged")
    assert decide_target(resting, floor, NOBODY, 100.0).rung is Rung.COLD
    asked = decide_target(resting, floor, Demand(1, 0, math.inf), 50.0)
    assert asked == decide_target(resting, None, Demand(1, 0, math.inf), 50.0)
    assert [o.refuses for o in (floor, Override(Rung.STAGED, None), Override(Rung.HOT, None))] == [
        *(False, True, False)
    ]


_SOON = Coming(Rung.HOT, 1, "it is to be hot by 09:00")


@pytest.mark.parametrize(
    ("demand", "coming", "says", "expected"),
    [
        # It lifts what rests, and counts as the calendar's.
        (NOBODY, _SOON, SILENT, (Rung.HOT, 1, Rank.CALENDAR, Rung.STAGED)),
        # Who asks has what is asked for, and as many as are due.
        (Demand(1, 0, 0.0), _SOON, SILENT, (Rung.HOT, 2, Rank.DEMAND, None)),
        (Demand(1, 0, 0.0), replace(_SOON, replicas=3), SILENT, (Rung.HOT, 3, Rank.DEMAND, None)),
        # It takes nothing down.
        (Demand(1, 0, 0.0), Coming(Rung.STAGED, 1, "x"), SILENT, (Rung.HOT, 2, Rank.DEMAND, None)),
        # A window that is open stays what it is until more is due.
        (
            *(NOBODY, _SOON, Stretch(0, 9, Rung.ASLEEP, 2, "open")),
            (Rung.HOT, 2, Rank.CALENDAR, Rung.STAGED),
        ),
        (
            *(NOBODY, replace(_SOON, replicas=2), Stretch(0, 9, Rung.HOT, 1, "open")),
            (Rung.HOT, 2, Rank.CALENDAR, Rung.STAGED),
        ),
    ],
)
def test_what_comes_only_lifts(
    demand: Demand,
    coming: Coming,
    says: Stretch,
    expected: tuple[Rung, int, Rank, Rung | None],
) -> None:
    target = decide_target(STAGED, None, demand, 0.0, says, coming=coming)
    assert (target.rung, target.replicas, target.rank, target.otherwise) == expected
    down = decide_target(STAGED, Override(Rung.COLD, None), demand, 0.0, says, coming=coming)
    assert (down.rung, down.rank) == (Rung.COLD, Rank.OPERATOR)


@pytest.mark.parametrize(
    ("wish", "demand", "says", "coming", "expected"),
    [
        # Its number is what a hot window says, also where that is fewer than it has by itself.
        (STAGED, Demand(1, 0, 0.0), Stretch(0, 9, Rung.HOT, 1, "open"), None, (1, 0)),
        (STAGED, Demand(1, 0, 0.0), Stretch(0, 9, Rung.HOT, 3, "open"), None, (3, 1)),
        (STAGED, NOBODY, Stretch(0, 9, Rung.HOT, 3, "open"), None, (3, 0)),
        (STAGED, Demand(1, 0, 0.0), Stretch(0, 9, Rung.ASLEEP, 3, "open"), None, (3, 1)),
        (STAGED, Demand(1, 0, 0.0), SILENT, replace(_SOON, replicas=3), (3, 1)),
        (STAGED, NOBODY, SILENT, replace(_SOON, replicas=3), (3, 0)),
        (replace(STAGED, resting=Rung.HOT), NOBODY, SILENT, replace(_SOON, replicas=3), (3, 1)),
        (
            *(STAGED, Demand(1, 0, 0.0), Stretch(0, 9, Rung.HOT, 3, "open")),
            *(replace(_SOON, replicas=4), (4, 2)),
        ),
    ],
)
def test_how_many_there_are_and_how_many_of_them_only_the_calendar_adds(
    wish: Wish, demand: Demand, says: Stretch, coming: Coming | None, expected: tuple[int, int]
) -> None:
    target = decide_target(wish, None, demand, 0.0, says, coming=coming)
    assert (target.replicas, target.added) == expected
    assert held_hot(replace(target, rung=Rung.ASLEEP), None, "a probe", 0.0).added == 0
