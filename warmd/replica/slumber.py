"""Falling asleep and waking, each step proved: what it took, and that the same answer comes back.

A sleep under running requests aborts them behind a 200 (vllm#45520), a wake can answer 200 and
serve garbage from then on (vllm#29341, #52479): so the engine is drained before, and asked after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from warmd.devices import Footprint
from warmd.engine.canary import CanaryAnswer, difference
from warmd.engine.errors import EngineError
from warmd.ladder import Phase, WakeTimes
from warmd.replica.desk import Desk, Turn
from warmd.replica.ports import EngineConnection, Measure, SleepTerms
from warmd.replica.race import Race
from warmd.replica.state import Nap
from warmd.spoken import duration

_SLOW_ASKED_AGAIN = 2
"""How often an engine that seems slow is asked again: a busy host makes one answer late."""


class Slumber:
    """One engine's sleep."""

    def __init__(self, desk: Desk, connection: EngineConnection, race: Race, pid: int) -> None:
        self._desk = desk
        self._connection = connection
        self._race = race
        self._pid = pid
        self._awake: Footprint | None = None  # before its first sleep
        self._asleep: Footprint | None = None  # in its first sleep

    @property
    def _terms(self) -> SleepTerms:
        """The terms of the moment: a reload may change them while the engine lives."""
        return self._desk.fit.sleep or SleepTerms()

    async def fall_asleep(self, turn: Turn, measure: Measure) -> None:
        """Put the drained engine to sleep and measure what that takes; raises `EngineError`."""
        desk = self._desk
        desk.become(Phase.FALLING_ASLEEP, turn.reason, rehearses=turn.rehearsal)
        before = await measure(self._pid)
        began = desk.clock()
        work = self._connection.sleep(self._terms.level)
        await self._within_limit(work, "fall asleep")
        seconds = desk.clock() - began
        nap = self._nap(seconds, before, await measure(self._pid), turn)
        desk.become(
            Phase.ASLEEP,
            turn.reason,
            cycles=desk.state.cycles + 1,
            first_nap=desk.state.first_nap or nap,
            last_nap=nap,
        )

    def _nap(
        self, seconds: float, before: Footprint | None, after: Footprint | None, turn: Turn
    ) -> Nap:
        if before is None or after is None:
            raise EngineError("it ended while it fell asleep")
        first = self._desk.state.first_nap
        if self._awake is None or self._asleep is None or first is None:
            self._awake, self._asleep = before, after
            # What a driver pins isn't always counted as the process's own, but it is missing.
            grown = max(0, after.host_bytes - before.host_bytes)
            missing = max(0, before.host_available - after.host_available)
            return Nap(seconds, max(grown, missing), after.device_bytes, turn.rehearsal)
        grown = after.host_bytes - self._asleep.host_bytes
        return Nap(seconds, max(0, first.host_ram + grown), after.device_bytes, turn.rehearsal)

    async def wake(self, turn: Turn) -> None:
        """Wake the engine and get its answers; raises `EngineError` where one is missing or wrong.

        Raises `CalledOffError` where its end is asked for meanwhile.
        """
        desk, ask = self._desk, self._race.first
        began = desk.clock()
        await self._within_limit(self._connection.wake(self._terms.level), "wake")
        awake = desk.clock()
        await ask(self._connection.warm_up())
        answered = desk.clock()
        if desk.state.canary is not None:
            await self._prove(desk.state.canary)
        times = WakeTimes(awake - began, answered - awake, desk.clock() - answered)
        desk.become(Phase.READY, turn.reason, last_wake=times, bad_naps=0)

    async def _prove(self, recorded: CanaryAnswer) -> None:
        # The wording of `difference` tells a wrong answer, which no second one can mend.
        best: CanaryAnswer | None = None
        for _ in range(1 + _SLOW_ASKED_AGAIN):
            now = await self._race.first(self._connection.canary())
            if best is None or now.speed > best.speed:
                best = now
            flaw = difference(recorded, now, self._terms.slowest)
            if flaw is None:
                return
            if now.digest != recorded.digest:
                raise EngineError(f"after its wake {flaw}; it is started anew and was not served")
        raise EngineError(
            f"after its wake {difference(recorded, best or recorded, self._terms.slowest)};"
            " it is started anew and was not served"
        )

    async def _within_limit(self, work: Awaitable[None], doing: str) -> None:
        limit = self._desk.fit.limits.sleep
        try:
            async with asyncio.timeout(limit):
                await self._race.first(work)
        except TimeoutError:
            raise EngineError(
                f"it did not {doing} within {duration(limit)}; see its log, or raise sleep.timeout"
            ) from None
