"""One engine's life, from its start to its last process; the only writer of its state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import aiohttp

from warmd.engine.errors import EngineError
from warmd.engine.stages import StartTracker
from warmd.ladder import Phase, Stage, StartTimes
from warmd.launch import EngineExit, Launcher, LaunchError, LaunchSpec, RunningEngine
from warmd.policy import BackOff, Counters, GiveUp, Hung, Pulse, RetryIn, feel
from warmd.spoken import duration

_T = TypeVar("_T")

LISTENING_POLL_S = 1.0
"""The engine's own log says when it listens; asking it as well covers a line that never comes."""

SAID_LISTENING_POLL_S = 0.02
"""The first pause once the log has said it; each further one is twice as long."""

LOOKS = 8
"""How often an engine's pulse is felt in the time after which it would count as hung."""

log = logging.getLogger(__name__)


class EngineConnection(Protocol):
    """The way to one engine that listens."""

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session through which users' requests are relayed as well."""

    async def listening(self) -> bool:
        """Whether the engine answers at all."""

    async def warm_up(self) -> None:
        """Get one real answer; raises `EngineError` with a sentence."""

    async def counters(self, within_s: float) -> Counters | None:
        """Return what the engine has counted; None where it doesn't answer in time."""

    async def close(self) -> None:
        """Let go of every connection."""


class EngineMake(Protocol):
    """What a replica needs to know of its engine's make: its files, its log, its address."""

    def prepare(self) -> LaunchSpec:
        """Make the engine's folder fresh and say what to run; raises `EngineError`."""

    def log(self, line: str) -> None:
        """Keep a line of the engine's output."""

    def cause(self, ending: str) -> str:
        """Say in one sentence, from its log, why an engine that `ending` failed."""

    def connect(self) -> EngineConnection:
        """Return the way to the engine; nothing is sent yet."""


@dataclass(frozen=True)
class Limits:
    """How long each step of an engine's life may take, in seconds.

    `hang`: how long a ready engine may stand still; `last_words`: how long an engine that broke its
    connection is given to show that it has ended.
    """

    start: float
    drain: float
    stop: float
    hang: float
    last_words: float = 1.0


@dataclass(frozen=True)
class ReplicaState:
    """Where a replica stands. Times are monotonic seconds."""

    phase: Phase = Phase.DOWN
    since: float = 0.0
    reason: str = "it was not needed yet"
    pid: int | None = None
    failures: int = 0
    retry_at: float | None = None
    started_at: float | None = None  # when the start that led here was decided
    ready_at: float | None = None  # when that start became ready
    last_start: StartTimes | None = None


class ReplicaListener(Protocol):
    """Who hears of a replica's changes, at once and in order."""

    def replica_changed(self, replica: Replica, old: ReplicaState, new: ReplicaState) -> None:
        """Hear that `replica` went from `old` to `new`."""


class ReplicaLease:
    """One request's place on a ready replica."""

    def __init__(self, replica: Replica, session: aiohttp.ClientSession) -> None:
        self._replica: Replica | None = replica
        self.replica = replica.name
        self.session = session

    def release(self) -> None:
        """Give the place back; a second call does nothing."""
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.give_back()


class Replica:
    """The n-th engine of a model.

    The supervisor orders (`begin_start`, `begin_stop`); what comes of it is told to the listener.
    """

    def __init__(
        self,
        name: str,
        model: str,
        *,
        make: EngineMake,
        launcher: Launcher,
        limits: Limits,
        back_off: BackOff,
        clock: Callable[[], float],
        listener: ReplicaListener,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.model = model
        self.state = ReplicaState(since=clock())
        self.in_flight = 0
        self._make = make
        self._launcher = launcher
        self._limits = limits
        self._back_off = back_off
        self._clock = clock
        self._listener = listener
        self._sleep = sleep
        self._tracker: StartTracker | None = None
        self._connection: EngineConnection | None = None
        self._life: asyncio.Task[None] | None = None
        self._stop_reason: str | None = None
        self._stop_asked = asyncio.Event()
        self._said_listening = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    # What the supervisor orders

    def begin_start(self, reason: str) -> None:
        """Start the engine. Only a replica that is down or backing off can be started."""
        if self.state.phase.is_up:
            raise RuntimeError(f"{self.name} is {self.state.phase} and can't be started")
        decided_at = self._clock()
        self._stop_reason = None
        self._stop_asked.clear()
        self._said_listening.clear()
        self._tracker = StartTracker(decided_at)
        self._become(Phase.STARTING, reason, retry_at=None, started_at=decided_at, ready_at=None)
        self._life = asyncio.create_task(self._live(self._tracker), name=f"life of {self.name}")

    def begin_stop(self, reason: str) -> None:
        """Drain and stop the engine, or call off its start. Without an engine nothing happens."""
        if self.state.phase.is_up and self._stop_reason is None:
            self._stop_reason = reason
            self._stop_asked.set()

    def forgive(self, reason: str) -> None:
        """Forget earlier failures: an operator wants it tried again."""
        if self.state.phase in (Phase.FAILED, Phase.BACKING_OFF):
            self._become(Phase.DOWN, reason, failures=0, retry_at=None)

    async def ended(self) -> None:
        """Return when no engine runs and none is being started."""
        if self._life is not None:
            await asyncio.wait([self._life])

    # What the gateway takes

    def lease(self) -> ReplicaLease | None:
        """Take a place on this replica; None where it isn't ready."""
        if self.state.phase is not Phase.READY or self._connection is None:
            return None
        self.in_flight += 1
        self._idle.clear()
        return ReplicaLease(self, self._connection.session)

    def give_back(self) -> None:
        """Take a place back. Called by the lease, once."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle.set()

    # What it tells about itself

    @property
    def stage(self) -> Stage | None:
        """The stage of the start that is under way."""
        coming_up = self.state.phase.is_coming_up and self._tracker is not None
        return self._tracker.stage if coming_up and self._tracker else None

    def stage_seconds(self) -> Mapping[Stage, float]:
        """Seconds by stage of the start that is under way."""
        return self._tracker.so_far(self._clock()) if self.stage and self._tracker else {}

    # Its life

    async def _live(self, tracker: StartTracker) -> None:
        engine: RunningEngine | None = None
        failure: str | None = None
        grace = self._limits.stop
        try:
            engine = await self._launch(tracker)
            exit_watch = asyncio.create_task(engine.wait(), name=f"exit of {self.name}")
            try:
                await self._come_up(tracker, exit_watch)
                await self._first(self._serve(), exit_watch)
                await self._drain(exit_watch)
            finally:
                exit_watch.cancel()
        except _CalledOffError:
            pass
        except _HungError as hung:
            failure = str(hung)
            grace = 0.0  # what stands still can't end in good order
        except _EngineEndedError as ended:
            failure = None if self._stop_reason else self._make.cause(ended.exit.sentence)
        except (LaunchError, EngineError) as error:
            failure = str(error)
        except Exception as bug:
            # A replica that stands still for ever would be worse than one that is tried again.
            log.exception("%s: a fault of warmd's own while its engine ran", self.name)
            failure = f"a fault of warmd's own ({bug!r}); please report it with the journal"
        finally:
            await self._clear_away(engine, failure, grace)
        self._conclude(failure)

    async def _launch(self, tracker: StartTracker) -> RunningEngine:
        def on_line(at: float, text: str) -> None:
            was_listening = tracker.is_listening
            tracker.line(at, text)
            self._make.log(text)
            if tracker.is_listening and not was_listening:
                self._said_listening.set()

        spec = self._make.prepare()
        engine = await self._launcher.start(spec, on_line)
        tracker.exec(engine.exec_at)
        self.state = replace(self.state, pid=engine.pid)
        return engine

    async def _come_up(self, tracker: StartTracker, exit_watch: asyncio.Task[EngineExit]) -> None:
        """Wait for the engine and its first real answer."""
        self._connection = self._make.connect()
        try:
            async with asyncio.timeout(self._limits.start):
                await self._first(self._listen(self._connection), exit_watch, self._stop_asked)
                self._become(Phase.WARMING, self.state.reason)
                await self._first(self._connection.warm_up(), exit_watch, self._stop_asked)
        except TimeoutError:
            limit = duration(self._limits.start)
            doing = "nowhere known" if tracker.stage is None else f"at {tracker.stage.label!r}"
            raise EngineError(
                f"it was not ready within {limit} and stood {doing}; see its log, "
                f"or raise start_timeout: {self._make.cause('was still starting')}"
            ) from None
        now = self._clock()
        times = tracker.ready(now)
        self._become(Phase.READY, self.state.reason, ready_at=now, last_start=times)

    async def _listen(self, connection: EngineConnection) -> None:
        pause = LISTENING_POLL_S
        while not await connection.listening():
            try:
                async with asyncio.timeout(pause):
                    await self._said_listening.wait()
                # vLLM's log speaks a moment before its socket answers.
                self._said_listening.clear()
                pause = SAID_LISTENING_POLL_S
            except TimeoutError:
                pause = min(2 * pause, LISTENING_POLL_S)

    async def _serve(self) -> None:
        """Return when a stop is asked for; raises `_HungError` where the engine stands still."""
        stop = asyncio.create_task(self._stop_asked.wait())
        pulse = asyncio.create_task(self._feel_pulse(), name=f"pulse of {self.name}")
        both: set[asyncio.Future[Any]] = {stop, pulse}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                pulse.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _feel_pulse(self) -> None:
        """Look at the engine's counters again and again; never returns, raises `_HungError`."""
        pulse = Pulse(self._clock())
        while self._connection is not None:
            await self._sleep(self._limits.hang / LOOKS)
            counters = await self._connection.counters(self._limits.hang / 2)
            match feel(pulse, counters, self.in_flight, self._clock(), self._limits.hang):
                case Hung(reason):
                    raise _HungError(reason)
                case Pulse() as pulse:
                    pass

    async def _drain(self, exit_watch: asyncio.Task[EngineExit]) -> None:
        self._become(Phase.DRAINING, self._stop_reason or self.state.reason)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.drain):
                await self._first(self._idle.wait(), exit_watch)

    async def _first(
        self,
        work: Awaitable[_T],
        exit_watch: asyncio.Task[EngineExit],
        call_off: asyncio.Event | None = None,
    ) -> _T:
        """Await `work`, unless the engine ends or the start is called off before."""
        task = asyncio.ensure_future(work)
        rivals: set[asyncio.Future[object]] = {task, exit_watch}  # type: ignore[arg-type]  # Future is invariant, wait() only looks
        called_off = asyncio.create_task(call_off.wait()) if call_off is not None else None
        if called_off is not None:
            rivals.add(called_off)  # type: ignore[arg-type]  # as above
        try:
            await asyncio.wait(rivals, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not task.cancelled() and task.exception() is not None:
                # A dying engine breaks its connection first; why it died says more.
                await asyncio.wait([exit_watch], timeout=self._limits.last_words)
            if exit_watch.done():
                raise _EngineEndedError(exit_watch.result())
            if called_off is not None and called_off.done():
                raise _CalledOffError
            return await task
        finally:
            for loser in (task, called_off):
                if loser is not None and not loser.done():
                    loser.cancel()
                    with suppress(asyncio.CancelledError):
                        await loser

    async def _clear_away(
        self, engine: RunningEngine | None, failure: str | None, grace: float
    ) -> None:
        connection, self._connection = self._connection, None
        if engine is not None:
            reason = failure or self._stop_reason or self.state.reason
            self._become(Phase.STOPPING, reason)
            await engine.stop(grace)
        if connection is not None:
            await connection.close()

    def _conclude(self, failure: str | None) -> None:
        ready_at = self.state.ready_at
        if failure is None:
            failures = self.state.failures if ready_at is None else 0
            reason = self._stop_reason or self.state.reason
            self._become(Phase.DOWN, reason, pid=None, failures=failures)
            return
        now = self._clock()
        ready_for = None if ready_at is None else now - ready_at
        failures = self._back_off.failures_after(self.state.failures, ready_for)
        match self._back_off.next_try(failures):
            case RetryIn(seconds):
                self._become(
                    Phase.BACKING_OFF, failure, pid=None, failures=failures, retry_at=now + seconds
                )
            case GiveUp():
                self._become(Phase.FAILED, failure, pid=None, failures=failures, retry_at=None)

    def _become(self, phase: Phase, reason: str, **changes: object) -> None:
        old = self.state
        now = self._clock()
        self.state = replace(old, phase=phase, reason=reason, since=now, **changes)  # type: ignore[arg-type]  # the fields are ReplicaState's own
        self._listener.replica_changed(self, old, self.state)


class _CalledOffError(Exception):
    """The start was called off."""


class _HungError(Exception):
    """The engine lives and stands still. The text is a sentence."""


class _EngineEndedError(Exception):
    """The engine ended though nobody asked it to: a failure, whatever its exit status."""

    def __init__(self, ending: EngineExit) -> None:
        super().__init__(ending.sentence)
        self.exit = ending
