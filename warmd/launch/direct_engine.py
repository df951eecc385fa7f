"""One engine below a shim of ours; see shim.py for the words they exchange."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

from warmd.launch.launcher import EngineExit, LaunchError, LaunchSpec
from warmd.launch.leftovers import sweep
from warmd.launch.output import EngineOutput
from warmd.launch.refusal import refusal
from warmd.launch.shim_socket import Answer, exit_of

_SIGKILL = 9


class DirectEngine:
    """An engine that was asked for, or one that an earlier daemon left and that was `found`."""

    def __init__(
        self,
        run_dir: Path,
        name: str,
        control: socket.socket,
        output: EngineOutput,
        *,
        outlives: bool,
        forget: Callable[[DirectEngine], None],
        found: Answer | None = None,
    ) -> None:
        """`forget` is called before anybody is told that it is gone, or left."""
        loop = asyncio.get_running_loop()
        self._run_dir = run_dir
        self._name = name
        self._control = control
        self._output = output
        self._outlives = outlives
        self._forget = forget
        self._pid = 0
        self._identity = ""
        self._exec_at = 0.0
        self._asked = False
        self.left = False
        """Whether it runs on without us."""
        self._exit: EngineExit | None = None
        self._refused: tuple[str, int] | None = None
        self._answered: asyncio.Future[bool] = loop.create_future()
        self._main_ended: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[EngineExit] = loop.create_future()
        if found is not None:
            self._started(found.pid, found.identity, found.exec_at)
            self._ended(found.exit)
        self._life = loop.create_task(self._live(), name=f"engine {name}")
        self._life.add_done_callback(self._settle)  # also where it is cancelled before it began

    @property
    def name(self) -> str:
        """The name it was launched under."""
        return self._name

    @property
    def pid(self) -> int:
        """The main process."""
        return self._pid

    @property
    def exec_at(self) -> float:
        """When the program was exec'ed, in seconds of `time.monotonic()`."""
        return self._exec_at

    @property
    def identity(self) -> str:
        """Boot, process and its start: what no other process has, earlier or later."""
        return self._identity

    async def started(self, spec: LaunchSpec) -> bool:
        """Return True when the program was exec'ed, False where nobody lives to say so.

        Raises `LaunchError` where the kernel refused.
        """
        if await asyncio.shield(self._answered):
            return True
        await self.wait()
        if self._refused is not None:
            raise LaunchError(refusal(spec, *self._refused))
        return False

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
        self.ask_to_stop(grace_s)
        return await self.wait()

    async def leave(self) -> None:
        """Let go without stopping: its shim waits for the next daemon.

        What it has printed until now is handed on. Whoever waits for its end is cancelled.
        Raises `LaunchError` where its shim would end it.
        """
        if not self._outlives:
            raise LaunchError(
                f"{self.name} can't be left running: it was not started to outlive warmd"
            )
        if self.gone.done():
            return
        self.left = True
        self._life.cancel()
        await asyncio.wait([self.gone])

    def ask_to_stop(self, grace_s: float) -> None:
        """Begin what `stop` does, without waiting."""
        if self.gone.done():
            return
        self._asked = True
        try:
            self._control.send(json.dumps({"stop": grace_s}).encode())
        except OSError:
            return  # the shim is dead, and its tree dies with it

    async def _live(self) -> None:
        if not await self._hear():
            await self._kill_marked()

    def _settle(self, _: asyncio.Task[None]) -> None:
        try:
            self._output.close()
        finally:
            # Only now: the shim, or the daemon after us, begins to read where we have ended.
            self._control.close()
            self._forget(self)
            if not self._answered.done():
                self._answered.set_result(False)
            if self.left:
                self.gone.cancel()
                self._main_ended.cancel()
            else:
                # Where a dead shim could not say it: the kernel has SIGKILLed the main process.
                ended = self._exit or EngineExit(None, _SIGKILL, asked_for=self._asked)
                self._ended(ended)
                self.gone.set_result(ended)

    def _started(self, pid: int, identity: str, exec_at: float) -> None:
        self._pid, self._identity, self._exec_at = pid, identity, exec_at
        self._answered.set_result(True)

    def _ended(self, ended: EngineExit | None) -> None:
        self._exit = ended
        if ended is not None and not self._main_ended.done():
            self._main_ended.set_result(None)

    async def _hear(self) -> bool:
        """Follow what the shim says; return whether it vouched for the end of the tree."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                packet = await loop.sock_recv(self._control, 4096)
            except OSError:
                return False
            if not packet:
                return False
            try:
                said = json.loads(packet)
            except ValueError:
                return False
            match said:
                case {"started": int(pid), "identity": str(identity), "at": float(at)}:
                    self._started(pid, identity, at)
                case {"refused": int(number), "stage": str(stage)}:
                    self._refused = stage, number
                    return True
                case {"status": _, "signal": _, "asked": _} as ended:
                    self._ended(exit_of(ended))
                case {"gone": True}:
                    return True
                case _:
                    return False  # who talks nonsense vouches for nothing

    async def _kill_marked(self) -> None:
        """Nobody vouched for the end: go by the marks, and by whom the forkserver still ends."""
        while True:
            try:
                await asyncio.to_thread(sweep, self._run_dir, name=self.name)
            except LaunchError:
                continue  # `gone` is a promise: it waits as long as the kernel holds them
            return
