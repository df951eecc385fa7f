"""The watch over an engine that is up: it must live, move, and answer when in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from warmd.engine.errors import EngineError
from warmd.ladder import Phase
from warmd.launch import EngineExit, RunningEngine
from warmd.policy import Hung, Pulse, feel
from warmd.replica.desk import Desk
from warmd.replica.ports import EngineConnection
from warmd.replica.race import EngineEndedError, HungError
from warmd.replica.state import TREE_END_S

_DOUBT_S = 0.05
"""The pause before an engine that broke a connection off is asked whether it is well."""

_DOUBT_PAUSE_MAX_S = 1.0
_LAST_WORD = 4
"""The part of that time that an engine which stands still has to answer one question."""

_IDLE_LOOK_S = 5.0
"""How soon an engine that nobody asked for its queue is looked at again: its terms may be new."""

_LOOKS = 8
"""How often an engine's pulse is felt in the time after which it would count as hung."""


class Vigil:
    """Watches one engine that is ready or asleep."""

    def __init__(
        self,
        desk: Desk,
        engine: RunningEngine,
        connection: EngineConnection,
        exit_watch: asyncio.Task[EngineExit],
    ) -> None:
        self._desk = desk
        self._engine = engine
        self._connection = connection
        self._exit_watch = exit_watch

    async def keep(self) -> None:
        """Return when an order comes.

        Raises `HungError` where the engine stands still, `EngineEndedError` where it ended.
        """
        watches: list[asyncio.Task[Any]] = [
            asyncio.create_task(watch, name=f"{what} of {self._desk.name}")
            for what, watch in (
                ("order", self._desk.orders.any.wait()),
                ("pulse", self._feel_pulse()),
                ("doubts", self._settle_doubts()),
                ("queue", self._watch_queue()),
                ("main process", self._engine.main_ended()),
            )
        ]
        order, *_, main_ended = watches
        try:
            await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
            if main_ended.done():
                # Nobody is sent to what is left of it while that is being ended.
                self._desk.become(Phase.STOPPING, "its main process has ended")
                end = to_its_end(self._desk, self._exit_watch, self._engine, TREE_END_S)
                raise EngineEndedError(await end)
            if not order.done():
                for watch in watches:
                    if watch.done():
                        watch.result()  # raises
        finally:
            self._desk.queued = 0
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _settle_doubts(self) -> None:
        """Ask a doubted engine until it answers, then let requests to it again; never returns.

        Raises `HungError` where it isn't well for as long as a hang may last.
        """
        desk = self._desk
        while True:
            await desk.places.doubted.wait()
            since, pause = desk.clock(), _DOUBT_S  # the end of a process takes a moment to be told
            while desk.places.doubted.is_set():
                await desk.pause(pause)
                pause = min(2 * pause, _DOUBT_PAUSE_MAX_S)
                if await self._connection.listening():
                    desk.places.doubted.clear()
                elif desk.clock() - since >= desk.fit.limits.hang:
                    raise HungError("it broke a request off and has not been well since")
            desk.listener.replica_changed(desk.model, desk.name, desk.state, desk.state)

    async def _feel_pulse(self) -> None:
        """Look at the engine's counters again and again; never returns, raises `HungError`."""
        desk = self._desk
        pulse = Pulse(desk.clock())
        while True:
            hang = desk.fit.limits.hang
            await desk.pause(hang / _LOOKS)
            counters = await self._connection.counters(hang / 2)
            match feel(pulse, counters, desk.places.busy, desk.clock(), desk.fit.limits.hang):
                case Hung(reason):
                    # A client that leaves a whole answer unread holds a place, and nothing moves.
                    if counters is None or not await self._answers(hang / _LAST_WORD):
                        raise HungError(reason)
                    pulse = Pulse(desk.clock(), counters)
                case Pulse() as pulse:
                    pass

    async def _watch_queue(self) -> None:
        """Ask again and again how many requests wait inside, while there are any; never returns."""
        desk = self._desk
        while True:
            every = desk.fit.asks_queue
            await desk.pause(_IDLE_LOOK_S if every is None else every)
            if every is None or not desk.places.in_flight:
                desk.queued = 0
            elif (queued := await self._connection.queued(every)) is not None:
                # It counts one that comes straight from outside too; only ours are in flight.
                desk.queued = min(queued, desk.places.in_flight)

    async def _answers(self, within_s: float) -> bool:
        """Whether one real question is answered: the last word on an engine that stands still."""
        try:
            async with asyncio.timeout(within_s):
                await self._connection.warm_up()
        except (TimeoutError, EngineError):
            return False
        return True


async def to_its_end(
    desk: Desk, end: Awaitable[EngineExit], engine: RunningEngine, within: float
) -> EngineExit:
    """Await the engine's end, however long; where it takes longer than `within`, say so."""
    task = asyncio.ensure_future(end)
    await asyncio.wait([task], timeout=within)
    if not task.done():
        desk.listener.replica_stuck(desk.model, desk.name, engine.pid)
    return await task
