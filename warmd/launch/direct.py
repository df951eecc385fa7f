"""Engines as the daemon's own process trees: for machines and users without systemd.

When the daemon dies, however it dies, each shim ends its tree; unless the launcher is told to let
engines outlive it: then each shim waits for the next daemon, which takes its engine over.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path

from warmd.config.run_files import shim_socket
from warmd.launch.direct_engine import DirectEngine
from warmd.launch.forkserver_process import ForkserverProcess
from warmd.launch.launcher import LaunchError, LaunchSpec, Leftover, LogLine, RunningEngine
from warmd.launch.leftovers import marks, sweep
from warmd.launch.output import EngineOutput, open_pipe
from warmd.launch.shim_socket import Answer, call, listen

_ANSWER_WITHIN_S = 30.0
_CLOSE_WITHIN_S = 15.0


class DirectLauncher:
    """Implements `HostLauncher` with one forkserver and a shim for each engine."""

    def __init__(self, run_dir: Path, *, outlive: bool = False) -> None:
        """`outlive`: engines that this launcher starts run on when the daemon is gone."""
        self._run_dir = run_dir
        self._outlive = outlive
        self._any_left = False
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
        if not await self._answer(engine, spec):
            # The forkserver was killed with our request in its hands. All is gone: once more.
            engine = await self._launch(spec, on_line)
            if not await self._answer(engine, spec):
                raise LaunchError(
                    f"{spec.name} was not started: its shim was killed from outside, twice; "
                    "look for the killer in the kernel's log"
                )
        return engine

    async def _answer(self, engine: DirectEngine, spec: LaunchSpec) -> bool:
        """Wait for the word that it was exec'ed; return False where its shim died unheard."""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                return await engine.started(spec)
        except TimeoutError:
            engine.ask_to_stop(0)
            if self._server is not None and self._server.is_stuck:
                self._server.kill()
                raise LaunchError(
                    f"{engine.name} was not started: the forkserver (process {self._server.pid}) "
                    f"had not moved for {_ANSWER_WITHIN_S:g} s; it was killed, and the next start "
                    "makes another one"
                ) from None
            raise LaunchError(
                f"{engine.name} was not started: no answer for {_ANSWER_WITHIN_S:g} s while "
                f"{spec.argv[0]} was executed; see whether its file system hangs"
            ) from None
        except asyncio.CancelledError:
            engine.ask_to_stop(0)
            raise

    async def find(self, name: str, identity: str, on_line: LogLine) -> RunningEngine | None:
        """Take over the engine `name` that an earlier daemon left, where it has that `identity`.

        None where no shim vouches for it, and where engines don't outlive the daemon: then
        `end_leftovers` ends what is left of it. Raises `LaunchError` where a daemon that lives
        has it.
        """
        if not self._outlive or self._closed:
            return None
        if name in self._engines:
            raise LaunchError(f"{name} runs already: it was started or found before")
        answer = await call(shim_socket(self._run_dir, name))
        if answer is None:
            return None
        if answer.identity != identity or self._closed:
            answer.refuse()
            return None
        output = EngineOutput(answer.output, on_line, answer.unread)
        return self._engine(name, answer.control, output, answer)

    async def end_leftovers(self, name: str) -> None:
        """SIGKILL what an earlier daemon left of the engine `name`; raises `LaunchError`."""
        await asyncio.to_thread(sweep, self._run_dir, name=name)

    async def sweep(self, spare: Collection[str]) -> tuple[Leftover, ...]:
        """SIGKILL what earlier daemons left, but for the engines to `spare`.

        Before the first start. Raises `LaunchError`.
        """
        return await asyncio.to_thread(sweep, self._run_dir, spare=spare)

    async def close(self) -> None:
        """SIGKILL every tree that still runs and was not left, and end the forkserver.

        Raises `LaunchError` where one can't be ended.
        """
        self._closed = True
        for engine in self._engines.values():
            engine.ask_to_stop(0)
        alive = [engine.gone for engine in self._engines.values()]
        if alive:
            await asyncio.wait(alive, timeout=_CLOSE_WITHIN_S)
        if self._server is not None:
            server, self._server = self._server, None
            if self._any_left:
                server.leave()
            else:
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
            descriptors = [request, theirs.fileno()]
            try:
                reader, writer = open_pipe(self._run_dir, spec.name)
            except OSError:
                ours.close()
                raise
            handed_over.callback(os.close, writer)
            descriptors.append(writer)
            if self._outlive:
                try:
                    listener = listen(shim_socket(self._run_dir, spec.name))
                except OSError:
                    ours.close()
                    os.close(reader)
                    raise
                handed_over.enter_context(listener)
                descriptors += [listener.fileno(), reader]
            # From here on the engine tidies up: where no shim answers, it meets an end of file.
            output = EngineOutput(reader, on_line)
            engine = self._engine(spec.name, ours, output)
            with suppress(ConnectionError):  # the end of file tells it as well
                await server.request(*descriptors)
        return engine

    def _engine(
        self,
        name: str,
        control: socket.socket,
        output: EngineOutput,
        found: Answer | None = None,
    ) -> DirectEngine:
        engine = self._engines[name] = DirectEngine(
            self._run_dir,
            name,
            control,
            output,
            outlives=self._outlive,
            forget=self._forget,
            found=found,
        )
        return engine

    def _forget(self, engine: DirectEngine) -> None:
        del self._engines[engine.name]
        if engine.left:
            self._any_left = True
        elif self._outlive:
            with suppress(OSError):  # a later start says why, where it still matters
                shim_socket(self._run_dir, engine.name).unlink()

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
