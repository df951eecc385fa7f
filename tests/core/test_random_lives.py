"""Random lives of a house: whatever happens in whatever order, no request is lost or misled."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace

from hypothesis import example, given, settings
from hypothesis import strategies as st
from rig import FakeGpu, FakeMake, House

from warmd.devices import Condition, Recovery
from warmd.ladder import NotReadyError, Phase, Rung
from warmd.launch import EngineExit
from warmd.policy import Hygiene
from warmd.replica import ReplicaLease
from warmd.supervisor import SleepPolicy, Terms

MODELS = ("a", "b")
MODEL = st.sampled_from(MODELS)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), MODEL),
        st.tuples(st.just("leave"), MODEL),
        st.tuples(st.just("finish"), MODEL),
        st.tuples(st.just("up"), MODEL),
        st.tuples(st.just("answer"), MODEL),
        st.tuples(st.just("wrong"), MODEL),
        st.tuples(st.just("crash"), MODEL),
        st.tuples(st.just("refuse"), MODEL),
        st.tuples(st.just("set"), MODEL, st.sampled_from([None, *Rung])),
        st.tuples(st.just("stage"), MODEL),
        st.tuples(st.just("unstage"), MODEL),
        st.tuples(st.just("pass"), st.sampled_from([0.5, 3.0, 61.0, 400.0])),
        st.tuples(st.just("settle"), MODEL),
        st.tuples(st.just("serve"), MODEL),
        st.tuples(st.just("rest"), MODEL),
        st.tuples(st.just("drowsy"), MODEL),
        st.tuples(st.just("sluggish"), MODEL),
        st.tuples(st.just("bad sleep"), MODEL),
        st.tuples(st.just("corrupt"), MODEL),
        st.tuples(st.just("die"), MODEL),
        st.tuples(st.just("stranger"), st.sampled_from([0.0, 30.0, 70.0])),
        st.tuples(st.just("sick"), MODEL),
        st.tuples(st.just("ghost"), MODEL),
        st.tuples(st.just("ails"), MODEL),
        st.tuples(st.just("late"), MODEL),
        st.tuples(st.just("clock"), st.sampled_from([-7200.0, 7200.0])),
        st.tuples(st.just("renew"), MODEL, st.sampled_from(["", "other"])),
    ),
    max_size=60,
)


SLEEP = SleepPolicy(1, Hygiene(cycles=3, growth=100), rehearse=True, key="k")


AILS = Condition(0, recovery=Recovery.GPU_RESET)
VRAM = {"both fit": 40, "one fits": 60, "both fit, watched": 40, "one fits, watched": 60}


def terms(house: House, model: str, spec: str, room: str) -> Terms:
    """Both share a pool of 100, and both may sleep."""
    return house.terms(
        model, Rung.STAGED, spec=spec, max_wait=3600.0, sleep=SLEEP, pool="p", vram=VRAM[room]
    )


def flip(event: asyncio.Event) -> None:
    if event.is_set():
        event.clear()
    else:
        event.set()


@dataclass
class Life:
    """A house, its clients, and what has been done to it."""

    house: House
    room: str
    asked: dict[str, list[asyncio.Task[ReplicaLease]]] = field(
        default_factory=lambda: {m: [] for m in MODELS}
    )
    served: dict[str, list[ReplicaLease]] = field(default_factory=lambda: {m: [] for m in MODELS})
    fell: set[str] = field(default_factory=set)  # replicas whose engines have crashed
    held: set[str] = field(default_factory=set)  # and those that held the device before this step

    async def do(self, step: tuple[object, ...]) -> None:
        match step:
            case ("ask", str(model)):
                acquire = self.house.supervisor.acquire(model)
                self.asked[model].append(asyncio.create_task(acquire))
            case ("leave", str(model)) if self.asked[model]:
                await self.leave(self.asked[model].pop())
            case ("finish", str(model)) if self.served[model]:
                self.served[model].pop().release()
            case ("crash", str(model)):
                self.fell.add(f"{model}.0")
                for engine in self.house.launcher.started:
                    if engine.name == f"{model}.0":
                        engine.end(EngineExit(0))
            case ("refuse", _):
                refusal = self.house.launcher.refusal
                self.house.launcher.refusal = None if refusal else "no such file"
            case ("set", str(model), (Rung() | None) as rung):
                self.house.supervisor.word.set_target(model, rung, 30.0 if rung else None)
            case ("stage", _):
                self.house.stager.done.set()
            case ("unstage", _):
                self.unstage()
            case ("pass", float(seconds)):
                self.house.time.now += seconds
            case ("renew", str(model), str(spec)):
                self.house.supervisor.adopt(model, terms(self.house, model, spec, self.room))
            case ("serve", str(model)):  # what many single steps seldom come to
                await self.do(("ask", model))
                await self.house.rest()
                for what in ("up", "answer"):
                    self.tamper(self.house.makes[f"{model}.0"], what)
                await self.house.rest()
            case ("rest", str(model)):
                while self.served[model]:
                    self.served[model].pop().release()
                await self.do(("pass", 61.0))
                await self.house.rest()
            case ("die", _):
                await self.replace_the_daemon()
            case ("clock", float(seconds)):
                self.house.time.wall_ahead += seconds
            case ("stranger" | "late" | "sick" | "ghost" | "ails" as what, value):
                self.haunt(what, value)
            case ("settle", _):
                await self.house.rest()
            case (str(what), str(model)):
                self.tamper(self.house.makes[f"{model}.0"], what)
            case _:
                pass
        self.house.tick()

    @staticmethod
    async def leave(task: asyncio.Task[ReplicaLease]) -> None:
        """Let a client leave that waits."""
        task.cancel()
        with suppress(asyncio.CancelledError, NotReadyError):
            (await task).release()

    def unstage(self) -> None:
        """Let all that is staged be lost."""
        for holding in self.house.stager.holdings:
            if not holding.loss.done():
                holding.loss.set_result("memory ran short")

    def haunt(self, what: str, value: object) -> None:
        """Change the GPU's ways, where there is one."""
        gpu = self.house.gpu
        if what == "late":
            flip(self.house.back)
        elif gpu is not None and what == "sick":
            gpu.sick = None if gpu.sick else "the driver is gone"
        elif gpu is not None and what == "ails":
            gpu.fares = Condition(0) if gpu.fares == AILS else AILS
            self.house.supervisor.cards.wanted.set()  # as each thirty seconds
        elif gpu is not None and isinstance(value, float):
            gpu.strangers = {4711: int(value)} if value else {}
        elif gpu is not None:
            gpu.dead = {} if gpu.dead else {9: ("a.0", 40)}

    @staticmethod
    def tamper(make: FakeMake, what: str) -> None:
        """Change an engine's ways."""
        match what:
            case "up":
                make.up.set()
            case "answer":
                make.answers.set()
            case "wrong":
                make.wrong = None if make.wrong else "the warm-up got 500"
            case "drowsy":
                flip(make.sleeps)
            case "sluggish":
                flip(make.wakes)
            case "bad sleep":
                make.trouble = None if make.trouble else "it answered 500"
            case "corrupt":
                make.song = "wrong" if make.song == "right" else "right"
            case _:
                pass  # nobody is there to leave, or to finish

    async def replace_the_daemon(self) -> None:
        """Kill the daemon; another one finds what it left. Its clients are cut off."""
        old = self.house
        for task in [t for tasks in self.asked.values() for t in tasks]:
            task.cancel()
        await old.die()
        self.house = House(after=old)
        for model in MODELS:
            self.asked[model].clear()
            self.served[model].clear()
            self.house.supervisor.adopt(model, terms(self.house, model, "", self.room))
        found, _ = self.house.supervisor.succession.left_behind()
        self.house.launcher.sweep(spare=found)
        for name, record in found.items():
            self.house.supervisor.succession.take_over(name, record)

    def collect(self) -> None:
        """Take what has been answered; hold the promises that hold at every moment."""
        for model in MODELS:
            for task in [t for t in self.asked[model] if t.done()]:
                self.asked[model].remove(task)
                if task.exception() is None:
                    self.served[model].append(task.result())
                else:
                    assert isinstance(task.exception(), NotReadyError)
        replicas = [r for m in self.house.supervisor.models.values() for r in m.replicas]
        self.fell -= {r.name for r in replicas if r.state.phase is Phase.STARTING}
        holding = {r.name for r in replicas if r.state.phase.holds_the_device}
        assert len(holding - self.fell) <= 1
        began, fallen = holding - self.held - self.fell, holding & self.held & self.fell
        assert not (began and fallen), "a crash asks nobody, but then the device is taken"
        self.held = holding
        for model in MODELS:
            managed = self.house.supervisor.models[model]
            assert managed.in_flight >= len(self.served[model]) >= 0
            now = self.house.time.now
            assert managed.facts(now) == replace(managed).facts(now), "what was kept is outdated"
            if managed.rung is Rung.HOT:
                assert any(r.state.ready_at is not None for r in managed.replicas)
        for lease in [each for leases in self.served.values() for each in leases]:
            state, make = self.house.one(lease.replica).state, self.house.makes[lease.replica]
            assert state.phase is not Phase.ASLEEP, "a request in flight on a sleeper"
            assert not make.asleep, "a request in flight on a sleeper"
            assert not make.unproved, "a request in flight on an engine whose wake is not proved"

    async def end_well(self) -> None:
        """Let everything go right from now on: then nobody may be left waiting."""
        house = self.house
        house.launcher.refusal = None
        house.stager.done.set()
        house.back.set()
        if house.gpu is not None:
            house.gpu.strangers, house.gpu.dead, house.gpu.sick = {}, {}, None
            house.gpu.fares = Condition(0)
        for model in MODELS:
            house.supervisor.word.set_target(model, None, None)
            make = house.makes[f"{model}.0"]
            make.wrong = make.trouble = None
            make.song = "right"
            make.sleeps.set()
            make.wakes.set()
            for lease in self.served[model]:
                lease.release()
            self.served[model].clear()
            self.asked[model].append(asyncio.create_task(house.supervisor.acquire(model)))
        for _ in range(40):
            if not any(self.asked.values()):
                break
            for model in MODELS:
                house.makes[f"{model}.0"].up.set()
                house.makes[f"{model}.0"].answers.set()
            await house.rest()
            self.collect()
            for model in MODELS:
                for lease in self.served[model]:
                    lease.release()
                self.served[model].clear()
            house.time.now += 30.0
            house.supervisor.cards.wanted.set()  # as each five seconds
        states = {r.name: r.state for m in house.supervisor.models.values() for r in m.replicas}
        assert not any(self.asked.values()), f"somebody waits for ever: {states}"
        for managed in house.supervisor.models.values():
            assert managed.waiting == {}
            assert managed.in_flight == 0, "every place was given back"


async def live(steps: list[tuple[object, ...]], room: str) -> None:
    house = House(gpu=FakeGpu() if "watched" in room else None)
    for model in MODELS:
        house.supervisor.adopt(model, terms(house, model, "", room))
    life = Life(house, room)
    for step in steps:
        await life.do(step)
        life.collect()
    await life.end_well()
    house = life.house
    await asyncio.wait_for(house.supervisor.close("the end"), 10)
    phases = {r.state.phase for m in house.supervisor.models.values() for r in m.replicas}
    assert all(engine.has_ended for engine in house.launcher.started), "an engine was left behind"
    assert phases <= {Phase.DOWN, Phase.BACKING_OFF, Phase.FAILED}


@example(
    steps=[("serve", "b"), ("late", "a"), ("ask", "a"), ("crash", "b"), ("settle", "a")],
    room="both fit",
)
@settings(max_examples=250, deadline=None)
@example(steps=[("ask", "a"), ("serve", "b"), ("rest", "a")], room="one fits")
@example(steps=[("stranger", 70.0)], room="one fits, watched")
@example(
    steps=[("ask", "a"), ("settle", "a"), ("crash", "a"), ("late", "a"), ("rest", "a")],
    room="one fits",
)
@given(STEPS, st.sampled_from(sorted(VRAM)))
def test_no_request_is_lost_and_no_replica_is_wedged(
    steps: list[tuple[object, ...]], room: str
) -> None:
    asyncio.run(live(steps, room))
