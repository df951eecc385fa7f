"""Requests of warmd's own, over a supervisor with fakes and a clock that is set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from rig import House, next_step

from warmd.bursts import DisturbedError, NotHotError, measure
from warmd.config import ModelSettings, Settings, WarmupKind
from warmd.engine import EngineError, WarmupAnswer, WarmupSpec, warm_up
from warmd.gateway import RequestRecord
from warmd.history import Probed
from warmd.keeping_warm import KeepingWarm
from warmd.ladder import Phase, Rung
from warmd.policy import NEXT, Override, Rank, Synthetic, Target, held_hot
from warmd.warmups import asks_of

MINUTE, DAY = 60.0, 86400.0


@dataclass
class Book:
    """Keeps what was asked and measured."""

    told: list[tuple[str, Synthetic, str | None, bool]] = field(default_factory=list)
    kept: list[tuple[str, Probed]] = field(default_factory=list)

    def synthetic_done(
        self,
        model: str,
        replica: str,
        kind: Synthetic,
        *,
        trouble: str | None,
        tell: bool,
        **_: Any,
    ) -> None:
        self.told.append((replica, kind, trouble, tell))

    def keep(self, model: str, key: str, probed: Probed) -> None:
        self.kept.append((key, probed))

    def probed(self, model: str, key: str, since: float) -> list[Probed]:
        return [probed for known, probed in self.kept if known == key and probed.at >= since]


@dataclass
class Engine:
    """Answers, as slowly as it is told after an idle time."""

    house: House
    slow_after: float = float("inf")
    wrong: str | None = None
    asked: list[str] = field(default_factory=list)
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    idle_since: float = 0.0

    def __post_init__(self) -> None:
        self.answers.set()

    async def __call__(self, session: aiohttp.ClientSession, spec: WarmupSpec) -> WarmupAnswer:
        self.asked.append(spec.prompt)
        await self.answers.wait()
        if self.wrong is not None:
            raise EngineError(self.wrong)
        idle_s, self.idle_since = self.house.time.now - self.idle_since, self.house.time.now
        token = 0.9 if idle_s >= self.slow_after else 0.05
        return WarmupAnswer(WarmupKind.CHAT, token, token)


class Scene:
    """A model `m` that is hot, and what keeps it warm."""

    def __init__(self, **table: Any) -> None:
        self.house, self.book = House("m", resting=Rung.HOT), Book()
        self.engine = Engine(self.house)
        model = ModelSettings.model_validate(
            {"weights": Path("/w"), "warmup": {"prompt": "warm"}, **table}
        )
        settings = Settings(models={"m": model})
        self.keeping = KeepingWarm(
            *(self.house.supervisor, lambda: settings, self.book, self.book),
            clock=self.house.time.clock,
            ask=self.engine,
        )

    @property
    def m0(self) -> Any:
        return self.house.one("m.0")

    async def pass_time(self, seconds: float, step: float = MINUTE) -> None:
        end = self.house.time.now + seconds
        while self.house.time.now < end:
            self.house.time.now = min(end, self.house.time.now + step)
            await self.rest()

    async def rest(self) -> None:
        for _ in range(8):
            self.house.tick()
            self.keeping.tick()
            await next_step()


async def hot(**table: Any) -> Scene:
    scene = Scene(**table)
    await scene.house.make_ready("m.0")
    return scene


async def test_a_quiet_engine_is_asked_at_its_interval_and_its_idle_time_goes_on() -> None:
    scene = await hot(keepalive={"every": "10m", "prompt": "tick"})
    await scene.pass_time(35 * MINUTE)
    assert scene.engine.asked == ["tick"] * 3
    assert set(scene.book.told) == {("m.0", Synthetic.KEEPALIVE, None, False)}
    assert scene.house.supervisor.idle_s("m") == float("inf")  # nobody has ever asked
    assert scene.house.supervisor.models["m"].demand(scene.house.time.now).in_flight == 0
    await scene.house.die()


async def test_users_put_it_off_while_they_are_served_and_after() -> None:
    scene = await hot(keepalive={"every": "10m"})
    lease = await scene.house.supervisor.acquire("m")
    await scene.pass_time(30 * MINUTE)
    assert scene.engine.asked == []
    lease.answered()
    lease.release()
    await scene.pass_time(9 * MINUTE)
    assert scene.engine.asked == []
    await scene.pass_time(2 * MINUTE)
    assert len(scene.engine.asked) == 1
    await scene.house.die()


async def test_one_that_fails_is_told_once_and_once_that_it_is_over() -> None:
    scene = await hot(keepalive={"every": "10m"})
    scene.engine.wrong = "it said no"
    await scene.pass_time(31 * MINUTE)
    scene.engine.wrong = None
    await scene.pass_time(20 * MINUTE)
    assert [trouble for _, _, trouble, _ in scene.book.told] == ["it said no"] * 3 + [None] * 2
    assert [tell for *_, tell in scene.book.told] == [True, False, False, True, False]
    assert scene.m0.state.phase is Phase.READY
    await scene.house.die()


async def test_a_drain_waits_for_it() -> None:
    scene = await hot(keepalive={"every": "10m"})
    scene.engine.answers.clear()
    await scene.pass_time(10 * MINUTE)
    assert len(scene.engine.asked) == 1
    scene.house.supervisor.word.set_target("m", Rung.COLD, None)
    await scene.rest()
    assert scene.m0.state.phase is Phase.DRAINING
    scene.engine.answers.set()
    await scene.house.until(lambda: scene.m0.state.phase is Phase.DOWN)
    await scene.pass_time(30 * MINUTE)
    assert len(scene.engine.asked) == 1  # it wakes nobody
    await scene.house.die()


async def test_a_cron_entry_asks_what_has_answered_nobody_since() -> None:
    # The wall clock stands 1000 s after midnight of 1 January 1970, a Thursday.
    scene = await hot(timezone="UTC", cron=[{"at": "0 6 * * *", "warmup": True}])
    await scene.rest()
    assert scene.engine.asked == []  # its own start came after yesterday's firing
    await scene.pass_time(6 * 3600, step=900)
    assert scene.engine.asked == ["warm"]
    assert scene.book.told == [("m.0", Synthetic.WARMUP, None, False)]
    await scene.pass_time(20 * 3600, step=1800)
    assert len(scene.engine.asked) == 1

    scene.house.time.now = DAY + 5 * 3600  # nobody looks while it fires: a suspended machine
    lease = await scene.house.supervisor.acquire("m")
    scene.house.time.now += 3 * 3600
    lease.answered()
    lease.release()
    await scene.rest()
    assert len(scene.engine.asked) == 1  # a user came first, and was answered
    scene.house.time.now = 2 * DAY + 9 * 3600
    await scene.rest()
    assert len(scene.engine.asked) == 2
    await scene.house.die()


async def test_auto_measures_and_drops_what_makes_no_difference() -> None:
    scene = await hot(keepalive={"every": "auto"})
    await until_recalled(scene)
    await scene.pass_time(110 * MINUTE)
    assert len(scene.engine.asked) == 3 * (1 + NEXT)
    assert [round(probed.idle_s / MINUTE) for _, probed in scene.book.kept] == [15, 30, 60]
    kept = scene.house.supervisor.models["m"].keeps
    assert kept is not None
    assert kept.startswith("auto: dropped, it makes no difference: after 1 h")
    await scene.pass_time(300 * MINUTE)
    assert len(scene.engine.asked) == 3 * (1 + NEXT)
    assert scene.book.told == []
    await scene.house.die()


async def test_auto_keeps_the_longest_interval_that_helps_also_after_a_restart() -> None:
    scene = await hot(keepalive={"every": "auto"})
    scene.engine.slow_after = 25 * MINUTE
    await until_recalled(scene)
    await scene.pass_time(46 * MINUTE)
    assert len(scene.engine.asked) == 2 * (1 + NEXT)
    await scene.pass_time(31 * MINUTE)
    assert len(scene.engine.asked) == 2 * (1 + NEXT) + 2  # each 15 minutes
    await scene.house.die()

    later = await hot(keepalive={"every": "auto"})
    later.book.kept = scene.book.kept
    await until_recalled(later)
    await later.pass_time(16 * MINUTE)
    assert len(later.engine.asked) == 1
    await later.house.die()


async def test_auto_takes_what_real_traffic_shows() -> None:
    scene = await hot(keepalive={"every": "auto"})
    await until_recalled(scene)
    scene.house.time.now += 65 * MINUTE
    for n in range(1 + NEXT):
        idle = 65 * MINUTE if n == 0 else 1.0
        scene.keeping.heard(RequestRecord("m", "/v1/x", 200, Rung.HOT, idle, 0.0, 0.05, 0.1))
    assert [probed.source for _, probed in scene.book.kept] == ["traffic"]
    await scene.pass_time(200 * MINUTE)
    assert scene.engine.asked == []
    await scene.house.die()


@pytest.mark.parametrize(
    ("at", "measured", "says"),
    [
        ("*/15 * * * *", [], "auto: nothing more: its planned warm-ups leave no quiet of 15 min"),
        ("*/20 * * * *", [15], "auto: dropped, it makes no difference: after 15 min"),
        ("*/15 8-17 * * *", [15, 30, 60], "auto: dropped, it makes no difference: after 1 h"),
    ],
)
async def test_auto_measures_only_the_quiet_that_planned_warm_ups_leave(
    at: str, measured: list[int], says: str
) -> None:
    table = {"timezone": "UTC", "cron": [{"at": at, "warmup": True}]}
    scene = await hot(keepalive={"every": "auto"}, **table)
    await until_recalled(scene)
    await scene.pass_time(150 * MINUTE)
    assert [round(probed.idle_s / MINUTE) for _, probed in scene.book.kept] == measured
    assert (scene.house.supervisor.models["m"].keeps or "").startswith(says)
    await scene.house.die()


@pytest.mark.parametrize(
    ("drain", "within", "names"),
    [("20s", 10.0, "engine.drain_timeout, of which"), ("60s", 20.0, "the model's warmup.timeout")],
)
async def test_what_bounds_a_request_is_named_where_it_gets_no_answer(
    drain: str, within: float, names: str
) -> None:
    settings = Settings.model_validate(
        {
            "engine": {"drain_timeout": drain},
            "models": {"m": {"weights": Path("/w"), "warmup": {"timeout": "20s"}}},
        }
    )
    asks = asks_of(settings, "m")
    assert {each.timeout for each in (asks.warmup, asks.keepalive, asks.probe)} == {within}
    with pytest.raises(EngineError, match=f"see the engine's log, or raise {names}"):
        await warm_up(Mute(), replace(asks.keepalive, timeout=0.0))  # type: ignore[arg-type]


class Mute:
    """A session that gets no answer."""

    @asynccontextmanager
    async def post(self, *_: object, **__: object) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield


async def until_recalled(scene: Scene) -> None:
    async with asyncio.timeout(10):
        while not (scene.house.supervisor.models["m"].keeps or "").startswith("auto: "):
            await scene.rest()


async def test_a_burst_is_worth_nothing_where_users_came_in_between() -> None:
    scene = await hot()
    spec = WarmupSpec("m", "x", 16, WarmupKind.CHAT, 1.0)
    burst = await measure(scene.m0, spec, scene.engine)
    assert len(burst.next) == NEXT
    scene.engine.answers.clear()
    measuring = asyncio.create_task(measure(scene.m0, spec, scene.engine))
    await next_step()
    (await scene.house.supervisor.acquire("m")).release()
    scene.engine.answers.set()
    with pytest.raises(DisturbedError):
        await measuring
    scene.house.supervisor.word.set_target("m", Rung.COLD, None)
    await scene.house.until(lambda: scene.m0.state.phase is Phase.DOWN)
    with pytest.raises(NotHotError):
        await measure(scene.m0, spec, scene.engine)
    await scene.house.die()


def test_a_hold_lifts_what_no_operator_holds_down() -> None:
    rests = Target(Rung.STAGED, 2, "it rests staged")
    held = held_hot(rests, None, "a probe measures it", 0.0)
    assert held == Target(Rung.HOT, 2, "a probe measures it", Rank.RESTS)
    assert held_hot(rests, None, None, 0.0) is rests
    hot_now = Target(Rung.HOT, 1, "1 request in flight", Rank.DEMAND)
    assert held_hot(hot_now, None, "a probe", 0.0) is hot_now
    cold = Override(Rung.COLD, None)
    assert held_hot(rests, cold, "a probe", 0.0) is rests
    assert held_hot(rests, Override(Rung.COLD, until=-1.0), "a probe", 0.0).rung is Rung.HOT
    assert held_hot(rests, Override(Rung.STAGED, None, floor=True), "a probe", 0.0).rung is Rung.HOT
