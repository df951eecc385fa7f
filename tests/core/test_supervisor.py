"""The supervisor and its replicas over recording fakes: who waits, who starts, what is said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rig import UP, House, next_step

from warmd.devices import Footprint
from warmd.ladder import MeasuredParts, NotReadyError, Phase, Rung, Stage
from warmd.launch import EngineExit
from warmd.replica import Limits
from warmd.staging import Request, StagingError
from warmd.supervisor import Known


async def test_many_first_requests_start_one_engine() -> None:
    house = House("m")
    requests = [asyncio.create_task(house.supervisor.acquire("m")) for _ in range(50)]
    await house.make_ready("m.0")
    leases = await asyncio.gather(*requests)
    assert len(house.launcher.started) == 1
    assert {lease.replica for lease in leases} == {"m.0"}
    assert house.one("m.0").in_flight == 50
    for lease in leases:
        lease.release()
        lease.release()
    assert house.one("m.0").in_flight == 0, "a place is given back once"


async def test_no_request_reaches_an_engine_before_its_first_real_answer() -> None:
    house = House("m")
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: house.phase("m.0") is Phase.STARTING)
    house.makes["m.0"].up.set()
    await house.until(lambda: house.phase("m.0") is Phase.WARMING)
    await house.rest()
    assert not request.done()
    house.makes["m.0"].answers.set()
    await house.until(request.done)
    assert request.result().replica == "m.0"


async def test_a_start_is_told_by_rung_stage_and_reason() -> None:
    house = House("m")
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: bool(house.launcher.started))
    house.stager.done.set()
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    engine = house.launcher.started[0]
    engine.say("Starting to load model /m")
    assert house.one("m.0").stage is Stage.WEIGHTS
    house.time.now = 20.0
    engine.say(UP)
    await house.make_ready("m.0")
    (await request).release()
    assert house.recorder.lines == [
        "m.0 cold -> staged: 1 request waits for it",
        "m.0 ready from cold in 20 s",
        "m.0 staged -> hot: 1 request waits for it",
    ]
    await house.until(lambda: house.stager.holdings[0].released)


async def test_weights_that_come_after_their_engine_has_died_tell_why_they_are_wanted_now() -> None:
    house = House("m")
    house.supervisor.adopt("m", house.terms("m", Rung.STAGED))
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    lease = await request
    house.launcher.refusal = "no such file"
    house.launcher.started[0].end(EngineExit(None, signal=9))
    await house.until(lambda: house.phase("m.0") is Phase.BACKING_OFF)
    assert house.supervisor.models["m"].staged.state.reason == "1 request in flight"
    lease.release()
    house.stager.done.set()
    await house.recorded("m.0 cold -> staged")
    why = "it had a request within the last 1 min"
    assert f"m.0 cold -> staged: {why}" in house.recorder.lines


async def test_a_second_replica_waits_for_its_turn_on_the_device() -> None:
    house = House("m", resting=Rung.HOT, replicas=2)
    await house.until(lambda: house.phase("m.0") is Phase.STARTING)
    await house.rest()
    assert house.phase("m.1") is Phase.DOWN
    await house.make_ready("m.0")
    await house.make_ready("m.1")
    first, second = await house.supervisor.acquire("m"), await house.supervisor.acquire("m")
    assert {first.replica, second.replica} == {"m.0", "m.1"}, "the fewest in flight"


async def test_a_crash_is_told_with_its_cause_and_tried_again_until_it_is_a_loop() -> None:
    house = House("m", resting=Rung.HOT)
    for follows in ("next try in 0 s", "next try in 1 s", "given up after 3"):
        await house.until(lambda: house.phase("m.0") is Phase.STARTING)
        await house.until(lambda: house.one("m.0").state.pid is not None)
        engine = house.launcher.started[-1]
        engine.say("CUDA out of memory")
        engine.end(EngineExit(0))
        await house.until(lambda: house.phase("m.0") in (Phase.BACKING_OFF, Phase.FAILED))
        assert "exited with status 0; its last line was 'CUDA out of" in house.recorder.lines[-1]
        assert follows in house.recorder.lines[-1]
        house.time.now += 2.0
    await house.rest()
    assert house.phase("m.0") is Phase.FAILED
    assert len(house.launcher.started) == 3
    why = "needs an operator: exited with status 0; its last line was 'CUDA out of memory'"
    with pytest.raises(NotReadyError, match=why) as given_up:
        await house.supervisor.acquire("m")
    assert given_up.value.retry_after_s is None, "no time mends it: nobody is to come back for it"
    house.supervisor.word.set_target("m", Rung.HOT, None)
    await house.make_ready("m.0")


async def test_what_refuses_its_args_is_not_tried_again_before_they_are_mended() -> None:
    house = House("m")
    house.makes["m.0"].refuses_its_args = True
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: house.one("m.0").state.pid is not None)
    house.launcher.started[-1].end(EngineExit(2))
    await house.until(lambda: house.phase("m.0") is Phase.FAILED)
    assert "mend the args, then `warmctl reload`" in house.recorder.lines[-1]
    with pytest.raises(NotReadyError, match="needs an operator: exited with status 2"):
        await request
    assert len(house.launcher.started) == 1
    house.makes["m.0"].refuses_its_args = False
    house.supervisor.adopt("m", house.terms("m", Rung.HOT, spec="other"))
    await house.make_ready("m.0")
    house.makes["m.0"].refuses_its_args = True
    house.launcher.started[-1].end(EngineExit(2))
    await house.until(lambda: len(house.launcher.started) == 3)
    assert house.phase("m.0") is Phase.STARTING, "what was ready once may be so again"


async def test_who_waits_for_the_next_try_hears_why_the_last_one_failed() -> None:
    house = House("m")
    house.supervisor.models["m"].terms = house.terms("m", max_wait=0.05)
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: house.one("m.0").state.pid is not None)
    house.launcher.started[-1].say("CUDA out of memory")
    house.launcher.started[-1].end(EngineExit(1))
    await house.until(lambda: len(house.launcher.started) == 2)
    with pytest.raises(NotReadyError, match=r"tried again.*failed last because .* 'CUDA out of"):
        await request
    await house.make_ready("m.0")
    assert house.one("m.0").state.trouble is None


async def test_a_crash_while_serving_wakes_nobody_to_a_dead_engine() -> None:
    house = House("m", resting=Rung.HOT)
    await house.make_ready("m.0")
    house.launcher.started[0].end(EngineExit(None, signal=9))
    house.makes["m.0"].answers.clear()
    await house.until(lambda: house.phase("m.0") is Phase.BACKING_OFF)
    assert house.makes["m.0"].closed == 1
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    assert (await request).replica == "m.0"
    assert len(house.launcher.started) == 2


async def test_a_wrong_first_answer_is_a_failed_start() -> None:
    house = House("m", resting=Rung.HOT)
    house.makes["m.0"].wrong = "the warm-up got 500"
    await house.until(lambda: house.phase("m.0") is Phase.STARTING)
    house.makes["m.0"].up.set()
    house.makes["m.0"].answers.set()
    await house.until(lambda: house.phase("m.0") is Phase.BACKING_OFF)
    assert house.launcher.started[0].stopped_with == 7.0, "it is stopped, never served"
    assert "failed: the warm-up got 500" in house.recorder.lines[-1]


async def test_a_launch_that_is_refused_is_a_failed_start() -> None:
    house = House("m", resting=Rung.HOT)
    house.launcher.refusal = "no such file: /opt/vllm/bin/python"
    await house.until(lambda: house.phase("m.0") is Phase.BACKING_OFF)
    assert "no such file: /opt/vllm/bin/python" in house.recorder.lines[0]


async def test_a_fault_of_our_own_does_not_wedge_a_replica() -> None:
    house = House("m", resting=Rung.HOT)

    def broken() -> None:
        raise ZeroDivisionError("oops")

    house.makes["m.0"].prepare = broken  # type: ignore[assignment,method-assign]  # a bug, on purpose
    await house.until(lambda: house.phase("m.0") is Phase.BACKING_OFF)
    assert "a fault of warmd's own" in house.recorder.lines[0]


async def test_draining_lets_requests_finish_and_takes_no_new_ones() -> None:
    house = House("m", resting=Rung.HOT)
    await house.make_ready("m.0")
    lease = await house.supervisor.acquire("m")
    house.supervisor.word.set_target("m", Rung.COLD, None)
    await house.until(lambda: house.phase("m.0") is Phase.DRAINING)
    with pytest.raises(NotReadyError, match="m is kept cold: an operator set it to cold"):
        await house.supervisor.acquire("m")
    assert house.launcher.started[0].stopped_with is None
    lease.release()
    await house.until(lambda: house.phase("m.0") is Phase.DOWN)
    assert house.recorder.lines[-1] == "m.0 hot -> cold: an operator set it to cold"


async def test_auto_starts_no_engine_anew_that_an_operator_had_stopped() -> None:
    house = House("m")
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    (await request).release()
    house.supervisor.word.set_target("m", Rung.STAGED, None)
    house.supervisor.word.set_target("m", None, None)
    await house.rest()
    assert house.phase("m.0") is Phase.READY, "within idle.after, and nothing was stopped yet"
    for ends in (lambda: house.supervisor.word.set_target("m", None, None), lambda: None):
        house.supervisor.word.set_target("m", Rung.STAGED, 30.0)
        await house.until(lambda: house.phase("m.0") is Phase.DOWN)
        ends()
        house.time.now += 31.0
        await house.rest()
        assert house.phase("m.0") is Phase.DOWN
        again = asyncio.create_task(house.supervisor.acquire("m"))
        await house.make_ready("m.0")
        (await again).release()
        await house.rest()
        assert house.phase("m.0") is Phase.READY


async def test_a_start_is_called_off_when_an_operator_says_so() -> None:
    house = House("m")
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: house.phase("m.0") is Phase.STARTING)
    house.supervisor.word.set_target("m", Rung.COLD, 30.0)
    with pytest.raises(NotReadyError) as refused:
        await request
    assert refused.value.retry_after_s == 30
    await house.until(lambda: house.phase("m.0") is Phase.DOWN)
    assert house.launcher.started[0].stopped_with == 2.0, "nobody is served by it yet"
    house.time.now += 31.0
    again = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    assert (await again).replica == "m.0", "the order has run out"


async def test_a_wait_ends_with_an_honest_estimate() -> None:
    house = House("m")
    house.supervisor.adopt("m", house.terms("m", max_wait=0.01))
    waiting = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: bool(house.launcher.started))
    with pytest.raises(NotReadyError, match=r"m is starting \(imports\), and how long") as no:
        await waiting
    assert no.value.retry_after_s == 90
    assert house.supervisor.models["m"].waiting == {}


async def test_an_estimate_counts_only_who_is_ahead_on_the_same_card() -> None:
    house = House()
    for name, card in (("a", "GPU-0"), ("b", "GPU-1"), ("m", "GPU-1")):
        terms = house.terms(name, max_wait=0.01 if name == "m" else 5.0)
        (fit,) = terms.fits
        fit = replace(fit, cards=frozenset({card}))
        house.supervisor.adopt(name, replace(terms, fits=(fit,)))
        house.supervisor.succession.restore(name, Known(starts=[40.0]))
    others = [asyncio.create_task(house.supervisor.acquire(name)) for name in "ab"]
    await house.until(lambda: len(house.launcher.started) == 2)
    with pytest.raises(NotReadyError) as no:
        await house.supervisor.acquire("m")
    assert no.value.retry_after_s == 80, "b starts before it, and a in another place"
    for other in others:
        other.cancel()


async def test_who_gives_up_waiting_is_forgotten() -> None:
    house = House("m")
    waiting = asyncio.create_task(house.supervisor.acquire("m"))
    await house.until(lambda: bool(house.launcher.started))
    waiting.cancel()
    await house.until(waiting.done)
    assert house.supervisor.models["m"].waiting == {}
    await house.make_ready("m.0")
    assert house.one("m.0").in_flight == 0


async def test_quiet_lets_a_model_rest_on_its_rung() -> None:
    house = House("m", resting=Rung.STAGED)
    house.stager.done.set()
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    request = asyncio.create_task(house.supervisor.acquire("m"))
    await house.make_ready("m.0")
    (await request).release()
    house.time.now += 59.0
    await house.rest()
    assert house.supervisor.rung("m") is Rung.HOT
    house.time.now += 1.0
    await house.until(lambda: house.phase("m.0") is Phase.DOWN)
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    assert "hot -> " in "".join(house.recorder.lines)


async def test_weights_that_are_lost_bring_the_rung_down_and_are_staged_again() -> None:
    house = House("m", resting=Rung.STAGED)
    house.stager.done.set()
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    house.stager.holdings[0].loss.set_result("memory ran short")
    await house.until(lambda: house.supervisor.rung("m") is Rung.COLD)
    assert house.recorder.lines[-2:] == [
        "m not staged: memory ran short",
        "m.0 staged -> cold: memory ran short",
    ]
    house.time.now += 31.0
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)


async def test_a_stager_that_cannot_end_its_process_wedges_nothing() -> None:
    house = House("m", resting=Rung.STAGED)
    house.stager.done.set()
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)

    async def hangs() -> None:
        raise StagingError("a read hangs in the kernel")

    house.stager.holdings[0].release = hangs  # type: ignore[method-assign]  # as on a dead mount
    house.supervisor.word.set_target("m", Rung.COLD, None)
    await house.until(lambda: house.supervisor.rung("m") is Rung.COLD)
    house.supervisor.word.set_target("m", None, None)
    house.time.now += 31.0
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)


async def test_a_fault_of_our_own_at_staging_blocks_no_other_model() -> None:
    house = House("a", "b", resting=Rung.STAGED)

    def fault() -> Request:
        raise OSError(22, "Invalid argument")

    house.scan = lambda terms: fault  # type: ignore[method-assign]  # only a's weights are looked at anew
    house.supervisor.adopt("a", house.terms("a", Rung.STAGED, weights="/other"))
    house.stager.done.set()
    await house.until(lambda: house.supervisor.rung("b") is Rung.STAGED)
    assert "a not staged: a fault of warmd's own" in "".join(house.recorder.lines)


async def test_weights_released_before_their_task_has_begun_block_nobody() -> None:
    house = House("a", "b", resting=Rung.STAGED)
    house.supervisor.tick()
    house.supervisor.word.set_target("a", Rung.COLD, None)
    house.supervisor.tick()
    house.stager.done.set()
    await house.until(lambda: house.supervisor.rung("b") is Rung.STAGED)
    assert house.supervisor.rung("a") is Rung.COLD


async def test_a_lease_that_was_lost_sends_nobody_there_before_a_look() -> None:
    house = House("m", resting=Rung.HOT, replicas=2)
    await house.make_ready("m.0")
    await house.make_ready("m.1")
    first = await house.supervisor.acquire("m")
    first.lost()
    leases = [await house.supervisor.acquire("m") for _ in range(3)]
    assert {lease.replica for lease in leases} == {"m.0", "m.1"} - {first.replica}
    await house.rest()
    house.time.now += 0.1
    await house.rest()
    assert (await house.supervisor.acquire("m")).replica == first.replica, "it has answered again"


async def test_the_end_stops_engines_and_refuses_who_waits() -> None:
    house = House("a", "b", resting=Rung.HOT)
    await house.make_ready("a.0")
    await house.until(lambda: house.phase("b.0") is Phase.STARTING)
    waiting = asyncio.create_task(house.supervisor.acquire("b"))
    await house.rest()
    await asyncio.wait_for(house.supervisor.close("warmd is stopped"), 5)
    with pytest.raises(NotReadyError, match="shutting down"):
        await waiting
    assert [e.stopped_with for e in house.launcher.started] == [7.0, 2.0]
    assert house.phase("a.0") is house.phase("b.0") is Phase.DOWN


async def test_a_lease_is_only_to_be_had_from_a_ready_replica() -> None:
    house = House("m")
    assert house.one("m.0").lease() is None
    await house.until(lambda: True)
    house.one("m.0").begin_start("one")
    with pytest.raises(RuntimeError, match="can't be started"):
        house.one("m.0").begin_start("two")
    house.one("m.0").begin_stop("enough")
    await house.until(lambda: house.phase("m.0") is Phase.DOWN)


async def test_a_start_that_outlasts_its_limit_is_ended_and_says_where_it_stood() -> None:
    house = House("m", resting=Rung.HOT)
    slow = replace(house.fit("m.0"), limits=Limits(0.01, 1.0, 7.0, 80.0, 0.0))
    house.one("m.0").refit(slow)
    await house.until(lambda: bool(house.launcher.started))
    house.launcher.started[0].say("Starting to load model /m")
    while house.phase("m.0") is not Phase.BACKING_OFF:
        await asyncio.wait_for(house.recorder.bell.wait(), 5)
        house.recorder.bell.clear()
    assert "not ready within 0 s and stood at 'weights'" in house.recorder.lines[-1]


async def test_an_engine_that_listens_and_prints_is_not_asked_at_every_line() -> None:
    house = House("m", resting=Rung.HOT)
    asked: list[float] = []
    make = house.makes["m.0"]

    async def unwell() -> bool:
        asked.append(house.time.now)
        return False

    make.listening = unwell  # type: ignore[method-assign]  # an engine that is never well
    await house.until(lambda: bool(house.launcher.started))
    for _ in range(100):
        house.launcher.started[0].say(UP)
        await house.until(lambda: True)
    await house.rest()
    assert len(asked) < 20, "the log speaks once, then it is asked ever more slowly"


async def test_an_engine_that_hangs_is_killed_at_once_and_replaced() -> None:
    house = House("m", resting=Rung.HOT)
    await house.make_ready("m.0")
    lease = await house.supervisor.acquire("m")
    house.makes["m.0"].wrong = "no answer"
    for _ in range(12):
        house.time.now += 10.0
        await house.rest()
    await house.until(lambda: len(house.launcher.started) == 2)
    house.makes["m.0"].wrong = None
    assert house.launcher.started[0].stopped_with == 0.0, "what stands still gets no grace"
    assert any("it has hung: 1 request in flight" in line for line in house.recorder.lines)
    lease.release()
    await house.make_ready("m.0")
    assert house.one("m.0").in_flight == 0


async def test_a_client_that_does_not_read_is_no_hang_of_the_engine() -> None:
    """Its place is taken, but its answer was generated long ago: nothing has to move."""
    house = House("m", resting=Rung.HOT)
    await house.make_ready("m.0")
    lease = await house.supervisor.acquire("m")
    for _ in range(30):
        house.time.now += 10.0
        await house.rest()
    assert house.phase("m.0") is Phase.READY
    assert len(house.launcher.started) == 1
    lease.release()


async def test_new_terms_restart_only_the_engine_that_they_change() -> None:
    house = House("a", "b", resting=Rung.HOT)
    await house.make_ready("a.0")
    await house.make_ready("b.0")
    lease = await house.supervisor.acquire("a")
    house.supervisor.adopt("a", house.terms("a", Rung.HOT, spec="other"))
    house.supervisor.adopt("b", house.terms("b", Rung.HOT, max_wait=9.0))
    await house.until(lambda: house.phase("a.0") is Phase.DRAINING)
    waiting = asyncio.create_task(house.supervisor.acquire("a"))
    await house.rest()
    assert not waiting.done(), "who comes meanwhile is held"
    lease.release()
    await house.make_ready("a.0")
    assert (await waiting).replica == "a.0"
    assert [e.name for e in house.launcher.started] == ["a.0", "b.0", "a.0"]
    assert "a.0 hot -> cold: its settings have changed" in house.recorder.lines


async def test_who_asks_for_a_newcomer_waits_until_what_served_is_back_with_its_new_settings() -> (
    None
):
    house = House("a", resting=Rung.HOT)
    await house.make_ready("a.0")
    house.supervisor.adopt("t", house.terms("t"))
    lease = await house.supervisor.acquire("a")
    house.supervisor.adopt("a", house.terms("a", Rung.HOT, spec="other"))
    await house.until(lambda: house.phase("a.0") is Phase.DRAINING)
    asked = asyncio.create_task(house.supervisor.acquire("t"))
    await house.rest()
    house.time.now += 1.0
    lease.release()
    await house.until(lambda: len(house.launcher.started) == 2)
    assert house.phase("a.0") is Phase.STARTING
    house.launcher.started[1].end(EngineExit(1))  # now nothing speaks for it any more
    await house.make_ready("t.0")
    (await asked).release()
    await house.make_ready("a.0")
    assert not house.one("a.0").state.anew


async def test_replicas_are_made_anew_one_after_the_other() -> None:
    house = House("m", resting=Rung.HOT, replicas=2)
    await house.make_ready("m.0")
    await house.make_ready("m.1")
    house.supervisor.adopt("m", house.terms("m", Rung.HOT, 2, spec="other"))
    for _ in range(200):
        house.supervisor.tick()
        phases = {house.phase("m.0"), house.phase("m.1")}
        assert Phase.READY in phases, "one of them serves at every moment"
        for make in house.makes.values():
            make.up.set()
            make.answers.set()
        await next_step()
    assert len(house.launcher.started) == 4
    assert not house.one("m.0").is_stale
    assert not house.one("m.1").is_stale


async def test_a_model_that_is_gone_is_drained_and_forgotten() -> None:
    house = House("a", resting=Rung.HOT)
    await house.make_ready("a.0")
    lease = await house.supervisor.acquire("a")
    house.supervisor.retire("a")
    assert house.supervisor.resolve("a") is None
    assert house.supervisor.resolve("a-alias") is None
    await house.until(lambda: house.phase("a.0") is Phase.DRAINING)
    lease.release()
    await house.until(lambda: "a" not in house.supervisor.models)
    house.supervisor.adopt("a", house.terms("a"))
    assert (house.supervisor.resolve("a-alias"), house.supervisor.rung("a")) == ("a", Rung.COLD)


async def test_who_waits_for_a_model_that_goes_is_told() -> None:
    house = House("a")
    waiting = asyncio.create_task(house.supervisor.acquire("a"))
    await house.until(lambda: house.phase("a.0") is Phase.STARTING)
    house.supervisor.retire("a")
    with pytest.raises(NotReadyError, match="no longer served"):
        await waiting
    await house.until(lambda: not house.supervisor.models)


async def test_other_weights_are_staged_in_place_of_the_old() -> None:
    house = House("m", resting=Rung.STAGED)
    house.stager.done.set()
    await house.until(lambda: house.supervisor.rung("m") is Rung.STAGED)
    house.supervisor.adopt("m", house.terms("m", Rung.STAGED, weights="/other"))
    await house.until(lambda: house.stager.holdings[0].released)
    await house.until(lambda: len(house.stager.holdings) == 2)


async def test_a_look_at_former_weights_that_hung_tells_nothing_of_the_new_ones() -> None:
    """A dead mount lets go at last, when `weights` has led elsewhere for long."""
    house = House("m")
    await house.rest()
    staged, mount = house.supervisor.models["m"].staged, asyncio.Event()

    async def from_the_dead_mount(work: Callable[[], Any]) -> Any:
        await mount.wait()
        raise OSError("the mount is gone")

    alive, staged._in_thread = staged._in_thread, from_the_dead_mount
    staged.begin_look()
    await house.rest()
    staged._in_thread = alive
    house.supervisor.adopt("m", house.terms("m", weights="/other"))
    await house.until(lambda: staged.state.total == 10)
    mount.set()
    await house.rest()
    assert staged.state.total == 10


async def test_more_replicas_join_and_fewer_leave_without_touching_the_rest() -> None:
    house = House("m", resting=Rung.HOT)
    await house.make_ready("m.0")
    house.supervisor.adopt("m", house.terms("m", Rung.HOT, 2))
    await house.make_ready("m.1")
    house.supervisor.adopt("m", house.terms("m", Rung.HOT, 1))
    await house.until(lambda: house.phase("m.1") is Phase.DOWN)
    assert [e.name for e in house.launcher.started] == ["m.0", "m.1"]
    assert house.phase("m.0") is Phase.READY


async def test_an_operators_word_on_a_model_that_goes_is_refused() -> None:
    house = House("a", resting=Rung.HOT)
    await house.make_ready("a.0")
    lease = await house.supervisor.acquire("a")
    house.supervisor.retire("a")
    with pytest.raises(ValueError, match="no longer in the config"):
        house.supervisor.word.set_target("a", Rung.HOT, None)
    assert house.supervisor.view.statuses()["a"].retired
    lease.release()
    await house.until(lambda: not house.supervisor.view.statuses())


async def test_replicas_that_left_the_config_count_no_longer() -> None:
    house = House("m", resting=Rung.HOT, replicas=2)
    house.launcher.refusal = "no such file"
    for _ in range(5):
        await house.rest()
        house.time.now += 5.0
    house.supervisor.adopt("m", house.terms("m", Rung.HOT, 1))
    await house.until(lambda: len(house.supervisor.models["m"].replicas) == 1)
    for _ in range(5):
        await house.rest()
        house.time.now += 5.0
    assert house.phase("m.0") is Phase.FAILED
    with pytest.raises(NotReadyError, match="needs an operator"):
        await house.supervisor.acquire("m")


async def test_an_engine_in_doubt_that_never_answers_is_replaced() -> None:
    house = House("m", resting=Rung.HOT)
    await house.make_ready("m.0")

    async def unwell() -> bool:
        return False

    make = house.makes["m.0"]
    make.listening = unwell  # type: ignore[method-assign]  # /health is red, /metrics answers
    (lease := await house.supervisor.acquire("m")).lost()
    lease.release()
    for _ in range(30):
        await house.rest()
        house.time.now += 5.0
    assert any("has not been well since" in line for line in house.recorder.lines)
    await house.until(lambda: len(house.launcher.started) == 2)


async def test_a_model_may_go_and_come_back_before_anybody_has_looked_at_its_files() -> None:
    house = House("a", resting=Rung.STAGED)
    house.supervisor.retire("a")
    house.supervisor.tick()
    assert house.supervisor.view.statuses() == {}
    house.supervisor.adopt("a", house.terms("a", Rung.STAGED))
    house.stager.done.set()
    await house.until(lambda: house.supervisor.rung("a") is Rung.STAGED)


async def test_what_a_start_took_of_the_gpu_is_kept_beside_what_the_driver_says() -> None:
    house = House("m", resting=Rung.HOT)
    house.makes["m.0"].measured = MeasuredParts("0.33", weights=60)
    house.memory = Footprint(100, 90, 10**9, card_bytes=70)
    await house.make_ready("m.0")
    await house.until(lambda: "m measured: weights 60, held 70" in house.recorder.lines)


async def test_a_measurement_that_hangs_after_a_start_holds_up_neither_stop_nor_drain() -> None:
    house = House("m", resting=Rung.HOT)
    house.makes["m.0"].measured = MeasuredParts("0.33", weights=60)
    house.measures.clear()
    await house.make_ready("m.0")
    place = await house.supervisor.acquire("m")
    house.supervisor.word.set_target("m", Rung.COLD, None)
    await house.until(lambda: house.phase("m.0") is Phase.DRAINING)
    await house.rest()
    assert not house.launcher.started[0].has_ended, "a request is in flight"
    place.release()
    await house.until(lambda: house.phase("m.0") is Phase.DOWN)


async def test_an_operator_hears_at_once_what_holds_up_his_word() -> None:
    house = House()
    for name in ("a", "b"):
        house.supervisor.adopt(name, house.terms(name, pool="p", vram=60))
    assert (
        house.supervisor.word.set_target("a", Rung.HOT, None)
        == "a is to be hot until it is set otherwise"
    )
    await house.make_ready("a.0")
    assert house.supervisor.word.set_target("b", Rung.HOT, 60.0) == (
        "b is to be hot for 1 min; held up for now: pool p is full: it lacks 20 bytes for b.0; "
        "a.0 is hot there: an operator set it"
    )
    cold = house.supervisor.word.set_target("b", Rung.COLD, None)
    assert cold == "b is to be cold until it is set otherwise"


async def test_what_an_operator_sets_lower_serves_nobody_new_while_its_stop_must_wait() -> None:
    house = House("b", resting=Rung.HOT)
    await house.make_ready("b.0")
    flows = await house.supervisor.acquire("b")
    house.supervisor.adopt("a", house.terms("a", Rung.HOT))
    await house.until(lambda: house.phase("a.0") is Phase.STARTING)
    why = "its stop waits: a.0 is starting on the same device"
    said = house.supervisor.word.set_target("b", Rung.STAGED, 30.0)
    assert said == f"b is to be staged for 30 s; held up for now: {why}"
    with pytest.raises(NotReadyError, match=r"b is kept staged until 00:\d\d: an operator set it"):
        await house.supervisor.acquire("b")
    await house.rest()
    assert house.supervisor.view.statuses()["b"].held_up_by == why
    assert house.phase("b.0") is Phase.READY
    house.time.now += 30.0
    (await house.supervisor.acquire("b")).release()
    flows.release()
