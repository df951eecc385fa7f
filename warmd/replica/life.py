"""One engine's life: started or taken over, ready, asleep and awake again, to its last process."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from dataclasses import replace

from warmd.engine.errors import EngineError, UnprovenError
from warmd.engine.failure import Cause
from warmd.engine.stages import StartTracker
from warmd.ladder import Phase, Rung
from warmd.launch import Launcher, LaunchError, RunningEngine
from warmd.policy import GiveUp, RetryIn
from warmd.replica.desk import Desk
from warmd.replica.measuring import measured
from warmd.replica.ports import EngineConnection, GivesBack, Measure
from warmd.replica.race import CalledOffError, EngineEndedError, HungError, Race
from warmd.replica.record import EngineRecord
from warmd.replica.slumber import Slumber
from warmd.replica.state import BAD_NAPS_MAX, TREE_END_S
from warmd.replica.takeover import check
from warmd.replica.vigil import Vigil, to_its_end
from warmd.spoken import count, duration

LISTENING_POLL_S = 1.0
"""The engine's own log says when it listens; asking it as well covers a line that never comes."""

SAID_LISTENING_POLL_S = 0.02
"""The first pause once the log has said it; each further one is twice as long."""

CALLED_OFF_GRACE_S = 2.0
"""How long an engine whose start is called off may take to end in good order."""

_NAPS = (Phase.FALLING_ASLEEP, Phase.WAKING)

log = logging.getLogger(__name__)


class Life:
    """The life of one engine. It alone changes the desk's state while it lasts."""

    def __init__(
        self, desk: Desk, launcher: Launcher, measure: Measure, gives_back: GivesBack
    ) -> None:
        self._desk = desk
        self._launcher = launcher
        self._measure = measure
        self._gives_back = gives_back
        self._said_listening = asyncio.Event()
        self.tracker: StartTracker | None = None
        self.connection: EngineConnection | None = None

    async def begin(self, tracker: StartTracker) -> None:
        """Start the engine and live with it to its end."""
        self.tracker = tracker
        await self._live(None)

    async def go_on(self, record: EngineRecord) -> None:
        """Take over the engine that an earlier daemon left, and live with it to its end."""
        await self._live(record)

    async def _live(self, record: EngineRecord | None) -> None:
        desk = self._desk
        engine: RunningEngine | None = None
        failure: Cause | None = None
        hurry = math.inf
        try:
            engine = await self._launch() if record is None else await self._find(record)
            if engine is None:
                desk.become(Phase.DOWN, "its engine had ended while no warmd ran", pid=None)
                return
            exit_watch = asyncio.create_task(engine.wait(), name=f"exit of {desk.name}")
            try:
                race = Race(exit_watch, desk.orders.ending, desk.fit.limits.last_words)
                await self._reign(engine, race, record)
            finally:
                exit_watch.cancel()
            if self._shall_leave:
                await self._part_from(engine)
                return
        except CalledOffError:
            adopting = desk.state.phase is Phase.ADOPTING
            if adopting and engine is not None and self._shall_leave:
                # It was not even asked what it is: what was noted of it holds for the next one.
                await self._part_from(engine)
                return
            # An importing vLLM heeds SIGTERM late, and nobody is served by it yet.
            hurry = CALLED_OFF_GRACE_S
        except HungError as hung:
            failure = Cause(str(hung))
            hurry = 0.0  # what stands still can't end in good order
        except EngineEndedError as ended:
            failure = None if desk.orders.stop else desk.fit.make.cause(ended.exit.sentence)
        except UnprovenError as error:
            # Nothing has failed: it is started once they are verified.
            desk.listener.replica_unproven(desk.model, desk.name, str(error))
            desk.orders.give_stop(str(error))
        except (LaunchError, EngineError) as error:
            failure = Cause(str(error))
        except Exception as bug:
            # A replica that stands still for ever would be worse than one that is tried again.
            log.exception("%s: a fault of warmd's own while its engine ran", desk.name)
            said = f"a fault of warmd's own ({bug!r}); please report it with the journal"
            failure = Cause(said)
        was_bad_nap = failure is not None and desk.state.phase in _NAPS
        reason = None if failure is None else failure.sentence
        await self._clear_away(engine, reason, min(hurry, desk.fit.limits.stop))
        self._conclude(failure, desk.state.bad_naps + was_bad_nap)

    @property
    def _shall_leave(self) -> bool:
        return self._desk.orders.leave is not None and self._desk.orders.stop is None

    async def _launch(self) -> RunningEngine:
        tracker = self.tracker
        assert tracker is not None  # noqa: S101  # begin() has set it
        spec = await self._desk.fit.make.prepare()
        engine = await self._launcher.start(spec, self._on_line)
        tracker.exec(engine.exec_at)
        self._know(engine)
        return engine

    async def _find(self, record: EngineRecord) -> RunningEngine | None:
        engine = await self._launcher.find(self._desk.name, record.identity, self._on_line)
        if engine is None:
            await self._launcher.end_leftovers(self._desk.name)
        else:
            self._desk.fit.make.resume(engine.pid)
            self._know(engine)
        return engine

    def _know(self, engine: RunningEngine) -> None:
        self._desk.identity = engine.identity
        self._desk.learn(pid=engine.pid, launched_at=self._desk.clock())

    def _on_line(self, at: float, text: str) -> None:
        if self.tracker is not None:
            was_listening = self.tracker.is_listening
            self.tracker.line(at, text)
            if self.tracker.is_listening and not was_listening:
                self._said_listening.set()
        self._desk.fit.make.log(text)

    async def _reign(self, engine: RunningEngine, race: Race, record: EngineRecord | None) -> None:
        """Bring the engine up, and keep it as it is ordered; return when it shall end."""
        desk = self._desk
        self.connection = connection = desk.fit.make.connect()
        if record is None:
            await self._come_up(connection, race)
            await self._size_up(engine, race)
        else:
            await check(desk, record, connection, race)
        vigil = Vigil(desk, engine, connection, race.exit_watch)
        slumber = Slumber(desk, connection, race, engine.pid) if desk.fit.sleep else None
        while True:
            await vigil.keep()
            if desk.orders.ending.is_set():
                break
            turn = desk.orders.take_turn()
            if turn is None or slumber is None:
                continue
            if turn.to is Rung.HOT:
                await slumber.wake(turn)
            elif await self._drained(race):
                if desk.orders.ending.is_set():
                    break
                await slumber.fall_asleep(turn, self._measure)
            elif self._shall_leave:
                return  # they end with the daemon, the engine goes on
            else:
                running = count(desk.places.busy, "request")
                desk.orders.give_stop(
                    f"{turn.reason}, but {running} still ran after "
                    f"{duration(desk.fit.limits.drain)}: it is stopped, for a sleep would abort "
                    "them unseen"
                )
                return  # they have had their time
        if desk.state.phase in (Phase.READY, Phase.DRAINING):
            await self._drained(race)

    async def _come_up(self, connection: EngineConnection, race: Race) -> None:
        """Wait for the engine and its first real answer."""
        desk, make = self._desk, self._desk.fit.make
        tracker = self.tracker
        assert tracker is not None  # noqa: S101  # begin() has set it
        try:
            async with asyncio.timeout(desk.fit.limits.start):
                await race.first(self._listen(connection))
                desk.become(Phase.WARMING, desk.state.reason)
                first_token_s = await race.first(connection.warm_up())
                canary = await race.first(connection.canary()) if desk.fit.sleep else None
        except TimeoutError:
            limit = duration(desk.fit.limits.start)
            doing = "nowhere known" if tracker.stage is None else f"at {tracker.stage.label!r}"
            raise EngineError(
                f"it was not ready within {limit} and stood {doing}; see its log, "
                f"or raise start_timeout: {make.cause('was still starting').sentence}"
            ) from None
        now = desk.clock()
        times = replace(tracker.ready(now), first_token_s=first_token_s)
        make.came_up()
        if desk.fit.sleep or desk.fit.outlives:
            desk.version = await race.first(connection.version())
        reason = desk.state.reason
        came: dict[str, object] = {"ready_at": now, "last_start": times, "canary": canary}
        desk.become(Phase.READY, reason, anew=False, trouble=None, **came)

    async def _size_up(self, engine: RunningEngine, race: Race) -> None:
        """Keep what the start took of each GPU, beside what the driver says that it holds."""
        told = self._desk.fit.make.measured
        if told is None:
            return
        holds = None
        with suppress(CalledOffError):  # it is drained like any engine that is ready
            holds = await measured(self._measure, engine.pid, race)
        self._desk.learn(parts=replace(told, held=None if holds is None else holds.card_bytes))

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

    async def _drained(self, race: Race) -> bool:
        """Let requests in flight end, as long as a drain may last; return whether they have."""
        desk = self._desk
        limit = desk.orders.leave if self._shall_leave else desk.fit.limits.drain
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await race.first(desk.places.idle.wait(), may_be_called_off=False)
        return desk.places.busy == 0

    async def _part_from(self, engine: RunningEngine) -> None:
        """Let go of an engine that outlives us; what was noted of it stands."""
        if self.connection is not None:
            await self.connection.close()
            self.connection = None
        await engine.leave()
        self._desk.fit.make.ended(failed=False)

    async def _clear_away(
        self, engine: RunningEngine | None, failure: str | None, grace: float
    ) -> None:
        desk = self._desk
        connection, self.connection = self.connection, None
        if engine is not None:
            reason = failure or desk.orders.stop or desk.state.reason
            desk.become(Phase.STOPPING, reason)
            await to_its_end(desk, engine.stop(grace), engine, grace + TREE_END_S)
            kept = await self._gives_back(desk.name)
            if kept is not None:
                desk.listener.replica_kept(desk.model, desk.name, kept)
        if connection is not None:
            await connection.close()
        desk.fit.make.ended(failed=failure is not None)

    def _conclude(self, cause: Cause | None, bad_naps: int) -> None:
        desk = self._desk
        ready_at = desk.state.ready_at
        gone: dict[str, object] = {
            "pid": None,
            "canary": None,
            "cycles": 0,
            "first_nap": None,
            "last_wake": None,
            "bad_naps": bad_naps,
        }
        if cause is None:
            failures = desk.state.failures if ready_at is None else 0
            reason = desk.orders.stop or desk.state.reason
            desk.become(Phase.DOWN, reason, failures=failures, **gone)
            return
        failure = cause.sentence
        if bad_naps > desk.state.bad_naps and bad_naps >= BAD_NAPS_MAX:
            failure += (
                "; it is not put to sleep any more until its settings change, or "
                f"`warmctl set {desk.model} auto`"
            )
        now = desk.clock()
        ready_for = None if ready_at is None else now - ready_at
        failures = desk.fit.back_off.failures_after(desk.state.failures, ready_for)
        # What has been ready with these settings may be so again, whatever it said in its end.
        for_good = cause.for_good and ready_at is None
        gone |= {"trouble": failure, "for_good": for_good, "failures": failures}
        match GiveUp(failures) if for_good else desk.fit.back_off.next_try(failures):
            case RetryIn(seconds):
                retry_at = now + seconds
                desk.become(Phase.BACKING_OFF, failure, retry_at=retry_at, **gone)
            case GiveUp():
                desk.become(Phase.FAILED, failure, retry_at=None, **gone)
