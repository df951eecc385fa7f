"""Cards over recording fakes: looked at after each operation, and what isn't given back is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from rig import FakeGpu, House, next_step
from test_sleep import KNOWN, policy

from warmd.devices import HOST, CardUse, Sweep
from warmd.ladder import Phase, Rung
from warmd.launch import EngineExit
from warmd.planner import Card
from warmd.status import CardShare
from warmd.supervisor import CardRules, Look
from warmd.supervisor.cards import Cards


def a_house(*names: str, vram: int = 60, frees: bool = True) -> House:
    """Models of one pool on one GPU, that may sleep."""
    house = House(gpu=FakeGpu())
    for name in names:
        terms = house.terms(
            name, Rung.STAGED, sleep=policy(), pool="p", vram=vram, max_wait=3600.0, frees=frees
        )
        house.supervisor.adopt(name, terms)
        house.supervisor.succession.restore(name, KNOWN)
    return house


async def serve(house: House, name: str) -> None:
    request = asyncio.create_task(house.supervisor.acquire(name))
    await house.make_ready(f"{name}.0")
    (await request).release()


def held_up(house: House, name: str) -> str | None:
    return house.supervisor.models[name].held_up_by


async def test_nothing_starts_before_somebody_has_looked() -> None:
    house = a_house("a")
    request = asyncio.create_task(house.supervisor.acquire("a"))
    await next_step()
    house.supervisor.tick()
    assert house.phase("a.0") is Phase.DOWN
    assert house.supervisor.cards.wanted.is_set(), "and it is asked for at once"
    await house.make_ready("a.0")
    (await request).release()


async def test_a_look_comes_once_a_starting_engines_program_runs_and_not_before() -> None:
    """Beside the launch it cost the engine's exec milliseconds (issue 2)."""
    house = a_house("a")
    house.supervisor.word.set_target("a", Rung.HOT, None)
    wanted = house.supervisor.cards.wanted
    assert house.gpu is not None
    house.supervisor.seen(house.gpu.look(house))
    wanted.clear()
    house.supervisor.tick()
    assert (house.phase("a.0"), house.one("a.0").state.pid) == (Phase.STARTING, None)
    assert not wanted.is_set()
    await next_step()
    assert house.one("a.0").state.pid is not None
    assert wanted.is_set()


async def test_a_start_whose_program_runs_late_is_called_off_all_the_same() -> None:
    """It was started over a stranger where a slow disk had kept the model's headers for long."""
    house = a_house("a")
    house.supervisor.word.set_target("a", Rung.HOT, None)
    assert house.gpu is not None
    house.supervisor.seen(house.gpu.look(house))
    house.supervisor.tick()
    house.gpu.strangers[4711] = 50
    house.time.now += 9.0  # its config and headers are read
    taken = house.gpu.look(house)
    await next_step()
    assert house.one("a.0").state.pid is not None
    house.time.now += 1.0
    house.supervisor.cards.wanted.clear()
    house.supervisor.seen(replace(taken, began=house.time.now))
    await house.until(lambda: house.phase("a.0") is Phase.DOWN)
    assert "process 4711 (x) holds 50 bytes" in house.one("a.0").state.reason


async def test_a_look_from_before_the_end_of_an_operation_is_not_enough() -> None:
    house = a_house("a", "b")
    await serve(house, "a")
    await house.rest()
    house.time.now += 1.0
    early = house.gpu.look(house) if house.gpu else None
    assert early is not None
    house.time.now += 1.0
    request = asyncio.create_task(house.supervisor.acquire("b"))
    house.supervisor.word.set_target("a", Rung.ASLEEP, None)
    while house.phase("a.0") is not Phase.ASLEEP:
        house.supervisor.tick()
        await next_step()
    house.supervisor.cards.wanted.clear()
    house.supervisor.seen(early)
    house.supervisor.tick()
    assert house.phase("b.0") is Phase.DOWN
    assert "is looked at first" in (held_up(house, "b") or "")
    assert house.supervisor.cards.wanted.is_set()
    await house.make_ready("b.0")
    (await request).release()


async def test_a_stranger_keeps_a_model_waiting_until_it_goes() -> None:
    house = a_house("a")
    assert house.gpu is not None
    house.gpu.strangers[4711] = 50
    request = asyncio.create_task(house.supervisor.acquire("a"))
    await house.rest()
    assert "process 4711 (x) holds 50 bytes" in (held_up(house, "a") or "")
    (card,) = house.supervisor.view.card_statuses()
    assert card.foreign == (CardShare("process 4711 (x)", 50, 50),)
    assert (card.free, card.reserved, card.taken) == (50, 0, 50)
    house.gpu.strangers.clear()
    house.time.now += 16.0  # the last look has become too old
    (card,) = house.supervisor.view.card_statuses()
    assert card.free == 50, "but is shown, with its time"
    await house.make_ready("a.0")
    (await request).release()
    (card,) = house.supervisor.view.card_statuses()
    assert card.engines == (CardShare("a.0", 60, 60),)


async def test_an_engine_that_holds_more_than_it_reserves_is_told_once_and_shown() -> None:
    house = a_house("a", vram=40)
    await serve(house, "a")
    assert house.gpu is not None
    house.time.now += 1.0
    look = house.gpu.look(house)
    assert look.sweep is not None
    pid = house.launcher.started[0].pid
    for held, told in ((45, 0), (46, 1), (47, 1)):
        use = replace(look.sweep.cards["GPU-0"], held={pid: held})
        more = replace(look, sweep=replace(look.sweep, cards={"GPU-0": use}))
        house.supervisor.seen(more)
        lines = [line for line in house.recorder.lines if "and reserves" in line]
        assert len(lines) == told
    (card,) = house.supervisor.view.card_statuses()
    assert card.mismatches == (
        "a.0 holds 47 bytes of GPU 0 and reserves 40 bytes: raise its vram, or lower what it takes",
    )


async def test_an_engine_that_waits_to_be_made_anew_is_not_held_to_its_new_vram() -> None:
    house = a_house("a", vram=60)
    await serve(house, "a")
    assert house.gpu is not None
    house.time.now += 1.0
    look = house.gpu.look(house)
    smaller = house.terms("a", Rung.STAGED, spec="other", sleep=policy(), pool="p", vram=20)
    house.supervisor.adopt("a", smaller)
    house.supervisor.seen(look)
    assert [line for line in house.recorder.lines if "and reserves" in line] == []
    assert house.supervisor.view.card_statuses()[0].mismatches == ()


async def test_a_sleep_that_frees_too_little_has_failed() -> None:
    house = a_house("a")
    house.asleep_keeps = 0.6
    await serve(house, "a")
    house.time.now += 60.0
    await house.until(lambda: house.phase("a.0") is Phase.BACKING_OFF)
    assert house.launcher.started[0].has_ended
    reason = house.one("a.0").state.reason
    assert reason.startswith("its sleep gave back 20 bytes of the 50 bytes of VRAM that it held")
    assert house.one("a.0").state.bad_naps == 1


async def test_a_drill_is_not_asked_what_it_freed() -> None:
    house = a_house("a", frees=False)
    house.asleep_keeps = 1.0
    await serve(house, "a")
    house.time.now += 60.0
    await house.until(lambda: house.phase("a.0") is Phase.ASLEEP)


async def test_what_a_dead_engine_keeps_is_waited_for_then_told_and_never_started_over() -> None:
    """vllm#55510: VRAM outlives its process."""
    house = a_house("a")
    assert house.gpu is not None
    await serve(house, "a")
    house.back.clear()
    house.keeps = "process 100 still holds 60 bytes of GPU 0"
    (engine,) = house.launcher.started
    engine.end(EngineExit(None, signal=9))
    await house.until(lambda: house.phase("a.0") is Phase.STOPPING)
    await house.rest()
    assert house.phase("a.0") is Phase.STOPPING, "its lane is held"
    house.gpu.dead[engine.pid] = ("a.0", 60)
    house.back.set()
    await house.until(lambda: house.phase("a.0") is Phase.BACKING_OFF)
    assert f"a.0 kept: {house.keeps}" in house.recorder.lines
    request = asyncio.create_task(house.supervisor.acquire("a"))
    house.time.now += 30.0
    await house.rest()
    assert len(house.launcher.started) == 1
    assert "process 100, which was a.0 holds 60 bytes" in (held_up(house, "a") or "")
    house.gpu.dead.clear()
    house.time.now += 16.0
    await house.make_ready("a.0")
    (await request).release()


async def test_where_nobody_can_tell_nothing_starts_and_that_is_told_once() -> None:
    house = a_house("a")
    assert house.gpu is not None
    house.gpu.sick = "the NVIDIA kernel driver is not loaded"
    request = asyncio.create_task(house.supervisor.acquire("a"))
    await house.rest()
    assert held_up(house, "a") == f"nobody can tell what is free on GPU 0: {house.gpu.sick}"
    assert house.supervisor.holds_cards, "so it is looked at again and again"
    house.supervisor.seen(house.gpu.look(house))
    assert house.recorder.lines == [f"GPU 0 in doubt: {house.gpu.sick}"]
    house.gpu.sick = None
    house.supervisor.seen(house.gpu.look(house))
    assert house.recorder.lines[-1] == "GPU 0 in doubt: None"
    await house.make_ready("a.0")
    (await request).release()


async def test_other_cards_than_before_are_unknown_and_not_in_doubt() -> None:
    """At boot the driver may come after the daemon, whose device was the host's memory."""
    house = a_house("a")
    await serve(house, "a")
    cards = house.supervisor.cards
    assert house.gpu is not None
    house.gpu.key = "GPU-1"
    cards.wanted.clear()
    cards.fit(CardRules((house.gpu.card,)))
    assert cards.wanted.is_set()
    (card,) = cards.facts().values()
    assert (card.trouble, card.is_known(house.time.now)) == (None, False)
    house.supervisor.seen(house.gpu.look(house))
    (card,) = cards.facts().values()
    assert card.is_known(house.time.now)
    cards.fit(CardRules((house.gpu.card,), headroom=7))
    (card,) = cards.facts().values()
    assert (card.headroom, card.is_known(house.time.now)) == (7, True), "a reload forgets nothing"


def test_the_rest_of_the_host_is_what_no_named_process_holds() -> None:
    cards = Cards(lambda: 1.0)
    cards.fit(CardRules((Card(HOST, 0, "host memory", 100),)))
    use = CardUse(HOST, 0, "host memory", 100, 80, {7: 30}, frozenset())
    who = {11: "process 11 (x)", 12: "process 12 (y)"}
    for others, foreign in (
        (None, [("the rest of this host", 50)]),
        ({11: 40, 12: 20}, [("process 11 (x)", 40), ("the rest of this host", 10)]),
    ):
        cards.see(Look(1.0, Sweep({HOST: replace(use, others=others)}, ()), {7: "m.0"}, who))
        [seen] = cards.facts().values()
        assert [(each.who, each.held) for each in seen.foreign] == foreign
        assert seen.named is (others is not None)
