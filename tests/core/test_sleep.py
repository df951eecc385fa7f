"""Falling asleep and waking over recording fakes: drained before, proved after, never believed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from rig import FakeGpu, House, next_step

from warmd.devices import Footprint
from warmd.ladder import NotReadyError, Phase, Rung, SleepFigures
from warmd.launch import EngineExit
from warmd.policy import Hygiene
from warmd.replica import SleepTerms
from warmd.replica.slumber import Slumber
from warmd.supervisor import Known, Rules, SleepPolicy

KEY = "k vllm=0.33"
KNOWN = Known(figures={KEY: SleepFigures(10.0, 1.0, 40, None)})


def policy(cycles: int = 50, growth: int = 100, level: int = 1) -> SleepPolicy:
    return SleepPolicy(level, Hygiene(cycles, growth), rehearse=True, key="k")


def a_house(resting: Rung = Rung.STAGED, **sleep: int) -> House:
    """One model that may sleep, and whose sleep has been measured before."""
    house = House()
    house.supervisor.adopt("m", house.terms("m", resting, sleep=policy(**sleep)))
    house.supervisor.succession.restore("m", KNOWN)
    return house


async def asleep(house: House, name: str = "m.0") -> None:
    """Bring it up by a request, and let it fall asleep for want of another."""
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready(name)
    (await request).release()
    house.time.now += 60.0
    await house.until(lambda: house.phase(name) is Phase.ASLEEP)


async def test_an_idle_model_sleeps_and_the_next_request_wakes_it() -> None:
    house = a_house()
    await asleep(house)
    assert house.supervisor.rung("m") is Rung.ASLEEP
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(request.done)
    request.result().release()
    assert house.makes["m.0"].did == ["sleep 1", "wake 1"]
    assert len(house.launcher.started) == 1
    assert "m.0 woke in 0 s" in house.recorder.lines
    assert house.recorder.lines[-1] == "m.0 asleep -> hot: 1 request waits for it"


async def test_nobody_is_sent_to_a_sleeper_or_to_one_that_only_wakes() -> None:
    house = a_house()
    await asleep(house)
    house.makes["m.0"].wakes.clear()
    house.makes["m.0"].answers.clear()
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: house.phase("m.0") is Phase.WAKING)
    await house.rest()
    assert not request.done()
    house.makes["m.0"].wakes.set()
    await house.rest()
    assert not request.done(), "it has not answered yet"
    house.makes["m.0"].answers.set()
    await house.until(request.done)
    request.result().release()


async def test_requests_in_flight_are_drained_before_a_sleep() -> None:
    house = a_house()
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    lease = await request
    house.supervisor.word.set_target("m", Rung.ASLEEP, None)
    await house.until(lambda: house.phase("m.0") is Phase.DRAINING)
    await house.rest()
    assert house.makes["m.0"].did == [], "a request still runs"
    lease.release()
    await house.until(lambda: house.phase("m.0") is Phase.ASLEEP)


async def test_a_request_that_outlives_the_drain_is_not_put_to_sleep_under() -> None:
    """vllm#28714, #45520: a sleep crashes under requests, or aborts them behind a 200."""
    house = a_house()
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    lease = await request
    house.supervisor.word.set_target("m", Rung.ASLEEP, None)
    await house.until(lambda: house.phase("m.0") is Phase.DRAINING)
    async with asyncio.timeout(10):  # the drain's own second is real
        await house.recorded("1 request still ran after 1 s")
    assert house.makes["m.0"].did == []
    lease.release()


async def test_another_answer_after_a_wake_is_never_served() -> None:
    """vllm#29341."""
    house = a_house()
    await asleep(house)
    house.makes["m.0"].song = "garbage"
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: len(house.launcher.started) == 2)
    assert not request.done()
    told = next(line for line in house.recorder.lines if "failed" in line)
    assert "right" in told
    assert "garbage" in told
    await house.make_ready("m.0")
    await house.until(request.done)
    request.result().release()


async def test_half_the_speed_after_a_wake_counts_as_another_answer() -> None:
    """vllm#52479."""
    house = a_house()
    await asleep(house)
    house.makes["m.0"].speed = 10.0
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: len(house.launcher.started) == 2)
    house.makes["m.0"].speed = 100.0
    await house.make_ready("m.0")
    await house.until(request.done)
    request.result().release()


async def test_a_little_slower_is_the_same() -> None:
    house = a_house()
    await asleep(house)
    house.makes["m.0"].speed = 50.0
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(request.done)
    request.result().release()
    assert len(house.launcher.started) == 1


async def test_a_model_whose_sleep_fails_twice_is_served_without() -> None:
    house = a_house()
    house.makes["m.0"].trouble = "/sleep answered 500"
    for starts in (1, 2):
        request = asyncio.create_task(house.supervisor.acquire("m"))
        await house.make_ready("m.0")
        assert len(house.launcher.started) == starts
        (await request).release()
        house.time.now += 60.0
        await house.until(lambda: house.phase("m.0") is Phase.BACKING_OFF)
    assert "not put to sleep any more" in house.recorder.lines[-1]
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    (await request).release()
    house.time.now += 60.0
    await house.until(lambda: house.phase("m.0") is Phase.DOWN)
    assert house.makes["m.0"].did == ["sleep 1", "sleep 1"], "it is stopped, not put to sleep"


async def test_a_sleep_that_hangs_is_cut_off_and_told() -> None:
    house = a_house()
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    (await request).release()
    house.makes["m.0"].sleeps.clear()
    house.time.now += 60.0
    await house.until(lambda: house.phase("m.0") is Phase.FALLING_ASLEEP)
    house.time.now += 126.0
    await house.rest()
    assert "m.0 falling-asleep is 6 s late" in house.recorder.lines
    assert house.recorder.lines.count("m.0 falling-asleep is 6 s late") == 1
    house.launcher.started[0].end(EngineExit(None, signal=9))
    await house.until(lambda: house.phase("m.0") is Phase.BACKING_OFF)


async def test_a_crash_in_its_sleep_is_seen_at_once() -> None:
    house = a_house()
    await asleep(house)
    house.launcher.started[0].end(EngineExit(0))
    await house.until(lambda: house.phase("m.0") is Phase.BACKING_OFF)
    assert "exited with status 0" in house.recorder.lines[-1]


async def test_a_new_model_rehearses_its_sleep_in_a_quiet_moment_and_the_figures_are_kept() -> None:
    house = House()
    house.supervisor.adopt("m", house.terms("m", Rung.HOT, sleep=policy()))
    await house.make_ready("m.0")
    await house.rest()
    assert house.makes["m.0"].did == [], "it has only just become ready"
    house.makes["m.0"].sleeps.clear()
    house.time.now += 31.0
    await house.until(lambda: house.makes["m.0"].did == ["sleep 1"])
    house.time.now += 12.0
    house.memory = Footprint(170, 50, 10**9 - 40)
    house.makes["m.0"].sleeps.set()
    await house.until(lambda: house.makes["m.0"].did == ["sleep 1", "wake 1"])
    await house.until(lambda: house.phase("m.0") is Phase.READY)
    assert "m.0 slept 1: 12 s, 70 B" in house.recorder.lines
    assert "m sleeps in 12 s" in house.recorder.lines
    house.time.now += 500.0
    await house.rest()
    assert house.makes["m.0"].did == ["sleep 1", "wake 1"], "once is enough"
    assert house.supervisor.models["m"].figures[KEY].host_ram == 70


async def test_what_is_not_woken_after_its_rehearsal_is_a_sleeper_like_any() -> None:
    house = House()
    house.supervisor.adopt("m", house.terms("m", Rung.HOT, sleep=policy(), pool="p", vram=60))
    house.supervisor.adopt("n", house.terms("n", pool="p", vram=50))
    await house.make_ready("m.0")
    house.makes["m.0"].sleeps.clear()
    house.time.now += 31.0
    await house.until(lambda: house.phase("m.0") is Phase.FALLING_ASLEEP)

    def rehearses() -> bool:
        return house.supervisor.view.statuses()["m"].replicas[0].rehearses

    assert rehearses()
    house.supervisor.word.set_target("m", Rung.ASLEEP, None)
    asked = asyncio.create_task(house.supervisor.acquire("n"))
    house.makes["m.0"].sleeps.set()
    await house.make_ready("n.0")
    (await asked).release()
    house.time.now += 9.0
    await house.rest()
    assert house.phase("m.0") is Phase.ASLEEP
    assert not rehearses()
    house.supervisor.word.set_target("m", None, None)
    house.supervisor.rules = Rules(pools={"p": 200})
    house.makes["m.0"].wakes.clear()
    await house.until(lambda: house.phase("m.0") is Phase.WAKING)
    assert not rehearses(), "it is a user's wake"


async def test_nobody_takes_the_place_of_one_that_only_rehearses() -> None:
    """A pinned model was put to sleep for it, and stayed so because another one had its place."""
    house = House(gpu=FakeGpu())
    terms = house.terms("m", Rung.HOT, sleep=policy(), pool="p", vram=60)
    house.supervisor.adopt("m", replace(terms, pinned=True))
    house.supervisor.adopt("n", house.terms("n", pool="p", vram=50))
    house.supervisor.adopt("o", house.terms("o"))
    await house.make_ready("m.0")
    house.makes["m.0"].sleeps.clear()
    house.makes["m.0"].wakes.clear()
    house.time.now += 31.0
    await house.until(lambda: house.phase("m.0") is Phase.FALLING_ASLEEP)
    asked = [asyncio.create_task(house.supervisor.acquire(name)) for name in "no"]
    house.makes["m.0"].sleeps.set()
    await house.until(lambda: house.phase("m.0") is Phase.WAKING)
    assert len(house.launcher.started) == 1, "though both have asked for longer"
    house.makes["m.0"].wakes.set()
    await house.make_ready("o.0")
    await house.rest()
    assert house.phase("m.0") is Phase.READY
    assert "pinned, it makes room for nobody" in (house.supervisor.models["n"].held_up_by or "")
    for each in asked:
        each.cancel()


async def test_nothing_is_rehearsed_under_traffic() -> None:
    house = House()
    house.supervisor.adopt("m", house.terms("m", Rung.HOT, sleep=policy()))
    await house.make_ready("m.0")
    lease = await house.supervisor.acquire("m")
    house.time.now += 300.0
    await house.rest()
    assert house.makes["m.0"].did == []
    lease.release()
    await house.rest()
    assert house.makes["m.0"].did == [], "the next one may come at once"


async def test_a_sleeper_that_leaks_is_made_anew_while_nobody_asks() -> None:
    """vllm#21336."""
    house = a_house()
    await asleep(house)
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(request.done)
    request.result().release()
    house.memory = Footprint(100 + 200, 50, 10**9)
    house.time.now += 60.0
    await house.until(lambda: len(house.launcher.started) == 2)
    assert any("asleep it holds 200 bytes more" in line for line in house.recorder.lines)
    await house.make_ready("m.0")
    await house.until(lambda: house.phase("m.0") is Phase.ASLEEP)
    assert house.one("m.0").state.cycles == 1


async def test_after_its_budget_of_cycles_an_engine_is_made_anew() -> None:
    house = a_house(cycles=2)
    await asleep(house)
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(request.done)
    request.result().release()
    house.time.now += 60.0
    await house.until(lambda: len(house.launcher.started) == 2)
    assert any("slept 2 times and is made anew" in line for line in house.recorder.lines)
    await house.make_ready("m.0")
    await house.until(lambda: house.phase("m.0") is Phase.ASLEEP)
    await house.rest()
    assert len(house.launcher.started) == 2


async def test_what_the_ram_cannot_hold_asleep_is_stopped_and_not_started_for_it() -> None:
    house = a_house()
    house.sleeping = 10  # its first sleep takes 40
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    (await request).release()
    house.time.now += 60.0
    await house.until(lambda: house.phase("m.0") is Phase.DOWN)
    await house.rest()
    assert len(house.launcher.started) == 1
    assert "don't fit in ram.sleeping" in (house.supervisor.models["m"].held_up_by or "")


async def test_level_two_keeps_its_weights_staged_for_the_wake() -> None:
    house = a_house(level=2)
    house.stager.done.set()
    await asleep(house)
    await house.until(lambda: house.supervisor.models["m"].staged.state.held)
    one = a_house()
    one.stager.done.set()
    await asleep(one)
    await one.rest()
    assert not one.supervisor.models["m"].staged.state.held


async def test_limits_that_a_reload_changed_hold_for_the_engine_that_runs() -> None:
    house = a_house()
    await asleep(house)
    terms = house.terms("m", Rung.STAGED, sleep=policy())
    fit = terms.fits[0]
    limits = replace(fit.limits, stop=3.0)
    fit = replace(fit, limits=limits, sleep=SleepTerms(slowest=0.9))
    house.supervisor.adopt("m", replace(terms, fits=(fit,)))
    house.makes["m.0"].speed = 50.0
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: house.launcher.started[0].has_ended)
    assert house.launcher.started[0].stopped_with == 3.0
    assert "it is started anew and was not served" in house.recorder.lines[-1], "too slow now"
    request.cancel()


async def test_set_asleep_is_refused_where_it_cannot_be() -> None:
    house = House("m")
    with pytest.raises(ValueError, match="can't be put to sleep: it is too lively"):
        house.supervisor.word.set_target("m", Rung.ASLEEP, None)


async def test_who_waits_for_a_sleeper_hears_of_the_wake() -> None:
    house = a_house()
    await asleep(house)
    house.makes["m.0"].wakes.clear()
    house.supervisor.models["m"].terms = house.terms(
        "m", Rung.STAGED, sleep=policy(), max_wait=0.01
    )
    house.supervisor.models["m"].wakes = [2.0]
    with pytest.raises(NotReadyError, match=r"is asleep|is waking"):
        await house.supervisor.acquire("m")
    await next_step()


async def test_a_stop_while_it_wakes_ends_the_engine() -> None:
    house = a_house()
    await asleep(house)
    house.makes["m.0"].wakes.clear()
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: house.phase("m.0") is Phase.WAKING)
    closing = asyncio.create_task(house.supervisor.close("the end"))
    await house.until(closing.done)
    assert house.launcher.started[0].has_ended
    with pytest.raises(NotReadyError):
        await request


async def test_a_measurement_that_hangs_holds_up_no_sleep_and_no_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("warmd.replica.measuring.MEASURE_S", 0.01)
    house = a_house()
    house.measures.clear()
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    (await request).release()
    house.time.now += 60.0
    await house.until(lambda: house.phase("m.0") is Phase.FALLING_ASLEEP)
    async with asyncio.timeout(10):  # what is cut off is real time
        await house.recorded("slept 1")
    nap = house.one("m.0").state.last_nap
    assert nap is not None
    assert nap.host_ram is None
    assert house.supervisor.models["m"].pinned == 40, "by its figures, where it can't be measured"


async def test_a_measurement_that_others_have_spoilt_does_not_count_for_ever() -> None:
    house = House()
    house.supervisor.adopt("m", house.terms("m", Rung.STAGED, sleep=policy()))
    known = Known(figures={KEY: SleepFigures(1.0, 1.0, 10**15, None)})
    house.supervisor.succession.restore("m", known)
    await house.rest()
    facts = house.supervisor.models["m"].facts(0.0)
    assert facts.replicas[0].pins == 2 * 10 + 2**30, "at most twice the weights, and some"


async def test_figures_of_other_args_are_not_taken() -> None:
    house = House()
    house.supervisor.adopt("m", house.terms("m", Rung.STAGED, sleep=policy()))
    other = {"k --max-model-len 32 vllm=0.33": SleepFigures(1.0, 1.0, 5, None)}
    house.supervisor.succession.restore("m", Known(figures=other))
    await house.rest()
    assert house.supervisor.models["m"].any_figures() is None


async def test_a_wake_that_takes_many_times_as_long_as_the_last_one_has_hung() -> None:
    house = a_house()
    await asleep(house)
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(request.done)
    request.result().release()
    limit = Slumber.__dict__["_wake_limit"].fget  # the deadline itself is real time
    slumber = object.__new__(Slumber)
    slumber._desk = house.one("m.0")._desk
    assert limit(slumber) == 15.0, "the last wake took no time at all"
    state = slumber._desk.state
    assert state.last_wake is not None
    slumber._desk.state = replace(state, last_wake=replace(state.last_wake, engine=4.0))
    assert limit(slumber) == 40.0
    slumber._desk.fit = replace(slumber._desk.fit, sleep=SleepTerms(level=2))
    assert limit(slumber) == 120.0, "its weights are read again, from RAM or from the disk"
    slumber._desk.fit = replace(slumber._desk.fit, sleep=SleepTerms())
    slumber._desk.state = replace(state, last_wake=None)
    assert limit(slumber) == 120.0


async def test_a_wake_and_its_proof_have_one_deadline() -> None:
    house = a_house()
    await asleep(house)
    house.makes["m.0"].answers.clear()
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: house.makes["m.0"].did[-1] == "wake 1")
    house.time.now += 119.0
    await house.rest()
    assert not any("late" in line for line in house.recorder.lines), "it is within its deadline"
    house.makes["m.0"].answers.set()
    await house.until(request.done)
    request.result().release()


async def test_a_wake_is_given_its_time_by_the_same_engine_s_last_one() -> None:
    house = a_house()
    await asleep(house)
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(request.done)
    request.result().release()
    assert house.one("m.0").state.last_wake is not None
    house.supervisor.adopt("m", house.terms("m", Rung.STAGED, spec="larger", sleep=policy()))
    house.time.now += 60.0
    await house.until(lambda: len(house.launcher.started) == 2)
    assert house.one("m.0").state.last_wake is None, "the larger one may take longer"


async def test_what_a_stale_engine_s_sleep_takes_is_not_kept_for_the_new_settings() -> None:
    house = House()
    house.supervisor.adopt("m", house.terms("m", sleep=policy()))
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    lease = await request
    terms = house.terms("m", spec="other", sleep=replace(policy(), key="other"))
    house.supervisor.adopt("m", terms)
    one = house.one("m.0")
    one.begin_sleep("before it is made anew")
    lease.release()
    house.supervisor._closing = True  # nothing else moves it
    await house.until(lambda: one.state.phase is Phase.ASLEEP)
    one.begin_wake("a request waits for it")
    await house.until(lambda: one.state.phase is Phase.READY)
    assert house.supervisor.models["m"].figures == {}


async def test_who_waits_for_one_that_is_drained_for_its_sleep_hears_of_the_wake() -> None:
    house = a_house()
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    lease = await request
    house.one("m.0").begin_sleep("put aside")
    house.supervisor.models["m"].terms = house.terms(
        "m", Rung.STAGED, sleep=policy(), max_wait=0.01
    )
    with pytest.raises(NotReadyError, match=r"is just falling asleep") as no:
        await house.supervisor.acquire("m")
    assert (no.value.retry_after_s or 99) < 30
    lease.release()
