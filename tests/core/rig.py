"""Recording fakes for the core: a clock that is set by hand, engines that do as they are told."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar, cast

import aiohttp

from warmd.devices import CardUse, Condition, Footprint, Sweep
from warmd.engine.canary import CanaryAnswer
from warmd.engine.errors import EngineError, UnprovenError
from warmd.engine.failure import Cause
from warmd.ladder import (
    FileKind,
    MeasuredParts,
    Phase,
    Place,
    Rung,
    SleepFigures,
    StartTimes,
    WakeTimes,
)
from warmd.launch import EngineExit, LaunchError, LaunchSpec, LogLine
from warmd.planner import Card, RamLedger
from warmd.planner.card_facts import LOOK_LASTS_S
from warmd.policy import BackOff, Override, Wish
from warmd.policy.opening import Missed, Opening
from warmd.replica import Fit, Limits, Nap, Replica, SleepTerms
from warmd.staged import Holding, StagedFiles
from warmd.staging import Left, Pace, Request, StagingError, StagingProgress
from warmd.supervisor import (
    CardRules,
    Clock,
    EngineFailure,
    Examination,
    FileTerms,
    Held,
    Look,
    Mismatch,
    Operation,
    Quarantine,
    Rules,
    RungChange,
    Scan,
    SleepPolicy,
    Supervisor,
    Terms,
)

_T = TypeVar("_T")

UP = "INFO:     Application startup complete."


@dataclass
class FakeTime:
    """Stands still until a test moves it. The wall clock runs 1000 s ahead, and may jump."""

    now: float = 0.0
    wall_ahead: float = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Return once a test has moved the time on by so much."""
        end = self.now + seconds
        while self.now < end:
            await next_step()

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=self, wall=lambda: self.now + self.wall_ahead)


_BORN = itertools.count()


class FakeEngine:
    """A process tree that lives until it is stopped or a test ends it."""

    def __init__(self, spec: LaunchSpec, on_line: LogLine, now: float, pid: int) -> None:
        self.name = spec.name
        self.pid = pid
        self.exec_at = now
        self._on_line = on_line
        self.identity = f"engine {next(_BORN)}"
        self.was_left = False
        self.stopped_with: float | None = None
        self._exit: asyncio.Future[EngineExit] = asyncio.get_running_loop().create_future()

    def say(self, text: str) -> None:
        self._on_line(self.exec_at, text)

    @property
    def has_ended(self) -> bool:
        return self._exit.done()

    def end(self, ending: EngineExit) -> None:
        if not self._exit.done():
            self._exit.set_result(ending)

    async def main_ended(self) -> None:
        await asyncio.shield(self._exit)

    async def wait(self) -> EngineExit:
        return await asyncio.shield(self._exit)

    async def leave(self) -> None:
        self.was_left = True

    async def stop(self, grace_s: float) -> EngineExit:
        self.stopped_with = grace_s
        self.end(EngineExit(0, asked_for=True))
        return await self.wait()


class FakeLauncher:
    """Starts fake engines, unless told to refuse."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.started: list[FakeEngine] = []
        self.left: list[FakeEngine] = []  # by an earlier daemon
        self.refusal: str | None = None

    async def start(self, spec: LaunchSpec, on_line: LogLine) -> FakeEngine:
        if self.refusal is not None:
            raise LaunchError(self.refusal)
        pid = 100 + len(self.left) + len(self.started)
        engine = FakeEngine(spec, on_line, self.clock(), pid)
        self.started.append(engine)
        return engine

    def sweep(self, spare: Collection[str]) -> None:
        """End what an earlier daemon left, but for what shall be taken over."""
        for engine in self.left:
            if engine.name not in spare:
                engine.end(EngineExit(None, signal=9))

    async def end_leftovers(self, name: str) -> None:
        for engine in self.left:
            if engine.name == name:
                engine.end(EngineExit(None, signal=9))

    async def find(self, name: str, identity: str, on_line: LogLine) -> FakeEngine | None:
        return next((e for e in self.left if e.identity == identity and not e.has_ended), None)

    async def close(self) -> None:
        for engine in self.started:
            await engine.stop(0)


class FakeMake:
    """Both the make of an engine and the way to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: list[str] = []
        self.up = asyncio.Event()
        self.answers = asyncio.Event()
        self.wrong: str | None = None
        self.refuses_its_args = False
        self.closed = 0
        self.counted: tuple[float, ...] | None = (1.0,)
        self.waiting_inside: int | None = 0
        self.asleep = False
        self.sleeps = asyncio.Event()
        self.sleeps.set()
        self.wakes = asyncio.Event()
        self.wakes.set()
        self.trouble: str | None = None  # what the next sleep or wake fails with
        self.unproven: str | None = None  # why its weights may not be read, told once
        self.song = "right"
        self.speed = 100.0
        self.kept: Mapping[str, object] | None = None
        self.told_version = "0.33"
        self.print = "print"
        self.did: list[str] = []
        self.missed_probes = 0
        self.missed_names = 0
        self.measured: MeasuredParts | None = None
        self.compiled_in: tuple[Path, ...] = ()
        self.unproved = False  # awake, and nobody has asked whether it is what it was

    @property
    def session(self) -> aiohttp.ClientSession:
        """What a request gets: never of an engine that can't answer, or hasn't yet."""
        assert not self.asleep, "a request is sent to a sleeper"
        assert not self.unproved, "a request is sent to an engine whose wake is not proved"
        return cast("aiohttp.ClientSession", object())

    @property
    def socket(self) -> str:
        """The way of a request; the same holds for it."""
        assert self.session is not None
        return f"/run/{self.name}.sock"

    async def prepare(self) -> LaunchSpec:
        self._see_proof()
        self.up.clear()
        self.asleep = self.unproved = False
        self.kept = None
        return LaunchSpec(self.name, ("vllm",), {}, Path("/"))

    def resume(self, pid: int) -> None:
        self.lines.append(f"--- goes on with {pid} ---")

    def log(self, line: str) -> None:
        self.lines.append(line)

    def came_up(self) -> None:
        self.lines.clear()

    def ended(self, *, failed: bool) -> None:
        self.lines.append("--- ended ---")

    def cause(self, ending: str) -> Cause:
        said = f"{ending}; its last line was {self.lines[-1] if self.lines else 'none'!r}"
        return Cause(said, for_good=self.refuses_its_args)

    def connect(self) -> FakeMake:
        return self

    async def listening(self) -> bool:
        await self.up.wait()
        self.missed_probes -= 1
        return self.missed_probes < 0

    async def warm_up(self) -> float:
        assert not self.asleep, "a sleeper was asked"
        await self.answers.wait()
        if self.wrong is not None:
            raise EngineError(self.wrong)
        return 0.25

    async def canary(self) -> CanaryAnswer:
        assert not self.asleep, "a sleeper was asked"
        self.unproved = False
        return CanaryAnswer(self.song, 16, 16 / self.speed)

    async def sleep(self, level: int) -> None:
        self.did.append(f"sleep {level}")
        await self.sleeps.wait()
        self._fail()
        self.asleep = True

    async def wake(self, level: int) -> None:
        self.did.append(f"wake {level}")
        await self.wakes.wait()
        self._see_proof()
        self._fail()
        self.asleep, self.unproved = False, True

    def _see_proof(self) -> None:
        why, self.unproven = self.unproven, None
        if why is not None:
            raise UnprovenError(why)

    def _fail(self) -> None:
        if self.trouble is not None:
            raise EngineError(self.trouble)

    async def sleeping(self) -> bool:
        return self.asleep

    async def version(self) -> str | None:
        return self.told_version

    async def serves(self) -> tuple[str, ...]:
        self.missed_names -= 1
        if self.missed_names >= 0:
            return ()
        return (self.name.rpartition(".")[0],)

    def fingerprint(self) -> str:
        return self.print

    def note(self, record: Mapping[str, object]) -> None:
        self.kept = json.loads(json.dumps(record))

    def noted(self) -> Mapping[str, object] | None:
        return self.kept

    async def counters(self, within_s: float) -> tuple[float, ...] | None:
        return self.counted

    async def queued(self, within_s: float) -> int | None:
        return self.waiting_inside

    async def close(self) -> None:
        self.closed += 1


class FakeHolding:
    adopted = False

    def __init__(
        self,
        key: str,
        request: Request,
        on_progress: Callable[[StagingProgress], None],
        on_evicted: Callable[[str], None],
    ) -> None:
        self.key = key
        self.request = request
        self._on_progress = on_progress
        self.push = on_evicted
        self.loss: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.released = False
        self.verified = False

    def measure(self, resident: int, trouble: str | None = None) -> None:
        """Find so much of it in RAM."""
        total = self.request.wanted
        self._on_progress(StagingProgress(total, total, resident, trouble))

    async def lost(self) -> str:
        return await asyncio.shield(self.loss)

    async def release(self) -> None:
        self.released = True


class FakeKeeper:
    """Stages when `done` is set; refuses with `problem`."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.problem: str | None = None
        self.trouble: str | None = None
        self.asked: list[tuple[str, Request]] = []
        self.paces: list[tuple[str, Pace]] = []
        self.holdings: list[FakeHolding] = []
        self.left: dict[str, Left] = {}  # by an earlier daemon

    async def hold(
        self,
        key: str,
        request: Request,
        pace: Pace,
        on_progress: Callable[[StagingProgress], None],
        on_evicted: Callable[[str], None],
    ) -> Holding:
        self.asked.append((key, request))
        self.left.pop(key, None)
        self.pace(key, pace)
        await self.done.wait()
        if self.problem is not None:
            raise StagingError(self.problem)
        self.holdings.append(FakeHolding(key, request, on_progress, on_evicted))
        self.holdings[-1].measure(request.wanted if self.trouble is None else 0, self.trouble)
        return self.holdings[-1]

    def pace(self, key: str, pace: Pace) -> None:
        self.paces.append((key, pace))


@dataclass
class FakeGpu:
    """One GPU as the truth has it: what engines, strangers and the dead hold of it."""

    total: int = 100
    strangers: dict[int, int] = field(default_factory=dict)  # pid -> bytes
    dead: dict[int, tuple[str, int]] = field(default_factory=dict)  # pid -> (replica, bytes)
    sick: str | None = None
    fares: Condition | None = None  # None: nobody examines it
    key: str = "GPU-0"

    @property
    def card(self) -> Card:
        return Card(self.key, 0, "a GPU", self.total)

    def look(self, house: House) -> Look:
        """See what the watch would see."""
        if self.sick is not None:
            return Look(house.time.now, trouble=self.sick)
        ours, held = {}, dict(self.strangers)
        for engine in (*house.launcher.left, *house.launcher.started):
            if not engine.has_ended:
                ours[engine.pid], held[engine.pid] = engine.name, house.holds(engine)
        held |= {pid: kept for pid, (_, kept) in self.dead.items()}
        who = {pid: f"process {pid} (x)" for pid in self.strangers}
        who |= {pid: f"process {pid}, which was {name}" for pid, (name, _) in self.dead.items()}
        used = min(self.total, sum(held.values()))
        use = CardUse(self.key, 0, "a GPU", self.total, used, held, frozenset())
        fares = None if self.fares is None else Examination({0: self.fares})
        return Look(house.time.now, Sweep({self.key: use}, ()), ours, who, fares=fares)


@dataclass
class Recorder:
    """Every event as one line, and a bell that rings at each."""

    lines: list[str] = field(default_factory=list)
    brought_in: list[tuple[str, FileKind, float, int]] = field(default_factory=list)
    opened: list[tuple[str, float, Missed | None]] = field(default_factory=list)
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    def rung_changed(self, change: RungChange) -> None:
        self.lines.append(f"{change.replica} {change.old} -> {change.new}: {change.reason}")
        self.bell.set()

    def start_began(self, model: str, replica: str, reason: str) -> None:
        self.bell.set()

    def start_called_off(self, model: str, replica: str, reason: str, seconds: float) -> None:
        self.lines.append(f"{replica} called off after {seconds:g} s: {reason}")

    def start_ready(self, model: str, replica: str, met: Rung, times: StartTimes) -> None:
        self.lines.append(f"{replica} ready from {met} in {times.total:g} s")

    def engine_failed(self, failure: EngineFailure) -> None:
        self.lines.append(f"{failure.replica} failed: {failure.cause} ({failure.follows})")
        self.bell.set()

    def engine_stuck(self, model: str, replica: str, pid: int) -> None:
        self.lines.append(f"{replica} stuck: {pid}")
        self.bell.set()

    def slept(self, model: str, replica: str, level: int, nap: Nap, cycle: int) -> None:
        self.lines.append(f"{replica} slept {cycle}: {nap.seconds:g} s, {nap.host_ram} B")

    def woke(self, model: str, replica: str, times: WakeTimes, cycle: int) -> None:
        self.lines.append(f"{replica} woke in {times.total:g} s")

    def sleep_measured(self, model: str, key: str, figures: SleepFigures) -> None:
        self.lines.append(f"{model} sleeps in {figures.first_sleep_s:g} s")

    def operation_overdue(self, operation: Operation) -> None:
        what = f"{operation.replica} {operation.phase}"
        self.lines.append(f"{what} is {operation.overdue:g} s late")
        self.bell.set()

    def sizes_measured(self, model: str, key: str, parts: MeasuredParts) -> None:
        self.lines.append(f"{model} measured: weights {parts.weights}, held {parts.held}")

    def reservation_exceeded(self, mismatch: Mismatch) -> None:
        self.lines.append(mismatch.sentence)

    def card_in_doubt(self, card: str, trouble: str | None) -> None:
        self.lines.append(f"{card} in doubt: {trouble}")

    def card_quarantined(self, quarantine: Quarantine) -> None:
        self.lines.append(f"{quarantine.card} quarantined: {quarantine.why}")

    def memory_kept(self, model: str, replica: str, kept: str) -> None:
        self.lines.append(f"{replica} kept: {kept}")
        self.bell.set()

    def staged(self, model: str, kind: FileKind, seconds: float, read: int) -> None:
        self.brought_in.append((model, kind, seconds, read))

    def staging_failed(self, model: str, kind: FileKind, problem: str) -> None:
        what = "" if kind is FileKind.WEIGHTS else f"'s {kind}"
        self.lines.append(f"{model}{what} not staged: {problem}")
        self.bell.set()

    def staging_evicted(self, model: str, kind: FileKind, sentence: str) -> None:
        self.lines.append(f"{model} evicted: {sentence}")

    def replicas_wanted(self, model: str, was: int, wanted: int, why: str) -> None:
        self.lines.append(f"{model} wants {wanted} replicas, not {was}: {why}")

    def calendar_in_force(self, model: str, mark: str, since: float) -> None:
        """No core test asks for that; what is judged by it is asked for."""

    def window_opened(self, model: str, opening: Opening, missed: Missed | None) -> None:
        self.opened.append((model, opening.at, missed))
        if missed is not None:
            self.lines.append(f"{model} missed ({missed.hindrance}): {missed.reason}")

    def window_failing(self, model: str, opening: Opening, missed: Missed) -> None:
        self.lines.append(f"{model} fails for its {opening.name}: {missed.reason}")

    def window_ready(self, model: str, opening: Opening, late: float) -> None:
        self.lines.append(f"{model} ready {late:g} s late for its {opening.name}")

    def window_over(self, model: str, opening: Opening) -> None:
        self.lines.append(f"{model} never ready for its {opening.name}")

    def override_changed(self, model: str, override: Override | None, reason: str) -> None:
        self.lines.append(f"{model} set to {override.rung if override else 'auto'}: {reason}")


class House:
    """A supervisor over fakes. `until` lets its tasks run until a condition holds."""

    def __init__(
        self,
        *names: str,
        resting: Rung = Rung.COLD,
        replicas: int = 1,
        after: House | None = None,
        gpu: FakeGpu | None = None,
    ) -> None:
        """`after`: the house of a daemon that has died, on the same host."""
        self.time: FakeTime = after.time if after else FakeTime()
        self.launcher = FakeLauncher(self.time)
        self.recorder = Recorder()
        self.stager = FakeKeeper()
        self.sizes: dict[str, int] = {}  # of sets, by key
        self.budget = 10**9  # of staged files
        self.reserve = 0
        self.came: list[str] = []  # replicas whose engines got ready
        self.makes: dict[str, FakeMake] = after.makes if after else {}
        if after is not None:
            self.launcher.left = [*after.launcher.left, *after.launcher.started]
        self.sleeping = 10**9  # the budget for sleepers' RAM
        self.measures = asyncio.Event()
        self.measures.set()
        self.memory = Footprint(100, 50, 10**9)
        self.asleep_keeps = 0.2  # the share of its VRAM that a sleeper keeps
        self.back = asyncio.Event()  # an ended engine's VRAM is
        self.back.set()
        self.keeps: str | None = None  # what it doesn't give back
        self.gpu: FakeGpu | None = after.gpu if after else gpu
        self.supervisor = Supervisor(
            self.time.clock,
            self.recorder,
            self.ram,
            self,
        )
        self.supervisor.rules = Rules(pools={"p": 100})
        if self.gpu is not None:
            self.supervisor.cards.fit(CardRules((self.gpu.card,), headroom=0, tolerance=5))
        for name in names:
            self.supervisor.adopt(name, self.terms(name, resting, replicas))

    def ram(self, held: Held, pinned: int) -> RamLedger:
        ledger = RamLedger(self.budget, held.taken, 10**9, self.sleeping, pinned)
        return replace(ledger, reserve=self.reserve, gone=held.gone)

    def terms(
        self,
        name: str,
        resting: Rung = Rung.COLD,
        count: int = 1,
        *,
        spec: str = "",
        max_wait: float = 5.0,
        max_waiting: int = 1000,
        weights: str = "/w",
        sleep: SleepPolicy | None = None,
        pool: str | None = None,
        vram: int = 0,
        frees: bool = True,
        place: Place = Place.PAGE_CACHE,
    ) -> Terms:
        """What a config would say of a model; `spec` stands for its engine's settings."""
        wish = Wish(
            resting,
            count,
            idle_after=60.0,
            idle_then=Rung.ASLEEP if sleep else Rung.STAGED,
            idle_keep=600.0,
            cannot_sleep=None if sleep else "it is too lively",
        )
        fits = tuple(
            self.fit(f"{name}.{index}", spec, sleeps=sleep is not None, frees=frees)
            for index in range(count)
        )
        return Terms(
            (f"{name}-alias",),
            wish,
            max_wait,
            max_waiting,
            tuple(
                FileTerms(kind, "env", Path("/env"))
                if kind is FileKind.PROGRAM
                else FileTerms(kind, name, Path(weights), place)
                for kind in FileKind
            ),
            fits,
            sleep=sleep,
            pool=pool,
            vram=vram,
        )

    def fit(self, name: str, spec: str = "", *, sleeps: bool = False, frees: bool = True) -> Fit:
        self.makes.setdefault(name, FakeMake(name))
        return Fit(
            spec,
            self.makes[name],
            Limits(start=100.0, drain=1.0, stop=7.0, hang=80.0, last_words=0.0),
            BackOff(give_up_after=3, max_delay=300.0, stable_after=60.0),
            sleep=SleepTerms(frees=frees) if sleeps else None,
            outlives=True,
            cards=frozenset({self.gpu.key} if self.gpu else ()),
        )

    async def measure(self, pid: int) -> Footprint:
        await self.measures.wait()
        started = (*self.launcher.started, *self.launcher.left)
        sleeps = any(e.pid == pid and self.makes[e.name].asleep for e in started)
        if not sleeps or self.memory.device_bytes is None:
            return self.memory
        kept = int(self.memory.device_bytes * self.asleep_keeps)
        return replace(self.memory, device_bytes=kept)

    async def gives_back(self, replica: str) -> str | None:
        await self.back.wait()
        return self.keeps

    def holds(self, engine: FakeEngine) -> int:
        """What an engine that lives holds of the GPU."""
        vram = self.supervisor.models[engine.name.rpartition(".")[0]].terms.vram
        return int(50 * self.asleep_keeps) if self.makes[engine.name].asleep else vram

    def tick(self) -> None:
        """One tick, and the look that somebody asks for."""
        cards = self.supervisor.cards
        if self.gpu is not None and cards.wanted.is_set():
            cards.wanted.clear()
            self.supervisor.seen(self.gpu.look(self))
        was = {r.name: r.state.phase for r in self.replicas}
        self.supervisor.tick()
        if self.gpu is not None:
            for risen in (r for r in self.replicas if was.get(r.name) is not r.state.phase):
                if risen.state.phase in (Phase.STARTING, Phase.WAKING):
                    self._hold_the_ledger(risen)

    def _hold_the_ledger(self, risen: Replica) -> None:
        """Nothing rises where what is promised, and what others hold, leaves no room for it."""
        (card,) = self.supervisor.cards.facts().values()
        lasts = LOOK_LASTS_S if risen.state.phase is Phase.WAKING else math.inf
        assert card.is_known(self.time.now, lasts)
        assert card.quarantine is None
        promised = sum(each.held for each in card.foreign)
        for replica in (r for r in self.replicas if r.state.phase.is_up and r is not risen):
            vram = self.supervisor.models[replica.model].terms.vram
            keeps = int(50 * self.asleep_keeps)
            promised += keeps if replica.state.phase is Phase.ASLEEP else vram
        vram = self.supervisor.models[risen.model].terms.vram
        assert promised + vram <= card.total, f"{risen.name} is started over somebody"

    @property
    def replicas(self) -> list[Replica]:
        return [r for m in self.supervisor.models.values() for r in m.replicas]

    def replica(self, model: str, index: int, fit: Fit) -> Replica:
        return Replica(
            f"{model}.{index}",
            model,
            fit=fit,
            launcher=self.launcher,
            measure=self.measure,
            gives_back=self.gives_back,
            clock=self.time,
            listener=self.supervisor,
            sleep=self.time.sleep,
        )

    def staged(self, terms: FileTerms) -> StagedFiles:
        async def at_once(work: Callable[[], _T]) -> _T:
            return work()

        return StagedFiles(
            terms.key,
            terms.kind,
            self.scan(terms),
            self.stager,
            clock=self.time,
            listener=self.supervisor.shelf,
            in_thread=at_once,
        )

    def scan(self, terms: FileTerms) -> Scan:
        usual = 10 if terms.kind is FileKind.WEIGHTS else 0
        return lambda: Request((terms.source,), self.sizes.get(terms.key, usual), place=terms.place)

    def left(self) -> Mapping[str, Left]:
        return self.stager.left

    def came_up(self, replica: Replica) -> None:
        self.came.append(replica.name)

    async def die(self) -> None:
        """End as a killed daemon does: nobody says goodbye, and engines live on."""
        models = self.supervisor.models.values()
        lives = [r._living for m in models for r in m.replicas]
        lives += [task for m in models for s in m.sets.values() for task in (s._task, s._looking)]
        living = [task for task in lives if task is not None]
        for task in living:
            task.cancel()
        await asyncio.gather(*living, return_exceptions=True)

    def one(self, name: str) -> Replica:
        model = self.supervisor.models[name.rpartition(".")[0]]
        return next(r for r in model.replicas if r.name == name)

    def phase(self, name: str) -> Phase:
        return self.one(name).state.phase

    async def until(self, condition: Callable[[], bool], steps: int = 2000) -> None:
        """Tick and let tasks run until `condition` holds; no time passes."""
        for _ in range(steps):
            if condition():
                return
            self.tick()
            await next_step()
        raise AssertionError(f"it never came to that; events: {self.recorder.lines}")

    async def recorded(self, part: str) -> None:
        """Wait, in real time, for an event that holds `part`."""
        while not any(part in line for line in self.recorder.lines):
            self.recorder.bell.clear()
            await self.recorder.bell.wait()

    async def rest(self) -> None:
        """Let everything that can happen at this moment happen."""
        for _ in range(50):
            self.tick()
            await next_step()

    async def make_ready(self, name: str) -> None:
        await self.until(lambda: self.phase(name) is Phase.STARTING)
        self.makes[name].up.set()
        self.makes[name].answers.set()
        await self.until(lambda: self.phase(name) is Phase.READY)


async def next_step() -> None:
    """Give every task that can run one turn."""
    turn = asyncio.Event()
    asyncio.get_running_loop().call_soon(turn.set)
    await turn.wait()
