"""Ready by, where room must be made first: who only rests is put aside in time for that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig import House, next_step
from test_lead import SLEEPS, opening, planned

from warmd.ladder import Phase, Rung
from warmd.planner.making_room import Lodger, room_after
from warmd.supervisor import Rules

CARD = frozenset({"0"})


@pytest.mark.parametrize(
    ("pool", "others", "seconds"),
    [
        (100, [], 0.0),
        (100, [("a", 60, 9.0)], 0.0),
        (100, [("a", 61, 9.0)], 9.0),
        # One alone is enough, and nobody knows which it will be.
        (100, [("a", 50, 9.0), ("b", 50, 4.0)], 9.0),
        (100, [("a", 40, 9.0), ("b", 40, 4.0), ("c", 20, 2.0)], 9.0),
        # The small ones may go first, until one is enough.
        (100, [("a", 10, 2.0), ("b", 40, 9.0), ("c", 50, 4.0)], 9.0),
        (60, [("a", 10, 2.0), ("b", 20, 9.0), ("c", 30, 4.0)], 13.0),
        # Who stays is not waited for.
        (100, [("a", 60, 9.0), ("b", 40, None)], 9.0),
        (100, [("a", 100, None)], 0.0),
        # What is asleep and keeps nothing gives nothing.
        (100, [("a", 60, None), ("b", 0, 5.0), ("c", 20, 3.0)], 3.0),
    ],
)
def test_room_is_there_once_the_slowest_have_gone_that_may_have_to(
    pool: int, others: Sequence[tuple[str, int, float | None]], seconds: float
) -> None:
    there = [Lodger(name, vram, CARD, aside) for name, vram, aside in others]
    apart = Lodger("apart", 100, frozenset({"1"}), 60.0)
    assert room_after(pool, Lodger("m.0", 40, CARD), [*there, apart]) == seconds


async def test_a_window_begins_earlier_by_what_it_takes_to_put_aside_who_rests() -> None:
    house = House()
    house.supervisor.rules = Rules(pools={"p": 100})
    planned(house, "m", opening(7200.0), pool="p", vram=60)
    house.supervisor.models["m"].starts_from = {Rung.STAGED: [100.0]}
    house.supervisor.adopt("rests", house.terms("rests", Rung.HOT, sleep=SLEEPS, pool="p", vram=60))
    house.supervisor.models["rests"].asides = [40.0]
    house.stager.done.set()
    house.time.now = 7200.0 - 400.0 - 1000.0
    await house.make_ready("rests.0")
    make = house.makes["rests.0"]
    make.sleeps.clear()
    house.time.now = 7200.0 - 154.0 - 1000.0 - 1.0  # a tenth more than 140 s
    await house.rest()
    assert house.phase("rests.0") is Phase.READY
    house.time.now += 2.0
    await house.until(lambda: house.phase("rests.0") is Phase.FALLING_ASLEEP)
    # It is quicker than ever: who made room for it doesn't come back meanwhile.
    make.sleeps.set()
    for _ in range(5):
        await house.rest()
        house.time.now += 1.0
    assert (house.phase("rests.0"), house.phase("m.0")) == (Phase.ASLEEP, Phase.STARTING)
    assert house.supervisor.models["rests"].asides == [40.0, 0.0]
    await house.launcher.close()


_Model = tuple[int, int, int, bool]  # measured start, what it takes now, minute of its window, met
_MODELS = st.lists(
    st.tuples(st.integers(5, 120), st.integers(1, 120), st.integers(0, 3), st.booleans()),
    min_size=1,
    max_size=4,
)
_Rest = tuple[int, int, bool, bool]  # VRAM, steps that a sleep took, quicker now, sleeps at all
_RESTS = st.lists(
    st.tuples(
        st.sampled_from([10, 25, 60]), st.integers(0, 12), st.booleans(), st.sampled_from([1, 1, 0])
    ),
    max_size=4,
)
_STEP_S = 2.5


@settings(max_examples=20, deadline=None)
@given(_MODELS, _RESTS, st.integers(0, 60))
def test_along_a_rise_no_target_falls_and_all_are_ready_in_time(
    models: Sequence[_Model], rests: Sequence[_Rest], spare: int
) -> None:
    """Several models on one device, of which none takes longer than ever before.

    In its pool there is room for them, once who only rests there has been put aside.
    """
    heights, ready = asyncio.run(_risen(models, rests, spare))
    for name, seen in heights.items():
        assert seen == sorted(seen), (name, seen)
    assert all(ready.values()), ready


async def _risen(
    models: Sequence[_Model], rests: Sequence[_Rest], spare: int
) -> tuple[dict[str, list[int]], dict[str, bool]]:
    house = House()
    house.stager.done.set()
    house.supervisor.rules = Rules(pools={"p": 30 * len(models) + spare})
    by, took, ready = {}, {}, {}
    for n, (before, now, minute, measured) in enumerate(models):
        name = f"m{n}"
        by[name] = 7200.0 + 60.0 * minute
        planned(house, name, opening(by[name]), pool="p", vram=30)
        if measured:
            house.supervisor.models[name].starts_from = {Rung.STAGED: [float(before)]}
        took[name] = min(now, before if measured else 90)
    wall = 7200.0 - 1000.0
    house.time.now = wall - 1000.0
    sleeps = await _resting(house, rests)
    heights: dict[str, list[int]] = {name: [] for name in by}
    began: dict[str, float] = {}
    while wall <= max(by.values()):
        house.time.now = wall - 1000.0
        for name, takes in sleeps.items():
            state, make = house.one(f"{name}.0").state, house.makes[f"{name}.0"]
            if state.phase is Phase.FALLING_ASLEEP and house.time.now >= state.since + takes:
                make.sleeps.set()
                await house.until(lambda name=name: house.phase(f"{name}.0") is Phase.ASLEEP)  # type: ignore[misc]
                make.sleeps.clear()
        for _ in range(6):
            _come_up(house, sleeps)
            house.tick()
            await next_step()
        for name, opens in by.items():
            if wall <= opens:
                heights[name].append(house.supervisor.models[name].target.rung.height)
            if house.phase(f"{name}.0") is Phase.STARTING:
                began.setdefault(name, wall)
                if wall >= began[name] + took[name]:
                    house.makes[f"{name}.0"].up.set()
                    house.makes[f"{name}.0"].answers.set()
                    await house.until(lambda name=name: house.phase(f"{name}.0") is Phase.READY)  # type: ignore[misc]
            if wall == opens:
                ready[name] = house.phase(f"{name}.0") is Phase.READY
        wall += _STEP_S
    await house.launcher.close()
    return heights, ready


async def _resting(house: House, rests: Sequence[_Rest]) -> dict[str, float]:
    """Let those rest hot that find room; return how long the sleep of each takes."""
    sleeps = {}
    for n, (vram, steps, quicker, can_sleep) in enumerate(rests):
        name = f"rests{n}"
        policy = SLEEPS if can_sleep else None
        terms = house.terms(name, Rung.HOT, sleep=policy, pool="p", vram=vram)
        house.supervisor.adopt(name, terms)
        if steps > 2:  # else it is what is reckoned with before it was measured, at most
            house.supervisor.models[name].asides = [steps * _STEP_S]
        sleeps[name] = 0.0 if quicker else steps * _STEP_S
        house.makes[f"{name}.0"].answers.set()
        house.makes[f"{name}.0"].sleeps.clear()
    for _ in range(25 * len(rests)):
        _come_up(house, sleeps)
        house.tick()
        await next_step()
    return sleeps


def _come_up(house: House, sleeps: Iterable[str]) -> None:
    """Let the starts of those that rest take no time."""
    for name in sleeps:
        house.makes[f"{name}.0"].up.set()
