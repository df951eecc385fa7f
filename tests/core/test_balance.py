"""Who gets a request, of several ready replicas."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from rig import House, next_step

from warmd.ladder import Rung
from warmd.policy import Serving, pick
from warmd.policy.balance import AHEAD, AHEAD_SHARE

LOADS = st.lists(st.integers(0, 50), min_size=1, max_size=8)


def serving(*loads: int, turns: tuple[int, ...] = ()) -> list[Serving]:
    return [Serving(load, turns[index] if turns else 0, index) for index, load in enumerate(loads)]


def test_the_fewest_go_first_and_among_equals_who_was_used_last() -> None:
    assert pick(serving(2, 1, 3, turns=(9, 1, 8))) == 1
    assert pick(serving(1, 1, 2, 1, turns=(3, 7, 9, 5))) == 1
    assert pick(serving(0, 0)) == 0


@given(LOADS, st.integers())
def test_a_prefix_never_leads_to_one_that_is_markedly_busier(loads: list[int], prefix: int) -> None:
    chosen = loads[pick(serving(*loads), prefix)]
    assert chosen <= min(loads) + max(AHEAD, AHEAD_SHARE * min(loads))
    assert loads[pick(serving(*loads))] == min(loads)


def test_equal_prefixes_meet_and_all_together_spread() -> None:
    homes = {prefix: pick(serving(0, 0, 0, 0), prefix) for prefix in range(0, 4_000_000, 997)}
    for prefix, home in homes.items():
        assert pick(serving(0, AHEAD, 1, 2), prefix) == home
    shares = Counter(homes.values())
    assert all(0.22 < shares[each] / len(homes) < 0.28 for each in range(4)), shares


def test_a_replica_that_goes_moves_only_the_prefixes_that_it_had() -> None:
    four, three = serving(0, 0, 0, 0), serving(0, 0, 0, 0)[:3]
    for prefix in range(1000):
        home = pick(four, prefix)
        assert home == 3 or pick(three, prefix) == home


async def two_ready() -> House:
    house = House("m", resting=Rung.HOT, replicas=2)
    await house.make_ready("m.0")
    await house.make_ready("m.1")
    return house


async def test_one_client_after_the_other_stays_where_the_cache_is_warm() -> None:
    house = await two_ready()
    first, second = await house.supervisor.acquire("m"), await house.supervisor.acquire("m")
    assert {first.replica, second.replica} == {"m.0", "m.1"}
    first.release()
    second.release()
    for _ in range(3):
        lease = house.supervisor.take("m")
        assert lease is not None
        assert lease.replica == second.replica
        lease.release()


async def test_one_that_clients_gave_up_on_is_not_preferred_for_being_idle() -> None:
    house = await two_ready()
    hung = house.supervisor.take("m")
    assert hung is not None
    hung.given_up()
    hung.release()
    met = [lease.replica for _ in range(3) if (lease := house.supervisor.take("m")) is not None]
    other = next(name for name in ("m.0", "m.1") if name != hung.replica)
    assert met == [other, other, hung.replica], "it counts as busy, and as no more than that"


async def test_what_was_held_against_a_replica_ends_with_its_next_answer_or_in_time() -> None:
    house = await two_ready()
    for end in ("answer", "time"):
        bad = house.supervisor.take("m")
        assert bad is not None
        bad.given_up()
        bad.release()
        replica = house.one(bad.replica)
        assert (replica.load, replica.in_flight) == (1, 0), "it is no demand"
        if end == "answer":
            asked = replica.lease()
            assert asked is not None
            asked.answered()
            asked.release()
        else:
            house.time.now += 80.0
        assert replica.load == 0


async def test_a_new_engine_has_a_clean_slate() -> None:
    house = House("m", resting=Rung.HOT)
    await house.make_ready("m.0")
    lease = house.supervisor.take("m")
    assert lease is not None
    lease.given_up()
    lease.release()
    house.supervisor.word.set_target("m", Rung.COLD, None)
    await house.until(lambda: not house.one("m.0").state.phase.is_up)
    house.supervisor.word.set_target("m", Rung.HOT, None)
    await house.make_ready("m.0")
    assert house.one("m.0").load == 0


async def test_nothing_is_taken_where_nobody_is_open() -> None:
    house = House("m")
    assert house.supervisor.take("m") is None
    waiting = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    lost = await waiting
    lost.lost()
    assert house.supervisor.take("m") is None, "it is in doubt"
    await next_step()
