"""Engines as units of systemd: they have a user, a sandbox and a journal of their own.

What runs goes on without the daemon, whatever becomes of it; the next one finds it by the unit's
name and invocation.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from warmd.config.run_files import ENGINES, engine_unit
from warmd.launch.launcher import LaunchError, LaunchSpec, Leftover, LogLine, RunningEngine
from warmd.launch.leftovers import sweep
from warmd.launch.systemd.ending import end_unit
from warmd.launch.systemd.engine import SystemdEngine
from warmd.launch.systemd.journal import Journal
from warmd.launch.systemd.start_files import StartFiles, refused, remove_left_behind
from warmd.launch.systemd.units import Job, Units

_RUN_DIR = Path("/run/warmd")
_ANSWER_WITHIN_S = 30.0
_CLOSE_WITHIN_S = 15.0


class SystemdLauncher:
    """Implements `HostLauncher` with one unit for each engine."""

    def __init__(self, run_dir: Path, report: Callable[[str], None]) -> None:
        """`report` is told, in a sentence, of trouble that is no start's own."""
        self._run_dir = run_dir
        self._report = report
        self._units = Units()
        self._journal = Journal(report)
        self._engines: dict[str, SystemdEngine] = {}
        self._endings: dict[str, asyncio.Task[None]] = {}
        self._orders: dict[str, asyncio.Future[None]] = {}
        self._closed = False

    async def open(self) -> None:
        """Connect to systemd and the journal; raises `LaunchError`."""
        self._see_that_the_folder_is_ready()
        try:
            remove_left_behind(self._run_dir)
        except OSError as error:
            raise LaunchError(f"{error.filename} can't be removed: {error.strerror}") from None
        await self._units.connect()
        self._journal.open()

    async def own_job(self) -> Job | None:
        """Say what systemd does with the daemon's own unit; raises `LaunchError`."""
        return await self._units.own_job()

    async def start(self, spec: LaunchSpec, on_line: LogLine) -> RunningEngine:
        """Start `spec`; raises `LaunchError`. Every line it prints goes to `on_line`."""
        if (ending := self._endings.get(spec.name)) is not None:
            # Whoever ends a start that was called off must not meet this one.
            await asyncio.wait([ending])
        if spec.name in self._engines:
            raise LaunchError(
                f"{spec.name} was not started: processes of its last run are still there; "
                "wait for their end"
            )
        engine = self._engine(spec.name, on_line)
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                before = await self._units.state(engine.unit)
                if not before.is_down:
                    before = await end_unit(self._units, engine.unit)
                await engine.watched(before.invocation)
                await self._execute(engine, spec)
        except TimeoutError:
            await self._abandon(engine)
            raise LaunchError(
                f"{spec.name} was not started: no answer for {_ANSWER_WITHIN_S:g} s while "
                f"{spec.argv[0]} was executed; see whether its file system hangs, and "
                f"`systemctl status {engine.unit}`"
            ) from None
        except LaunchError:
            await self._abandon(engine)
            raise
        except asyncio.CancelledError:
            self._end_aside(engine)
            raise
        return engine

    async def find(self, name: str, identity: str, on_line: LogLine) -> RunningEngine | None:
        """Take over the engine `name` that an earlier daemon left, where it has that `identity`.

        None where systemd has no such engine up. Raises `LaunchError` where it can't be asked.
        """
        if name in self._engines:
            raise LaunchError(f"{name} runs already: it was started or found before")
        state = await self._units.state(engine_unit(name))
        if state.invocation != identity or state.is_down:
            return None
        engine = self._engine(name, on_line)
        try:
            await engine.watched("")
            await engine.known()
        except BaseException:
            await engine.give_up()
            raise
        if engine.identity != identity or engine.has_ended:
            await engine.give_up()
            return None
        return engine

    async def end_leftovers(self, name: str) -> None:
        """SIGKILL what an earlier daemon left of the engine `name`; raises `LaunchError`."""
        await end_unit(self._units, engine_unit(name))

    async def sweep(self, spare: Collection[str]) -> tuple[Leftover, ...]:
        """End each engine that no daemon vouches for, but for those to `spare`.

        Also those that a daemon without systemd has left. Raises `LaunchError`.
        """
        direct = await asyncio.to_thread(sweep, self._run_dir)
        prefix, suffix = engine_unit("*").split("*")
        found = await self._units.loaded(engine_unit("*"))
        names = {unit.removeprefix(prefix).removesuffix(suffix): unit for unit in found}
        ended = {
            name: await end_unit(self._units, unit)
            for name, unit in names.items()
            if name not in spare
        }
        killed = [Leftover(was.pid, name) for name, was in ended.items() if not was.is_down]
        return (*direct, *sorted(killed))

    async def close(self) -> None:
        """SIGKILL every engine that still runs and was not left; raises `LaunchError`."""
        self._closed = True
        endings = [asyncio.ensure_future(each.stop(0)) for each in self._engines.values()]
        if endings or self._endings:
            await asyncio.wait([*endings, *self._endings.values()], timeout=_CLOSE_WITHIN_S)
        for each in endings:
            each.cancel()
        left = tuple(self._engines)
        await self._journal.close()
        await self._units.close()
        if left:
            raise LaunchError(
                f"processes of {', '.join(left)} outlive SIGKILL for {_CLOSE_WITHIN_S:g} s; "
                "a driver may hold them: look at their state in ps and at the kernel's log"
            )

    def _see_that_the_folder_is_ready(self) -> None:
        if os.path.realpath(self._run_dir) != str(_RUN_DIR):
            raise LaunchError(
                f"[host].run_dir is {self._run_dir}, and units of systemd look for their engines "
                f"in {_RUN_DIR}; take run_dir out of the config, or run warmd without --systemd"
            )
        folder = self._run_dir / ENGINES
        if not os.access(folder, os.W_OK | os.X_OK):
            raise LaunchError(
                f"{folder} is missing or can't be written to; do `systemd-tmpfiles --create`"
            )
        if not folder.stat().st_mode & stat.S_ISGID:
            raise LaunchError(
                f"{folder} is not set up for engines of a user of their own: what is made in it "
                "must be of the group warmd-engine; do `systemd-tmpfiles --create`"
            )
        os.umask(0o007)  # what is made for engines is made for their group

    async def _execute(self, engine: SystemdEngine, spec: LaunchSpec) -> None:
        """Have systemd start the unit, and wait until it has exec'ed the program."""
        try:
            files = StartFiles(self._run_dir, spec)
        except OSError as error:
            raise LaunchError(
                f"{spec.name} was not started: {error.filename or self._run_dir}: "
                f"{error.strerror}; do `systemd-tmpfiles --create`"
            ) from None
        job = asyncio.ensure_future(self._units.start(engine.unit))
        self._orders[engine.name] = job
        try:
            first: set[asyncio.Future[Any]] = {job, files.answer}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not files.answer.done():
                job.result()  # raises where systemd could not do it
                first = {engine.gone, files.answer}
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not files.answer.done():
                raise LaunchError(
                    f"{spec.name} was not started: warmd-exec {engine.gone.result().sentence} "
                    f"before it could execute anything; see `journalctl -u {engine.unit}`"
                )
            at, said = files.answer.result()
            if said:
                raise LaunchError(refused(spec, said))
            await job
            await engine.known(at)
            del self._orders[engine.name]
        finally:
            files.remove()

    def _engine(self, name: str, on_line: LogLine) -> SystemdEngine:
        if self._closed:
            raise LaunchError("no engine can be started: the launcher is closed")
        engine = self._engines[name] = SystemdEngine(
            name, self._units, self._journal, on_line, forget=self._forget, report=self._report
        )
        return engine

    def _forget(self, engine: SystemdEngine) -> None:
        del self._engines[engine.name]

    async def _abandon(self, engine: SystemdEngine) -> None:
        """End whatever comes of a start."""
        order = self._orders.pop(engine.name, None)
        if order is not None:
            # systemd asks polkit first: what it is asked meanwhile, it answers before it starts.
            await asyncio.wait([order], timeout=_CLOSE_WITHIN_S)
            if not order.cancel():
                order.exception()  # whoever called it off wants to hear nothing of it
        with suppress(LaunchError):  # the next start tries it again, and says why it can't
            await end_unit(self._units, engine.unit)
        if engine.identity:
            # It has seen its end, and what it may have ordered for that must not meet a next start.
            await asyncio.wait([engine.gone], timeout=_CLOSE_WITHIN_S)
        await engine.give_up()

    def _end_aside(self, engine: SystemdEngine) -> None:
        work: Coroutine[None, None, None] = self._abandon(engine)
        task = asyncio.create_task(work, name=f"end of {engine.name}")
        self._endings[engine.name] = task
        task.add_done_callback(lambda _: self._endings.pop(engine.name))
