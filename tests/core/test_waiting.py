"""What becomes of a request that finds no ready replica: how many, how long, what is said."""

from __future__ import annotations

import asyncio

import pytest
from rig import House

from warmd.gateway import Ask
from warmd.ladder import NotReadyError, Phase, QueueFullError, Rung
from warmd.launch import EngineExit
from warmd.supervisor import Known


def measured(*starts: float, **terms: float) -> House:
    house = House("m")
    house.supervisor.succession.restore("m", Known(starts=starts))
    house.supervisor.adopt("m", house.terms("m", **terms))  # type: ignore[arg-type]  # a table of terms
    return house


async def test_one_more_than_may_wait_is_refused_and_no_other_notices() -> None:
    house = measured(40.0, max_wait=60.0, max_waiting=2)
    held = [asyncio.create_task(house.supervisor.acquire("m")) for _ in range(2)]
    await house.until(lambda: house.phase("m.0") is Phase.STARTING)
    said = "^2 requests wait for m already, as many as may: m is starting"
    with pytest.raises(QueueFullError, match=said) as full:
        await house.supervisor.acquire("m")
    assert full.value.retry_after_s == 40
    held.pop().cancel()
    await house.rest()
    held.append(asyncio.create_task(house.supervisor.acquire("m")))
    await house.make_ready("m.0")
    assert [lease.replica for lease in await asyncio.gather(*held)] == ["m.0"] * 2


async def test_who_cannot_be_served_in_time_is_told_at_once_and_finds_it_ready_later() -> None:
    house = measured(40.0, 60.0, 50.0, max_wait=30.0)
    with pytest.raises(NotReadyError, match="m waits for its turn to be started, ready in") as no:
        await house.supervisor.acquire("m")
    assert no.value.retry_after_s == 50
    await house.until(lambda: house.phase("m.0") is Phase.STARTING)
    assert (
        house.supervisor.models["m"].target.reason == "who asked for it was told when to come back"
    )
    house.time.now += 10.0
    with pytest.raises(NotReadyError, match=r"m is starting \(.*\), ready in about 40 s"):
        await house.supervisor.acquire("m", Ask(max_wait=5.0))
    house.time.now += 35.0
    waits = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    (await waits).release()


async def test_a_start_is_not_called_off_before_who_was_told_to_come_back_is_there() -> None:
    house = measured(200.0, max_wait=30.0)
    with pytest.raises(NotReadyError):
        await house.supervisor.acquire("m")
    for _ in range(4):
        house.time.now += 50.0
        await house.rest()
        assert house.phase("m.0") is Phase.STARTING, "though its idle.after is one minute"
    await house.make_ready("m.0")
    house.time.now += 59.0
    await house.rest()
    assert house.phase("m.0") is Phase.READY, "from that moment on it is idle"
    house.time.now += 2.0
    await house.until(lambda: house.phase("m.0") is Phase.DOWN)


async def test_an_operators_word_outlasts_what_was_promised() -> None:
    house = measured(40.0, max_wait=30.0)
    with pytest.raises(NotReadyError):
        await house.supervisor.acquire("m")
    house.supervisor.word.set_target("m", Rung.COLD, 10.0)
    house.time.now += 11.0
    await house.rest()
    assert house.phase("m.0") is Phase.DOWN, "nobody has asked for it since"


async def test_nobody_is_refused_by_a_guess() -> None:
    house = measured(max_wait=30.0)
    waits = asyncio.create_task(house.supervisor.acquire("m", Ask(max_wait=1.0)))
    await house.make_ready("m.0")
    (await waits).release()


async def test_who_waits_for_nothing_is_answered_at_once_and_counts_all_the_same() -> None:
    house = House("m")
    with pytest.raises(NotReadyError, match="m waits for its turn"):
        await house.supervisor.acquire("m", Ask(max_wait=0.0))
    await house.make_ready("m.0")
    (await house.supervisor.acquire("m", Ask(max_wait=0.0))).release()


async def test_a_client_cannot_wait_longer_than_its_model_allows() -> None:
    house = measured(40.0, max_wait=30.0)
    with pytest.raises(NotReadyError):
        await house.supervisor.acquire("m", Ask(max_wait=3600.0))


async def test_a_start_that_fails_too_late_for_who_waits_ends_his_wait() -> None:
    house = measured(20.0, max_wait=30.0)
    waits = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: house.one("m.0").state.pid is not None)
    house.time.now += 15.0
    house.launcher.started[-1].end(EngineExit(1))
    await house.until(waits.done)
    with pytest.raises(NotReadyError, match="m is being stopped and is started again") as no:
        await waits
    assert no.value.retry_after_s == 25


async def test_what_is_said_while_one_waits() -> None:
    house = measured(40.0, max_wait=60.0)
    outlook = house.supervisor.outlook
    first = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: house.one("m.0").state.pid is not None)
    house.time.now += 10.0
    second = asyncio.create_task(house.supervisor.acquire("m"))
    engine = house.launcher.started[0]
    engine.say("Loading safetensors checkpoint shards:  62% Completed | 5/8 [00:01<00:00, 3.1it/s]")
    await house.rest()
    assert outlook("m", 0.0) == "m is starting (weights 62%), ready in about 30 s"
    assert outlook("m", 10.0) == "m is starting (weights 62%), ready in about 30 s, 1 ahead of you"
    assert house.supervisor.eta_s("m") == 30.0
    engine.say("Model loading took 61.0 GiB memory and 12.0 seconds")
    house.time.now += 40.0
    late = "m is starting (compile), which takes longer than the usual 40 s, 2 ahead of you"
    assert outlook("m", 50.0) == late
    await house.make_ready("m.0")
    for lease in await asyncio.gather(first, second):
        lease.release()
    assert house.supervisor.eta_s("m") == 0.0


async def test_no_figure_is_given_for_what_an_operator_keeps_down() -> None:
    house = measured(40.0)
    assert house.supervisor.eta_s("m") == 40.0
    house.supervisor.word.set_target("m", Rung.COLD, None)
    assert house.supervisor.eta_s("m") is None


async def test_who_waits_is_left_alone_by_changes_that_change_nothing_for_him() -> None:
    house = measured(40.0, max_wait=60.0)
    waits = [asyncio.create_task(house.supervisor.acquire("m")) for _ in range(3)]
    await house.until(lambda: house.one("m.0").state.pid is not None)
    woken = house.supervisor.models["m"].waiting
    for _ in range(3):
        house.time.now += 20.0
        house.supervisor.replica_changed("m", "m.0", *[house.one("m.0").state] * 2)
        assert not any(each.is_set() for each in woken)
    await house.make_ready("m.0")
    for lease in await asyncio.gather(*waits):
        lease.release()
