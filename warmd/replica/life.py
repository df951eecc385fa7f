"""One engine's life, from its start to its last process; the only writer of its state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import aiohttp

from warmd.engine.errors import EngineError
from warmd.engine.stages import StartTracker
from warmd.ladder import Phase, Stage
from warmd.launch import EngineExit, Launcher, LaunchError, RunningEngine
from warmd.policy import GiveUp, Hung, Pulse, RetryIn, feel
from warmd.replica.ports import EngineConnection, Fit, ReplicaListener
from warmd.replica.state import ReplicaState
from warmd.spoken import duration

_T = TypeVar("_T")

LISTENING_POLL_S = 1.0
"""The engine's own log says when it listens; asking it as well covers a line that never comes."""

SAID_LISTENING_POLL_S = 0.02
"""The first pause once the log has said it; each further one is twice as long."""

CALLED_OFF_GRACE_S = 2.0
"""How long an engine whose start is called off may take to end in good order."""

TREE_END_S = 10.0
"""How long after SIGKILL a process tree may still be there before that is worth a word."""

DOUBT_S = 0.05
"""The pause before an engine that broke a connection off is asked whether it is well."""

LOOKS = 8
"""How often an engine's pulse is felt in the time after which it would count as hung."""

log = logging.getLogger(__name__)


class ReplicaLease:
    """One request's place on a ready replica."""

    def __init__(self, replica: Replica, session: aiohttp.ClientSession) -> None:
        self._replica: Replica | None = replica
        self.replica = replica.name
        self.session = session

    def lost(self) -> None:
        """Say that the engine broke off in the middle of this request."""
        if self._replica is not None:
            self._replica.doubt()

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
        fit: Fit,
        launcher: Launcher,
        clock: Callable[[], float],
        listener: ReplicaListener,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.model = model
        self.state = ReplicaState(since=clock())
        self.in_flight = 0
        self._fit = self._next_fit = fit
        self._launcher = launcher
        self._clock = clock
        self._listener = listener
        self._sleep = sleep
        self._tracker: StartTracker | None = None
        self._connection: EngineConnection | None = None
        self._life: asyncio.Task[None] | None = None
        self._stop_reason: str | None = None
        self._stop_asked = asyncio.Event()
        self._said_listening = asyncio.Event()
        self._doubted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    # What the supervisor orders

    def begin_start(self, reason: str) -> None:
        """Start the engine. Only a replica that is down or backing off can be started."""
        if self.state.phase.is_up:
            raise RuntimeError(f"{self.name} is {self.state.phase} and can't be started")
        decided_at = self._clock()
        self._fit = self._next_fit
        self._stop_reason = None
        self._stop_asked.clear()
        self._said_listening.clear()
        self._doubted.clear()
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

    def refit(self, fit: Fit) -> None:
        """Run with `fit` from the next start on; where it is the same engine, from now on."""
        self._next_fit = fit
        if not self.is_stale:
            self._fit = replace(fit, make=self._fit.make)  # which knows the engine that runs

    @property
    def is_stale(self) -> bool:
        """Whether its engine was started with settings that have changed since."""
        return self.state.phase.is_up and self._fit.spec != self._next_fit.spec

    async def ended(self) -> None:
        """Return when no engine runs and none is being started."""
        if self._life is not None:
            await asyncio.wait([self._life])

    # What the gateway takes

    def lease(self) -> ReplicaLease | None:
        """Take a place on this replica; None where it isn't ready, or in doubt."""
        if (
            self.state.phase is not Phase.READY
            or self._connection is None
            or self._doubted.is_set()
        ):
            return None
        self.in_flight += 1
        self._idle.clear()
        return ReplicaLease(self, self._connection.session)

    def doubt(self) -> None:
        """Send nobody to the engine until it has answered again: it broke a connection off."""
        if self.state.phase is Phase.READY:
            self._doubted.set()

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
        grace = self._fit.limits.stop
        try:
            engine = await self._launch(tracker)
            exit_watch = asyncio.create_task(engine.wait(), name=f"exit of {self.name}")
            try:
                await self._come_up(tracker, exit_watch)
                await self._serve(engine, exit_watch)
                await self._drain(exit_watch)
            finally:
                exit_watch.cancel()
        except _CalledOffError:
            # An importing vLLM heeds SIGTERM late, and nobody is served by it yet.
            grace = min(grace, CALLED_OFF_GRACE_S)
        except _HungError as hung:
            failure = str(hung)
            grace = 0.0  # what stands still can't end in good order
        except _EngineEndedError as ended:
            failure = None if self._stop_reason else self._fit.make.cause(ended.exit.sentence)
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
            self._fit.make.log(text)
            if tracker.is_listening and not was_listening:
                self._said_listening.set()

        spec = self._fit.make.prepare()
        engine = await self._launcher.start(spec, on_line)
        tracker.exec(engine.exec_at)
        self.state = replace(self.state, pid=engine.pid)
        return engine

    async def _come_up(self, tracker: StartTracker, exit_watch: asyncio.Task[EngineExit]) -> None:
        """Wait for the engine and its first real answer."""
        self._connection = self._fit.make.connect()
        try:
            async with asyncio.timeout(self._fit.limits.start):
                await self._first(self._listen(self._connection), exit_watch, self._stop_asked)
                self._become(Phase.WARMING, self.state.reason)
                await self._first(self._connection.warm_up(), exit_watch, self._stop_asked)
        except TimeoutError:
            limit = duration(self._fit.limits.start)
            doing = "nowhere known" if tracker.stage is None else f"at {tracker.stage.label!r}"
            raise EngineError(
                f"it was not ready within {limit} and stood {doing}; see its log, "
                f"or raise start_timeout: {self._fit.make.cause('was still starting')}"
            ) from None
        now = self._clock()
        times = tracker.ready(now)
        self._fit.make.came_up()
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

    async def _serve(self, engine: RunningEngine, exit_watch: asyncio.Task[EngineExit]) -> None:
        """Return when a stop is asked for.

        Raises `_HungError` where the engine stands still, `_EngineEndedError` where it ended.
        """
        watches: list[asyncio.Task[Any]] = [
            asyncio.create_task(watch, name=f"{what} of {self.name}")
            for what, watch in (
                ("stop", self._stop_asked.wait()),
                ("pulse", self._feel_pulse()),
                ("doubts", self._settle_doubts()),
                ("main process", engine.main_ended()),
            )
        ]
        stop, *_, main_ended = watches
        try:
            await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
            if main_ended.done():
                # Nobody is sent to what is left of it while that is being ended.
                self._become(Phase.STOPPING, "its main process has ended")
                raise _EngineEndedError(await self._to_its_end(exit_watch, engine, TREE_END_S))
            if not stop.done():
                for watch in watches:
                    if watch.done():
                        watch.result()  # raises
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _settle_doubts(self) -> None:
        """Ask a doubted engine until it answers, then let requests to it again; never returns.

        Raises `_HungError` where it isn't well for as long as a hang may last.
        """
        while True:
            await self._doubted.wait()
            since, pause = self._clock(), DOUBT_S  # the end of a process takes a moment to be told
            while self._doubted.is_set():
                await self._sleep(pause)
                pause = min(2 * pause, LISTENING_POLL_S)
                if self._connection is not None and await self._connection.listening():
                    self._doubted.clear()
                elif self._clock() - since >= self._fit.limits.hang:
                    raise _HungError("it broke a request off and has not been well since")
            self._listener.replica_changed(self.model, self.name, self.state, self.state)

    async def _feel_pulse(self) -> None:
        """Look at the engine's counters again and again; never returns, raises `_HungError`."""
        pulse = Pulse(self._clock())
        while self._connection is not None:
            await self._sleep(self._fit.limits.hang / LOOKS)
            counters = await self._connection.counters(self._fit.limits.hang / 2)
            match feel(pulse, counters, self.in_flight, self._clock(), self._fit.limits.hang):
                case Hung(reason):
                    raise _HungError(reason)
                case Pulse() as pulse:
                    pass

    async def _drain(self, exit_watch: asyncio.Task[EngineExit]) -> None:
        self._become(Phase.DRAINING, self._stop_reason or self.state.reason)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._fit.limits.drain):
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
                await asyncio.wait([exit_watch], timeout=self._fit.limits.last_words)
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
            await self._to_its_end(engine.stop(grace), engine, grace + TREE_END_S)
        if connection is not None:
            await connection.close()
        self._fit.make.ended()

    async def _to_its_end(
        self, end: Awaitable[EngineExit], engine: RunningEngine, within: float
    ) -> EngineExit:
        """Await the engine's end, however long; where it takes longer than `within`, say so."""
        task = asyncio.ensure_future(end)
        await asyncio.wait([task], timeout=within)
        if not task.done():
            self._listener.replica_stuck(self.model, self.name, engine.pid)
        return await task

    def _conclude(self, failure: str | None) -> None:
        ready_at = self.state.ready_at
        if failure is None:
            failures = self.state.failures if ready_at is None else 0
            reason = self._stop_reason or self.state.reason
            self._become(Phase.DOWN, reason, pid=None, failures=failures)
            return
        now = self._clock()
        ready_for = None if ready_at is None else now - ready_at
        failures = self._fit.back_off.failures_after(self.state.failures, ready_for)
        match self._fit.back_off.next_try(failures):
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
        self._listener.replica_changed(self.model, self.name, old, self.state)


class _CalledOffError(Exception):
    """The start was called off."""


class _HungError(Exception):
    """The engine lives and stands still. The text is a sentence."""


class _EngineEndedError(Exception):
    """The engine ended though nobody asked it to: a failure, whatever its exit status."""

    def __init__(self, ending: EngineExit) -> None:
        super().__init__(ending.sentence)
        self.exit = ending
