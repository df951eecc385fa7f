"""One engine that runs as a unit of systemd."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from warmd.config.run_files import engine_unit
from warmd.launch.launcher import EngineExit, LaunchError, LogLine
from warmd.launch.systemd.ending import end_unit
from warmd.launch.systemd.journal import Journal
from warmd.launch.systemd.unit_state import READ, UnitState
from warmd.launch.systemd.units import Properties, Units

_LOOK_S = 15.0
"""How often systemd is asked: a signal of D-Bus may be lost with its connection."""

_SETTLES_S = 1.0
"""How long after a unit's end its exit status may come."""

_PAUSE_S = 0.02
_AGAIN_S = 5.0

Report = Callable[[str], None]


class SystemdEngine:
    """An engine that was asked for, or one that an earlier daemon left and that was found."""

    def __init__(
        self,
        name: str,
        units: Units,
        journal: Journal,
        on_line: LogLine,
        *,
        forget: Callable[[SystemdEngine], None],
        report: Report,
    ) -> None:
        """`forget` is called before anybody is told that it is gone, or left.

        `report` is told, in a sentence, where it can't be ended.
        """
        self._name = name
        self.unit = engine_unit(name)
        self._units = units
        self._journal = journal
        self._on_line = on_line
        self._forget = forget
        self._report = report
        self._earlier = ""
        self._state = UnitState()
        self._exit_state: UnitState | None = None
        self._is_followed_by_another = False
        self._exec_at: float | None = None
        self._asked = False
        self._told = False
        self._is_given_up = False
        self._changed = asyncio.Event()
        self._to_ask = False
        loop = asyncio.get_running_loop()
        self._main_ended: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[EngineExit] = loop.create_future()
        self._life = loop.create_task(self._live(), name=f"engine {name}")
        self._life.add_done_callback(self._settle)  # also where it is cancelled before it began

    @property
    def name(self) -> str:
        """The name it was launched under."""
        return self._name

    @property
    def pid(self) -> int:
        """The main process."""
        return self._state.pid

    @property
    def exec_at(self) -> float:
        """When the program was exec'ed, in seconds of `time.monotonic()`."""
        return self._state.exec_at if self._exec_at is None else self._exec_at

    @property
    def identity(self) -> str:
        """The unit's invocation: no other start of it has the same, earlier or later."""
        return self._state.invocation if self._is_ours else ""

    @property
    def _is_ours(self) -> bool:
        return self._state.invocation not in ("", self._earlier)

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more, as far as systemd has told."""
        return self._is_followed_by_another or self._state.is_down

    async def watched(self, earlier: str) -> None:
        """Be told of the unit from now on. `earlier`: the invocation that came before ours.

        Raises `LaunchError`.
        """
        self._earlier = earlier
        await self._units.watch(self.unit, self._hear)

    async def known(self, exec_at: float | None = None) -> None:
        """Make sure that its process and identity are known; raises `LaunchError`."""
        self._exec_at = exec_at
        if not self._is_ours or not self._state.pid:
            await self._look()
        if not self.identity:
            raise LaunchError(
                f"{self.name} was started and systemd knows nothing of it; see "
                f"`journalctl -u {self.unit}`"
            )
        self._journal.claim(self.identity, self._on_line)

    async def main_ended(self) -> None:
        """Return as soon as the main process has ended; others of its tree may live on."""
        await asyncio.shield(self._main_ended)

    async def wait(self) -> EngineExit:
        """Return once the main process has ended and no process of its tree is left."""
        return await asyncio.shield(self.gone)

    async def stop(self, grace_s: float) -> EngineExit:
        """SIGTERM, then SIGKILL to the whole tree after `grace_s`; return when nothing is left.

        May be called again with a shorter grace.
        """
        self._asked = True
        if grace_s > 0 and not self.gone.done():
            await self._signal("main", signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    return await self.wait()
        while not self.gone.done():
            await self._signal("all", signal.SIGKILL)
            with suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_S):
                    await self.wait()
        return await self.wait()

    async def leave(self) -> None:
        """Let go without stopping: systemd runs it on.

        What it has printed until now is handed on. Whoever waits for its end is cancelled.
        """
        if not self.gone.done():
            await self.give_up()

    async def give_up(self) -> None:
        """Hear no more of it."""
        self._is_given_up = True
        self._life.cancel()
        await asyncio.wait([self.gone])
        await self._units.unwatch(self.unit)

    def _hear(self, told: Properties) -> None:
        if not told:
            self._to_ask = True
        elif "InvocationID" in told and self._is_ours:
            heard = self._state.heard(told)
            if heard.invocation == self._state.invocation:
                self._know(heard)
            else:
                # Forgotten by systemd since its end, or somebody has started the unit anew.
                self._is_followed_by_another = True
        else:
            self._know(self._state.heard(told))
        self._changed.set()

    def _know(self, state: UnitState) -> None:
        self._state = state
        if self._is_ours and state.main_ended and self._exit_state is None:
            self._exit_state = state
            self._main_ended.set_result(None)

    async def _look(self) -> None:
        self._hear(await self._units.properties(self.unit, READ))

    async def _live(self) -> EngineExit:
        while not (self._is_ours and self.has_ended):
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                self._to_ask = True
            self._changed.clear()
            if self._to_ask:
                self._to_ask = False
                with suppress(LaunchError):  # it is asked again, and whoever gives orders is told
                    await self._look()
        await self._nothing_left()
        await self._journal.last_words(self.identity)
        return (self._exit_state or self._state).exit(asked_for=self._asked)

    async def _nothing_left(self) -> None:
        """Return once it is proved that nothing of it runs, and how it ended is known."""
        give_up_at = asyncio.get_running_loop().time() + _SETTLES_S
        while self._exit_state is None and not self._is_followed_by_another:
            with suppress(LaunchError):
                await self._look()
            if asyncio.get_running_loop().time() >= give_up_at:
                break
            await asyncio.sleep(_PAUSE_S)
        while True:
            # Another start of the unit is nobody's: who wants this engine has to ask warmd.
            try:
                await end_unit(self._units, self.unit, self._state.cgroup)
                break
            except LaunchError as error:
                self._tell(str(error))
                await asyncio.sleep(_AGAIN_S)
        await self._units.unwatch(self.unit)

    def _settle(self, life: asyncio.Task[EngineExit]) -> None:
        self._journal.release(self.identity)
        self._forget(self)
        if not self._main_ended.done():
            self._main_ended.cancel()
        if life.cancelled() or self._is_given_up:
            self.gone.cancel()
        elif (bug := life.exception()) is not None:
            self.gone.set_exception(bug)
        else:
            self.gone.set_result(life.result())

    async def _signal(self, whom: Literal["main", "all"], number: signal.Signals) -> None:
        try:
            await self._units.kill(self.unit, whom, number)
        except LaunchError as error:
            self._tell(f"{self.name} can't be ended: {error}")

    def _tell(self, sentence: str) -> None:
        if not self._told:
            self._told = True
            self._report(sentence)
