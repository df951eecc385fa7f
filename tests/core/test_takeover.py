"""A new daemon takes over what it can vouch for, and stops the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from rig import FakeMake, House

from warmd.devices import Footprint
from warmd.ladder import NotReadyError, Phase, Rung
from warmd.launch import EngineExit
from warmd.policy import Hygiene
from warmd.supervisor import SleepPolicy

SLEEP = SleepPolicy(1, Hygiene(50, 100), rehearse=False, key="k")


def a_house(after: House | None = None) -> House:
    house = House(after=after)
    house.supervisor.adopt("m", house.terms("m", Rung.HOT, sleep=SLEEP))
    return house


async def succeeded(old: House) -> House:
    """The next daemon on the same host: it sweeps, and takes over."""
    house = a_house(after=old)
    found, _ = house.supervisor.succession.left_behind()
    house.launcher.sweep(spare=found)
    for name, record in found.items():
        house.supervisor.succession.take_over(name, record)
    await house.rest()
    return house


async def test_a_hot_engine_is_taken_over_as_it_is() -> None:
    old = a_house()
    await old.make_ready("m.0")
    await old.die()
    house = await succeeded(old)
    assert house.phase("m.0") is Phase.READY
    assert house.launcher.started == []
    assert house.one("m.0").state.canary == old.one("m.0").state.canary
    (await house.supervisor.acquire("m")).release()
    assert house.recorder.lines == ["m.0 cold -> hot: taken over, as an earlier warmd left it"]


async def test_a_sleeper_is_taken_over_asleep_and_proved_at_its_wake() -> None:
    old = a_house()
    await old.make_ready("m.0")
    old.supervisor.word.set_target("m", Rung.ASLEEP, None)
    await old.until(lambda: old.phase("m.0") is Phase.ASLEEP)
    await old.die()
    old.makes["m.0"].song = "garbage"
    house = await succeeded(old)
    assert house.recorder.lines[0] == "m.0 cold -> asleep: taken over, as an earlier warmd left it"
    await house.until(lambda: bool(house.launcher.started))
    assert any("garbage" in line for line in house.recorder.lines), "its canary came along"


async def test_an_orderly_end_leaves_engines_running_and_serves_first() -> None:
    old = a_house()
    await old.make_ready("m.0")
    lease = await old.supervisor.acquire("m")
    closing = asyncio.create_task(old.supervisor.close("SIGTERM came", leave=30.0))
    await old.rest()
    assert not closing.done(), "a request is still in flight"
    with pytest.raises(NotReadyError, match="shutting down"):
        await old.supervisor.acquire("m")
    lease.release()
    await old.until(closing.done)
    assert not old.launcher.started[0].has_ended
    house = await succeeded(old)
    assert house.phase("m.0") is Phase.READY


async def test_what_is_only_starting_is_stopped_at_an_orderly_end() -> None:
    old = a_house()
    await old.until(lambda: old.phase("m.0") is Phase.STARTING)
    closing = asyncio.create_task(old.supervisor.close("SIGTERM came", leave=30.0))
    await old.until(closing.done)
    assert old.launcher.started[0].has_ended


def spoil(name: str) -> Callable[[FakeMake], None]:
    def version(make: FakeMake) -> None:
        make.told_version = "0.34"

    def song(make: FakeMake) -> None:
        make.song = "garbage"

    def name_(make: FakeMake) -> None:
        make.name = "other.0"

    def slept(make: FakeMake) -> None:
        make.asleep = True

    def settings(make: FakeMake) -> None:
        make.print = "another"

    def record(make: FakeMake) -> None:
        make.kept = {"phase": "nonsense"}

    ways = {
        "version": version,
        "song": song,
        "name": name_,
        "slept": slept,
        "settings": settings,
        "record": record,
    }
    return ways[name]


@pytest.mark.parametrize("what", ["version", "song", "name", "slept", "settings", "record"])
async def test_what_can_not_be_vouched_for_is_stopped(what: str) -> None:
    old = a_house()
    await old.make_ready("m.0")
    engine = old.launcher.started[0]
    await old.die()
    spoil(what)(old.makes["m.0"])
    house = await succeeded(old)
    await house.until(lambda: engine.has_ended)
    assert not any("-> hot" in line for line in house.recorder.lines)
    await house.until(lambda: bool(house.launcher.started))


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.FALLING_ASLEEP, Phase.WAKING])
async def test_an_engine_in_the_midst_of_something_is_not_vouched_for(phase: Phase) -> None:
    old = a_house()
    make = old.makes["m.0"]
    if phase is Phase.STARTING:
        await old.until(lambda: old.phase("m.0") is Phase.STARTING)
        await old.rest()
    else:
        await old.make_ready("m.0")
        make.sleeps.clear()
        old.supervisor.word.set_target("m", Rung.ASLEEP, None)
        await old.until(lambda: old.phase("m.0") is Phase.FALLING_ASLEEP)
        if phase is Phase.WAKING:
            make.sleeps.set()
            await old.until(lambda: old.phase("m.0") is Phase.ASLEEP)
            make.wakes.clear()
            old.supervisor.word.set_target("m", Rung.HOT, None)
            await old.until(lambda: old.phase("m.0") is Phase.WAKING)
    await old.die()
    house = await succeeded(old)
    assert old.launcher.started[0].has_ended
    assert house.phase("m.0") is not Phase.READY


async def test_an_engine_that_ended_meanwhile_is_started_anew() -> None:
    old = a_house()
    await old.make_ready("m.0")
    await old.die()
    old.launcher.started[0].end(EngineExit(None, signal=9))
    house = await succeeded(old)
    await house.make_ready("m.0")
    assert len(house.launcher.started) == 1


async def test_an_engine_that_does_not_answer_is_given_up_in_time() -> None:
    old = a_house()
    await old.make_ready("m.0")
    await old.die()
    old.makes["m.0"].up.clear()
    house = await succeeded(old)
    assert house.phase("m.0") is Phase.ADOPTING
    terms = house.terms("m", Rung.HOT, sleep=SLEEP, max_wait=0.01)
    house.supervisor.models["m"].terms = terms
    with pytest.raises(NotReadyError, match="taken over"):
        await house.supervisor.acquire("m")


@pytest.mark.parametrize("missed", ["missed_probes", "missed_names"])
async def test_a_missed_probe_is_no_death(missed: str) -> None:
    old = a_house()
    await old.make_ready("m.0")
    await old.die()
    setattr(old.makes["m.0"], missed, 2)
    house = await succeeded(old)
    for _ in range(4):
        house.time.now += 1.0
        await house.rest()
    assert house.phase("m.0") is Phase.READY
    assert not old.launcher.started[0].has_ended


async def test_a_second_restart_amid_a_takeover_leaves_the_engine_running() -> None:
    old = a_house()
    await old.make_ready("m.0")
    await old.die()
    old.makes["m.0"].up.clear()
    house = await succeeded(old)
    assert house.phase("m.0") is Phase.ADOPTING
    closing = asyncio.create_task(house.supervisor.close("SIGTERM came", leave=30.0))
    await house.until(closing.done)
    assert not old.launcher.started[0].has_ended
    old.makes["m.0"].up.set()
    third = await succeeded(house)
    assert third.phase("m.0") is Phase.READY


async def test_an_engine_without_a_canary_must_answer_before_it_is_taken_over() -> None:
    def plain(after: House | None = None) -> House:
        house = House(after=after)
        house.supervisor.adopt("m", house.terms("m", Rung.HOT))
        return house

    old = plain()
    await old.make_ready("m.0")
    await old.die()
    old.makes["m.0"].answers.clear()
    house = plain(after=old)
    found, _ = house.supervisor.succession.left_behind()
    house.supervisor.succession.take_over("m.0", found["m.0"])
    await house.rest()
    assert house.phase("m.0") is Phase.ADOPTING
    old.makes["m.0"].answers.set()
    await house.until(lambda: house.phase("m.0") is Phase.READY)


async def test_why_an_engine_is_not_taken_over_is_told() -> None:
    old = a_house()
    await old.make_ready("m.0")
    await old.die()
    old.makes["m.0"].print = "another"
    _, doubts = a_house(after=old).supervisor.succession.left_behind()
    assert doubts == {"m.0": "its settings have changed since it was started"}


async def test_an_engine_on_other_gpus_is_not_taken_over() -> None:
    def on(house: House, *gpus: str) -> House:
        terms = house.terms("m", Rung.HOT, sleep=SLEEP)
        known = {"cards": frozenset(gpus), "gpus": gpus or None}
        fits = tuple(replace(fit, **known) for fit in terms.fits)  # type: ignore[arg-type]  # as named
        house.supervisor.adopt("m", replace(terms, fits=fits))
        return house

    old = on(House(), "GPU-0")
    await old.make_ready("m.0")
    await old.die()
    _, doubts = on(House(after=old), "GPU-1").supervisor.succession.left_behind()
    assert doubts == {"m.0": "it runs on GPU-0, where its pool isn't any more"}
    blind = on(House(after=old))
    found, _ = blind.supervisor.succession.left_behind()
    assert "m.0" in found, "nobody knows the cards while the driver doesn't answer"
    blind.supervisor.succession.take_over("m.0", found["m.0"])
    await blind.until(lambda: blind.phase("m.0") is Phase.READY)
    on(blind)  # a reload, still without the driver
    on(blind, "GPU-0")  # it answers
    assert not blind.one("m.0").is_stale, "it stood there all the time"
    on(blind)
    blind.supervisor.word.set_target("m", Rung.ASLEEP, None)
    await blind.until(lambda: blind.phase("m.0") is Phase.ASLEEP)
    await blind.die()
    _, doubts = on(House(after=blind), "GPU-1").supervisor.succession.left_behind()
    assert doubts == {"m.0": "it runs on GPU-0, where its pool isn't any more"}


async def test_what_a_sleeper_holds_is_known_over_a_takeover() -> None:
    old = a_house()
    await old.make_ready("m.0")
    old.memory = Footprint(100, None, 10**9)
    old.supervisor.word.set_target("m", Rung.ASLEEP, None)
    await old.until(lambda: old.makes["m.0"].did == ["sleep 1"])
    await old.until(lambda: old.phase("m.0") is Phase.ASLEEP)
    await old.die()
    house = await succeeded(old)  # rests hot: it is woken
    await house.until(lambda: house.phase("m.0") is Phase.READY)
    house.memory = Footprint(160, None, 10**9)
    house.supervisor.word.set_target("m", Rung.ASLEEP, None)
    await house.until(lambda: house.phase("m.0") is Phase.ASLEEP)
    nap = house.one("m.0").state.last_nap
    assert nap is not None
    assert nap.host_ram == 60, "grown by so much since its first sleep, under another daemon"


async def test_the_log_of_an_engine_goes_on_after_a_takeover() -> None:
    old = a_house()
    await old.make_ready("m.0")
    await old.die()
    house = await succeeded(old)
    assert house.makes["m.0"].lines == [f"--- goes on with {old.one('m.0').state.pid} ---"]


async def test_an_order_to_leave_outlives_a_drain_in_vain() -> None:
    old = a_house()
    await old.make_ready("m.0")
    lease = await old.supervisor.acquire("m")
    old.supervisor.word.set_target("m", Rung.ASLEEP, None)
    await old.until(lambda: old.phase("m.0") is Phase.DRAINING)
    await old.rest()
    closing = asyncio.create_task(old.supervisor.close("SIGTERM came", leave=30.0))
    await asyncio.wait_for(closing, 1.8)  # the drain's own second is real, and only one is given
    assert old.launcher.started[0].was_left
    lease.release()


async def test_a_taken_over_engine_that_is_just_waking_is_stopped_at_an_orderly_end() -> None:
    old = a_house()
    await old.make_ready("m.0")
    old.supervisor.word.set_target("m", Rung.ASLEEP, None)
    await old.until(lambda: old.phase("m.0") is Phase.ASLEEP)
    await old.die()
    old.makes["m.0"].wakes.clear()
    house = await succeeded(old)  # rests hot: it is woken
    await house.until(lambda: house.phase("m.0") is Phase.WAKING)
    await house.rest()
    closing = asyncio.create_task(house.supervisor.close("SIGTERM came", leave=30.0))
    await house.until(closing.done)
    assert old.launcher.started[0].has_ended, "nobody could vouch for it any more"


async def test_an_engine_that_had_ended_is_not_told_as_one_that_was_left() -> None:
    old = a_house()
    await old.make_ready("m.0")
    old.supervisor.word.set_target("m", Rung.COLD, None)
    await old.until(lambda: old.phase("m.0") is Phase.DOWN)
    await old.die()
    assert a_house(after=old).supervisor.succession.left_behind() == ({}, {})
