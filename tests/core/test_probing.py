"""Probes hold a model hot for nobody else's sake, and end where somebody else needs the room."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from rig import House, next_step

from warmd.cli.probe import probe_table
from warmd.config import ModelSettings, Settings, WarmupKind
from warmd.control.probe import ProbeStatus
from warmd.engine import WarmupAnswer, WarmupSpec
from warmd.history import Probed
from warmd.ladder import Phase, Rung
from warmd.probing import Probes

MINUTE, HOUR = 60.0, 3600.0


class Scene:
    """Models in one pool that has room for one of them, and probes."""

    def __init__(self, *names: str, tried: float | None = None, **table: Any) -> None:
        self.house = House()
        for name in names:
            self.house.supervisor.adopt(name, self.house.terms(name, pool="p", vram=60))
        facts = {"weights": Path("/w"), "timezone": "UTC", **table}
        models = {name: ModelSettings.model_validate(facts) for name in names}
        settings, self.kept, self.told = Settings(models=models), list[Probed](), list[str]()
        self.tried = {} if tried is None else {"m": tried}
        self.probes = Probes(
            *(self.house.supervisor, lambda: settings, self),
            clock=self.house.time.clock,
            tell=self.told.append,
            ask=self.ask,
            pause=self.house.time.sleep,
        )
        self.probes.recall()

    async def ask(self, session: aiohttp.ClientSession, spec: WarmupSpec) -> WarmupAnswer:
        assert spec.anew
        return WarmupAnswer(WarmupKind.CHAT, 0.2, 0.05)

    def keep(self, model: str, key: str, probed: Probed) -> None:
        self.kept.append(probed)

    def last_nightly(self) -> dict[str, float]:
        return self.tried

    async def pass_time(self, seconds: float, step: float = 15.0) -> None:
        end = self.house.time.now + seconds
        while self.house.time.now < end:
            self.house.time.now = min(end, self.house.time.now + step)
            for _ in range(8):
                self.house.tick()
                self.probes.tick()
                await next_step()

    def begin(self, *idle: float) -> int:
        return self.probes.begin_probe("m", idle).id

    async def look(self, number: int, seconds: float) -> ProbeStatus:
        end = self.house.time.now + seconds
        while (status := self.probes.probe(number)).ended is None and self.house.time.now < end:
            await self.pass_time(15.0)
        return status


async def test_a_cold_model_is_made_hot_as_for_a_request_and_let_go_after() -> None:
    scene = Scene("m")
    number = scene.begin(0.0, 10 * MINUTE)
    await scene.house.make_ready("m.0")
    status = await scene.look(number, HOUR)
    assert (status.ended, status.failed) == ("done", False)
    started, idle = status.steps
    assert (started.met, idle.met) == ("cold", "hot")
    assert idle.idle_s >= 10 * MINUTE
    assert scene.kept == [started, idle]
    await scene.house.until(lambda: scene.house.phase("m.0") is Phase.DOWN)
    await scene.house.die()


async def test_what_it_took_to_get_hot_is_no_wait_for_the_next_tick() -> None:
    """A wake of 12 ms was told as 947 ms."""
    scene = Scene("m")
    loop = asyncio.create_task(scene.house.supervisor.run(lambda: None))
    await scene.house.rest()
    for wanted in (Phase.DOWN, Phase.STARTING):
        for _ in range(20):
            await next_step()
        assert scene.house.phase("m.0") is wanted
        if wanted is Phase.DOWN:
            scene.begin(0.0)
    loop.cancel()
    await scene.house.die()


async def test_it_ends_where_requests_of_another_model_need_its_room() -> None:
    scene = Scene("m", "n")
    number = scene.begin(30 * MINUTE)
    await scene.house.make_ready("m.0")
    await scene.look(number, MINUTE)
    asking = asyncio.create_task(scene.house.supervisor.acquire("n"))
    status = await scene.look(number, 5 * MINUTE)
    assert status.failed
    assert "put aside for n" in (status.ended or "")
    await scene.house.make_ready("n.0")
    (await asking).release()
    await scene.house.die()


async def test_nobody_makes_room_for_it() -> None:
    scene = Scene("m", "n")
    asking = asyncio.create_task(scene.house.supervisor.acquire("n"))
    await scene.house.make_ready("n.0")
    (await asking).release()
    number = scene.begin(0.0)
    status = await scene.look(number, 45.0)
    assert "pool p is full" in (status.ended or "")
    assert scene.house.phase("n.0") is Phase.READY
    await scene.house.die()


async def test_one_whose_warmctl_is_gone_ends() -> None:
    scene = Scene("m")
    number = scene.begin(HOUR)
    await scene.house.make_ready("m.0")
    await scene.pass_time(2 * MINUTE)
    assert scene.probes.probe(number).ended == "nobody looks at it any more"
    await scene.house.until(lambda: scene.house.phase("m.0") is Phase.DOWN)
    with pytest.raises(LookupError, match="there is no probe 7"):
        scene.probes.probe(7)
    await scene.house.die()


NIGHT: dict[str, Any] = {"probe": {"at": "0 3 * * *", "idle": ["15m"]}}


async def test_at_night_each_firing_is_one_probe_of_what_is_hot() -> None:
    scene = Scene("m", **NIGHT)
    scene.house.supervisor.word.set_target("m", Rung.HOT, None)
    await scene.house.make_ready("m.0")
    await scene.pass_time(2 * HOUR, step=300.0)
    assert scene.kept == []
    await scene.pass_time(20 * HOUR, step=300.0)
    (probed,) = scene.kept
    assert probed.source == "nightly"
    assert probed.idle_s >= 15 * MINUTE
    assert scene.told == ["m: nightly probe: " + scene.told[0].partition("probe: ")[2]]
    await scene.house.die()


async def test_at_night_nothing_is_heated_and_a_late_morning_is_left_alone() -> None:
    scene = Scene("m", **NIGHT)
    await scene.pass_time(5 * HOUR, step=300.0)
    assert scene.house.phase("m.0") is Phase.DOWN
    left_out = "m: its nightly probe is left out: for 1 h it was not hot, or not free for it"
    assert scene.told == [left_out]
    scene.house.supervisor.word.set_target("m", Rung.HOT, None)
    await scene.house.make_ready("m.0")
    await scene.pass_time(5 * HOUR, step=300.0)
    assert scene.kept == []
    await scene.house.die()


async def test_a_restart_knows_that_tonight_has_been() -> None:
    fired = 3 * HOUR
    scene = Scene("m", tried=fired + 60.0, **NIGHT)
    scene.house.supervisor.word.set_target("m", Rung.HOT, None)
    scene.house.time.now = fired - 1000.0 + 120.0
    await scene.house.make_ready("m.0")
    await scene.pass_time(HOUR, step=60.0)
    assert scene.kept == []
    await scene.house.die()


def test_what_warmctl_shows() -> None:
    def step(idle_s: float, first: float, **more: Any) -> dict[str, Any]:
        facts = {"idle_s": idle_s, "met": "hot", "first_token_s": first, "usual_s": 0.05}
        facts |= {"first_total_s": first + 1, "next": [[0.05, 1.0], [0.05, 3.0]], "came_up_s": 0}
        return facts | {"stages": {}, "restarts": 0, "slow": first > 0.1} | more

    came_up = {"met": "staged", "came_up_s": 9.0, "stages": {"imports": 7.0, "new-stage": 1.0}}
    steps = [step(0.1, 0.06, **came_up), step(900, 0.06), step(3600, 0.5, restarts=2)]
    told = probe_table({"model": "m", "steps": steps, "failed": True, "ended": "Ctrl-C"})
    lines = told.splitlines()
    assert lines[1].split() == ["none", "staged", "60", "ms", "1.1", "s", "50", "ms", "2.0", "s"]
    assert lines[2].strip() == "before, it got hot in 9.0 s: imports 7.0 s"
    assert lines[4].endswith(" slow")
    assert lines[5].strip() == "users came 2 times, and it began anew"
    assert lines[12] == f"1 h       first {'█' * 48} 500 ms"
    assert lines[-4:] == [
        "m: a request that meets it staged waits 9.1 s for its first token",
        "m: the first request after 1 h waits 450 ms longer than the next ones",
        'after 15 min it doesn\'t, so keepalive.every = "15m" would help',
        "ended: Ctrl-C",
    ]
    assert probe_table({"model": "m", "steps": [], "failed": True, "ended": "no"}) == "ended: no"
    spent = dict.fromkeys(("program", "imports", "weights", "compile", "kv-cache"), 12.0)
    long = [step(0, 0.06, **came_up | {"stages": spent}), step(16200, 120.0), step(905, 0.06)]
    told = probe_table({"model": "m", "steps": long, "failed": False, "ended": "done"})
    assert max(map(len, told.splitlines())) <= 80
    assert told.count("4 h 30 min  hot ") == told.count("15 min 5 s  first ") == 1
