"""How many replicas a load asks for: bounds, steps, and that nothing flaps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from warmd.ladder import Rung
from warmd.policy import (
    Demand,
    Load,
    Override,
    Scale,
    Scaling,
    Stretch,
    Wish,
    decide_target,
    rescale,
)

SCALE = Scale(most=4, above=4, after=10.0, cool_down=300.0)
QUIET = Load(waiting=0, running=0, ready=1)


def settled(
    scale: Scale, load: Load, seconds: float, was: Scaling, *, since: float = 0.0
) -> Scaling:
    """Look at the same load once a second, for so long."""
    for second in range(int(seconds) + 1):
        was = rescale(was, scale, 1, load, since + second)
    return was


def test_a_queue_that_lasts_asks_for_one_more() -> None:
    crowd = Load(waiting=9, running=8, ready=1)
    short = settled(SCALE, crowd, 9.0, Scaling(1))
    assert short.wanted == 1
    over = rescale(short, SCALE, 1, replace(crowd, waiting=4), 9.5)
    assert settled(SCALE, crowd, 9.0, over, since=9.6).wanted == 1, "its time begins anew"
    long = settled(SCALE, crowd, 10.0, Scaling(1))
    assert (long.wanted, long.why) == (2, "9 requests waited for 10 s")


@pytest.mark.parametrize(("waiting", "wanted"), [(9, 2), (12, 2), (13, 3), (20, 3), (21, 4)])
def test_what_is_on_its_way_is_credited_with_what_one_takes(waiting: int, wanted: int) -> None:
    """One was seen to run 8: of those who wait it will take as many."""
    scaling = settled(SCALE, Load(waiting, 8, ready=1), 600.0, Scaling(1))
    assert scaling.wanted == wanted


def test_who_waits_for_the_first_engine_does_not_tell_what_it_takes() -> None:
    cold = Load(waiting=50, running=0, ready=0)
    assert settled(SCALE, cold, 120.0, Scaling(1)).wanted == 1
    assert settled(SCALE, cold, 120.0, Scaling(1, takes=23.0)).wanted == 2, "of earlier it is known"


def test_one_after_the_other_goes_once_its_load_fits_in_fewer() -> None:
    crowd = settled(SCALE, Load(9, 24, 3), 10.0, Scaling(2))
    at_three = rescale(crowd, SCALE, 1, Load(0, 24, 3), 10.0)
    assert (at_three.wanted, at_three.takes) == (3, 8.0)
    burst = settled(SCALE, Load(9, 2, 3), 9.0, at_three)
    assert burst.takes == 8.0, "a queue that is soon over tells nothing of what one takes"
    busy = Load(waiting=0, running=13, ready=3)  # two would run 12 with room to spare
    assert settled(SCALE, busy, 900.0, at_three).wanted == 3
    calm = Load(waiting=0, running=12, ready=3)
    assert settled(SCALE, calm, 299.0, at_three).wanted == 3
    assert settled(SCALE, calm, 300.0, at_three).wanted == 2
    assert settled(SCALE, calm, 900.0, at_three).wanted == 2
    gone = settled(SCALE, QUIET, 300.0, at_three)
    assert (gone.wanted, gone.why) == (1, "its load has fitted in so few for 5 min")


def test_those_that_never_came_go_at_once() -> None:
    full = settled(SCALE, Load(100, 8, ready=1), 60.0, Scaling(1))
    assert full.wanted == 4
    assert settled(SCALE, QUIET, 300.0, full, since=60.0).wanted == 1


loads = st.builds(Load, st.integers(0, 60), st.integers(0, 60), st.integers(0, 6))
scales = st.builds(
    Scale,
    most=st.integers(1, 6),
    above=st.integers(0, 9),
    after=st.floats(0, 20),
    cool_down=st.floats(0, 60),
)


@given(scales, st.lists(st.tuples(loads, st.integers(1, 4), st.floats(0.01, 30)), max_size=60))
def test_it_is_never_beyond_its_bounds_and_goes_one_step_at_a_time(
    scale: Scale, life: list[tuple[Load, int, float]]
) -> None:
    scaling, now, rose = Scaling(1), 0.0, -math.inf
    for load, least, passes in life:
        now += passes
        was, scaling = scaling, rescale(scaling, scale, least, load, now)
        assert least <= scaling.wanted <= max(least, scale.most)
        floor = max(was.wanted, least)
        assert scaling.wanted <= floor + 1
        if scaling.wanted > floor:
            assert now - rose >= scale.after
            assert load.waiting > scale.above
            rose = now


Crowd = Callable[[float], float]


def lived(scale: Scale, takes: int, start_s: int, asked: Crowd, seconds: int) -> list[int]:
    """Live with engines that run `takes` requests each and start in `start_s`; return the numbers.

    `asked` says how many requests there are at a time.
    """
    scaling, wanted, came = Scaling(1), [], [float(-start_s)]
    for now in range(seconds):
        ready = max(1, sum(now - at >= start_s for at in came))
        there = round(asked(float(now)))
        running = min(there, ready * takes)
        scaling = rescale(scaling, scale, 1, Load(there - running, running, ready), float(now))
        came += [float(now)] * (scaling.wanted - len(came))
        del came[scaling.wanted :]
        wanted.append(scaling.wanted)
    return wanted


@given(st.floats(0, 7), st.integers(1, 20), st.integers(0, 90), st.integers(0, 4))
@example(1.55, 20, 0, 4)  # one more runs it with room to spare, and one fewer doesn't
def test_a_load_that_stays_comes_to_a_number_that_stays(
    engines: float, takes: int, start_s: int, above: int
) -> None:
    there = round(engines * takes)
    scale = Scale(6, above, after=5.0, cool_down=60.0)
    numbers = lived(scale, takes, start_s, lambda _: there, 1500)
    assert len(set(numbers[1200:])) == 1
    enough = max(1, math.ceil((there - above) / takes))
    assert numbers[-1] >= min(6, enough)
    # It may have risen too high while the first ones came, and then goes down and not up again.
    top = numbers.index(max(numbers))
    assert numbers == sorted(numbers[:top]) + sorted(numbers[top:], reverse=True)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 20), st.integers(1, 40))
def test_a_load_that_swings_faster_than_its_times_moves_nothing_twice(
    low: int, high: int, takes: int, half: int
) -> None:
    scale = Scale(6, 2, after=5.0, cool_down=60.0)
    numbers = lived(scale, takes, 0, lambda now: low if now % (2 * half) < half else high, 900)
    if half <= 5 and min(low, high) <= takes + 2:
        assert len(set(numbers)) == 1, "no queue has lasted"
    changes = [n for n in range(1, len(numbers)) if numbers[n] != numbers[n - 1]]
    falls = [n for n in changes if numbers[n] < numbers[n - 1]]
    assert all(later - fall >= 60 for fall, later in pairwise(falls))
    assert not [n for n in changes if falls and n > falls[0] and n not in falls]


WISH = Wish(Rung.HOT, 1, idle_after=60.0, scale=SCALE, most=4)
CROWD = Demand(0, 9, 0.0, Scaling(3, "9 requests waited for 10 s"))


def test_the_load_lifts_what_is_hot_and_says_why() -> None:
    target = decide_target(WISH, None, CROWD, 0.0)
    assert (target.replicas, target.extra, target.least) == (3, 2, 1)
    assert target.reason == "it rests hot; 3 replicas: 9 requests waited for 10 s"
    window = Stretch(-math.inf, math.inf, Rung.HOT, 2, "its window is open")
    in_window = decide_target(WISH, None, CROWD, 0.0, window)
    assert (in_window.replicas, in_window.extra) == (3, 1)
    wide = decide_target(WISH, None, CROWD, 0.0, replace(window, replicas=4))
    assert (wide.replicas, wide.extra) == (4, 0), "a window's replicas are no less for it"
    narrow = decide_target(replace(WISH, replicas=2), None, CROWD, 0.0, replace(window, replicas=1))
    assert narrow.least == 2, "nor is it less than its minimum for a window"
    cold = decide_target(WISH, Override(Rung.ASLEEP, None), CROWD, 0.0)
    assert (cold.replicas, cold.extra) == (1, 0)


def test_an_operator_s_number_is_the_number() -> None:
    for many in (1, 2, 4):
        target = decide_target(WISH, Override(Rung.HOT, 10.0, replicas=many), CROWD, 0.0)
        assert (target.replicas, target.extra) == (many, 0)
    over = decide_target(WISH, Override(Rung.HOT, 10.0, replicas=1), CROWD, 10.0)
    assert over.replicas == 3
    free = decide_target(WISH, Override(Rung.HOT, None), CROWD, 0.0)
    assert (free.replicas, free.extra) == (3, 2), "the rung alone leaves the number free"
    fewer_places = replace(WISH, most=2, scale=None)
    late = decide_target(fewer_places, Override(Rung.HOT, None, replicas=4), CROWD, 0.0)
    assert late.replicas == 2


def test_what_a_window_adds_is_not_kept_for_a_load_that_is_long_gone() -> None:
    crowd, gone = Load(waiting=9, running=8, ready=1), Load(waiting=0, running=0, ready=2)
    was = settled(SCALE, crowd, 10.0, Scaling(1))
    assert (was.wanted, was.why) == (2, "9 requests waited for 10 s")
    for second in range(600):  # a window of two opens, and the crowd leaves
        was = rescale(was, SCALE, 2, gone, 20.0 + second)
        assert was.wanted == 2
    closed = rescale(was, SCALE, 1, gone, 621.0)
    assert (closed.wanted, closed.why) == (1, "")


@pytest.mark.parametrize(("running", "wanted"), [(0, 1), (14, 2)])
def test_what_a_window_adds_stays_for_the_load_that_uses_it(running: int, wanted: int) -> None:
    load = Load(waiting=0, running=running, ready=2)
    was = Scaling(1, takes=8.0)
    for second in range(600):
        was = rescale(was, SCALE, 2, load, float(second))
    assert rescale(was, SCALE, 1, load, 600.0).wanted == wanted
    short = rescale(Scaling(1, takes=8.0), SCALE, 2, load, 0.0)
    assert rescale(short, SCALE, 1, load, 1.0).wanted == 2, "so short a time tells nothing"
    crowd = replace(load, waiting=9)
    more = settled(SCALE, crowd, 10.0, replace(was, least=2), since=601.0)
    assert more.wanted >= 2
