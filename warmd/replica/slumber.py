"""Falling asleep and waking, each step proved: what it took, and that the same answer comes back.

A sleep under running requests aborts them behind a 200 (vllm#45520), a wake can answer 200 and
serve garbage from then on (vllm#29341, #52479): so the engine is drained before, and asked after.
"""

from __future__ import annotations

import asyncio

from warmd.devices import Footprint
from warmd.engine.canary import CanaryAnswer, difference
from warmd.engine.errors import EngineError
from warmd.ladder import Phase, WakeTimes
from warmd.replica.desk import Desk, Turn
from warmd.replica.measuring import measured
from warmd.replica.ports import EngineConnection, Measure, SleepTerms
from warmd.replica.race import HungError, Race
from warmd.replica.state import Nap
from warmd.spoken import duration, size

_FREED_LEAST = 0.5
"""A sleep that gives back less than this share of the VRAM has failed, whatever it answered."""

_WAKE_LEAST_S = 15.0
_MANY_TIMES = 10
"""A wake that takes so many times as long as the last one has hung: users wait for it."""

_SLOW_ASKED_AGAIN = 2
"""How often an engine that seems slow is asked again: a busy host makes one answer late."""


class Slumber:
    """One engine's sleep."""

    def __init__(self, desk: Desk, connection: EngineConnection, race: Race, pid: int) -> None:
        self._desk = desk
        self._connection = connection
        self._race = race
        self._pid = pid

    @property
    def _terms(self) -> SleepTerms:
        """The terms of the moment: a reload may change them while the engine lives."""
        return self._desk.fit.sleep or SleepTerms()

    async def fall_asleep(self, turn: Turn, measure: Measure) -> None:
        """Put the drained engine to sleep and measure what that takes; raises `EngineError`."""
        desk = self._desk
        desk.become(Phase.FALLING_ASLEEP, turn.reason, rehearses=turn.rehearsal)
        before = await measured(measure, self._pid, self._race)
        began = desk.clock()
        try:
            async with asyncio.timeout(desk.fit.limits.sleep):
                await self._race.first(self._connection.sleep(self._terms.level))
        except TimeoutError:
            limit = desk.fit.limits.sleep
            raise HungError(self._too_late("fall asleep", limit)) from None
        seconds = desk.clock() - began
        after = await measured(measure, self._pid, self._race)
        self._see_freed(before, after)
        nap = self._nap(seconds, before, after, turn)
        desk.become(
            Phase.ASLEEP,
            turn.reason,
            cycles=desk.state.cycles + 1,
            first_nap=desk.state.first_nap or nap,
            last_nap=nap,
        )

    def _see_freed(self, before: Footprint | None, after: Footprint | None) -> None:
        """Raise `EngineError` where a sleep gave back less than half of the VRAM."""
        held = None if before is None else before.device_bytes
        kept = None if after is None else after.device_bytes
        if not self._terms.frees or not held or kept is None:
            return  # a drill, or nobody can tell
        if held - kept < held * _FREED_LEAST:
            raise EngineError(
                f"its sleep gave back {size(max(0, held - kept))} of the {size(held)} of VRAM that "
                "it held, so it is stopped; if that stays so, set idle.then to staged for it"
            )

    def _nap(
        self, seconds: float, before: Footprint | None, after: Footprint | None, turn: Turn
    ) -> Nap:
        if after is None:
            return Nap(seconds, None, None, None, None, turn.rehearsal)
        first = self._desk.state.first_nap
        host_ram: int | None = None
        if first is None and before is not None:
            # What a driver pins isn't always counted as the process's own, but it is missing.
            grown = after.host_bytes - before.host_bytes
            missing = before.host_available - after.host_available
            host_ram = max(0, grown, missing)
        elif first is not None and first.host_ram is not None and first.host_bytes is not None:
            # It is pinned while awake as well: only against its first sleep can growth be seen.
            host_ram = max(0, first.host_ram + after.host_bytes - first.host_bytes)
        return Nap(
            seconds,
            host_ram,
            after.host_bytes,
            after.device_bytes,
            after.card_bytes,
            turn.rehearsal,
        )

    async def wake(self, turn: Turn) -> None:
        """Wake the engine and get its answers; raises `EngineError` where one is wrong.

        Raises `HungError` where that takes too long, `CalledOffError` where its end is asked for.
        """
        desk, ask = self._desk, self._race.first
        began = desk.clock()
        try:
            async with asyncio.timeout(self._wake_limit):
                await ask(self._connection.wake(self._terms.level))
                awake = desk.clock()
                first_token_s = await ask(self._connection.warm_up())
                answered = desk.clock()
                if desk.state.canary is not None:
                    await self._prove(desk.state.canary)
        except TimeoutError:
            raise HungError(self._too_late("wake and answer", self._wake_limit)) from None
        proved = desk.clock() - answered
        times = WakeTimes(awake - began, answered - awake, proved, first_token_s)
        desk.become(Phase.READY, turn.reason, last_wake=times, bad_naps=0)

    @property
    def _wake_limit(self) -> float:
        """How long a wake may take, in seconds: many times what the last one took, if it did.

        From level 2 the weights are read again, once from RAM and once from a slow disk.
        """
        last, most = self._desk.state.last_wake, self._desk.fit.limits.sleep
        if last is None or self._terms.level != 1:
            return most
        return min(most, max(_WAKE_LEAST_S, _MANY_TIMES * last.total))

    @staticmethod
    def _too_late(what: str, limit: float) -> str:
        return f"it did not {what} within {duration(limit)}; see its log, or raise sleep.timeout"

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
