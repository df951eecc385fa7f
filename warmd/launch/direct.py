"""Engines as the daemon's own process trees: for machines and users without systemd.

No engine outlives the daemon here: when it dies, however it dies, each shim ends its tree.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

from warmd.launch.forkserver_process import ForkserverProcess
from warmd.launch.launcher import EngineExit, LaunchError, LaunchSpec, LogLine, RunningEngine
from warmd.launch.leftovers import marks, sweep
from warmd.launch.output import EngineOutput
from warmd.launch.refusal import refusal

_ANSWER_WITHIN_S = 30.0
_CLOSE_WITHIN_S = 15.0
_SIGKILL = 9


class DirectEngine:
    """An engine below a shim of ours; see shim.py for the words they exchange."""

    def __init__(
        self, run_dir: Path, spec: LaunchSpec, control: socket.socket, output: EngineOutput
    ) -> None:
        loop = asyncio.get_running_loop()
        self._run_dir = run_dir
        self._spec = spec
        self._control = control
        self._output = output
        self._pid = 0
        self._exec_at = 0.0
        self._asked = False
        self._exit: EngineExit | None = None
        self._refused: str | None = None
        self._answered: asyncio.Future[bool] = loop.create_future()
        self._main_ended = asyncio.Event()
        self.gone: asyncio.Future[EngineExit] = loop.create_future()
        self._life = loop.create_task(self._live(), name=f"engine {spec.name}")

    @property
    def name(self) -> str:
        """The name it was launched under."""
        return self._spec.name

    @property
    def pid(self) -> int:
        """The main process."""
        return self._pid

    @property
    def exec_at(self) -> float:
        """When the program was exec'ed, in seconds of `time.monotonic()`."""
        return self._exec_at

    @property
    def program(self) -> str:
        """What was to be executed."""
        return self._spec.argv[0]

    async def started(self) -> bool:
        """Return True when the program was exec'ed, False where nobody lives to say so.

        Raises `LaunchError` where the kernel refused.
        """
        if await asyncio.shield(self._answered):
            return True
        await self.wait()
        if self._refused is not None:
            raise LaunchError(self._refused)
        return False

    async def main_ended(self) -> None:
        """Return as soon as the main process has ended; others of its tree may live on."""
        await self._main_ended.wait()

    async def wait(self) -> EngineExit:
        """Return once the main process has ended and no process of its tree is left."""
        return await asyncio.shield(self.gone)

    async def stop(self, grace_s: float) -> EngineExit:
        """SIGTERM, then SIGKILL to the whole tree after `grace_s`; return when nothing is left.

        May be called again with a shorter grace.
        """
        self.ask_to_stop(grace_s)
        return await self.wait()

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
        try:
            if not await self._hear():
                await self._kill_marked()
        finally:
            self._control.close()
            try:
                self._output.close()
            finally:
                if not self._answered.done():
                    self._answered.set_result(False)
                # Where a dead shim could not say it: the kernel has SIGKILLed the main process.
                ended = self._exit or EngineExit(None, _SIGKILL, asked_for=self._asked)
                self.gone.set_result(ended)
                self._main_ended.set()

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
            match json.loads(packet):
                case {"started": int(pid), "at": float(at)}:
                    self._pid, self._exec_at = pid, at
                    self._answered.set_result(True)
                case {"refused": int(number), "stage": str(stage)}:
                    self._refused = refusal(self._spec, stage, number)
                    return True
                case {"status": status, "signal": number, "asked": bool(asked)}:
                    self._exit = EngineExit(status, number, asked_for=asked)
                    self._main_ended.set()
                case {"gone": True}:
                    return True
                case said:
                    raise AssertionError(f"the shim of {self.name} said {said!r}")

    async def _kill_marked(self) -> None:
        """The shim and the forkserver above it are both dead: only the marks are left to go by."""
        while True:
            try:
                await asyncio.to_thread(sweep, self._run_dir, name=self.name)
            except LaunchError:
                continue  # `gone` is a promise: it waits as long as the kernel holds them
            return


class DirectLauncher:
    """Implements `Launcher` with one forkserver and a shim for each engine."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._server: ForkserverProcess | None = None
        self._starting = asyncio.Lock()
        self._closed = False
        self._engines: dict[str, DirectEngine] = {}

    async def open(self) -> None:
        """Start the forkserver ahead, so that the first launch is quick; raises `LaunchError`."""
        await self._forkserver()

    async def start(self, spec: LaunchSpec, on_line: LogLine) -> RunningEngine:
        """Start `spec`; raises `LaunchError`. Every line it prints goes to `on_line`."""
        engine = await self._launch(spec, on_line)
        if not await self._answer(engine):
            # The forkserver was killed with our request in its hands. All is gone: once more.
            engine = await self._launch(spec, on_line)
            if not await self._answer(engine):
                raise LaunchError(
                    f"{spec.name} was not started: its shim was killed from outside, twice; "
                    "look for the killer in the kernel's log"
                )
        return engine

    async def _answer(self, engine: DirectEngine) -> bool:
        """Wait for the word that it was exec'ed; return False where its shim died unheard."""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                return await engine.started()
        except TimeoutError:
            engine.ask_to_stop(0)
            raise LaunchError(
                f"{engine.name} was not started: no answer for {_ANSWER_WITHIN_S:g} s while "
                f"{engine.program} was executed; see whether its file system hangs"
            ) from None
        except asyncio.CancelledError:
            engine.ask_to_stop(0)
            raise

    async def close(self) -> None:
        """SIGKILL every tree that still runs; raises `LaunchError` where one can't be ended."""
        self._closed = True
        for engine in self._engines.values():
            engine.ask_to_stop(0)
        alive = [engine.gone for engine in self._engines.values()]
        if alive:
            await asyncio.wait(alive, timeout=_CLOSE_WITHIN_S)
        if self._server is not None:
            server, self._server = self._server, None
            await server.end()
        if self._engines:
            raise LaunchError(
                f"processes of {', '.join(self._engines)} outlive SIGKILL for "
                f"{_CLOSE_WITHIN_S:g} s; "
                "a driver may hold them: look at their state in ps and at the kernel's log"
            )

    async def _launch(self, spec: LaunchSpec, on_line: LogLine) -> DirectEngine:
        server = await self._forkserver()
        if spec.name in self._engines:
            raise LaunchError(
                f"{spec.name} was not started: processes of its last run are still there; "
                "wait for their end"
            )
        try:
            return await self._hand_over(server, spec, on_line)
        except OSError as error:
            raise LaunchError(
                f"{spec.name} was not started: {error.filename or 'the launcher'}: "
                f"{error.strerror}; look at {self._run_dir} and at the limits of the service"
            ) from None

    async def _hand_over(
        self, server: ForkserverProcess, spec: LaunchSpec, on_line: LogLine
    ) -> DirectEngine:
        with ExitStack() as handed_over:
            request = os.memfd_create("launch")  # a spec may be larger than any packet
            handed_over.callback(os.close, request)
            os.write(request, _as_json(spec, self._run_dir))
            os.lseek(request, 0, os.SEEK_SET)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            handed_over.enter_context(theirs)
            ours.setblocking(False)
            try:
                output = EngineOutput(self._run_dir, spec.name, on_line)
            except OSError:
                ours.close()
                raise
            handed_over.callback(output.close_writer)
            # From here on the engine tidies up: where no shim answers, it meets an end of file.
            engine = DirectEngine(self._run_dir, spec, ours, output)
            self._engines[spec.name] = engine
            engine.gone.add_done_callback(lambda _: self._engines.pop(spec.name))
            with suppress(ConnectionError):  # the end of file tells it as well
                await server.request(request, theirs.fileno(), output.writer)
        return engine

    async def _forkserver(self) -> ForkserverProcess:
        async with self._starting:
            if self._closed:
                raise LaunchError("no engine can be started: the launcher is closed")
            if self._server is not None and not self._server.is_alive:
                server, self._server = self._server, None
                await server.end()
            if self._server is None:
                self._server = await ForkserverProcess.started()
            return self._server


def _as_json(spec: LaunchSpec, run_dir: Path) -> bytes:
    env = {**spec.env, **marks(run_dir, spec.name)}
    asked = {"argv": spec.argv, "env": env, "cwd": str(spec.cwd)}
    return json.dumps(asked).encode()
