"""One replica's vLLM: its files, its command, its log and the way to it, put together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import aiohttp

from warmd.aside import Shared, aside
from warmd.config import WarmupKind
from warmd.engine.binder import Binder
from warmd.engine.binding import Binding
from warmd.engine.canary import CanaryAnswer, ask_canary
from warmd.engine.client import EngineClient
from warmd.engine.command import EngineRecipe, engine_command
from warmd.engine.compiled import CompiledTracker
from warmd.engine.errors import EngineError
from warmd.engine.failure import Cause, failure_cause
from warmd.engine.home import point_at, prepare_home
from warmd.engine.log import EngineLog
from warmd.engine.note import read_note, write_note
from warmd.engine.sizing.measured import PartsTracker
from warmd.engine.sleep_mode import fall_asleep, is_sleeping, wake_up
from warmd.engine.warmup import WarmupSpec, warm_up
from warmd.ladder import MeasuredParts
from warmd.launch import LaunchSpec
from warmd.staging import StagingError, model_folder

ANSWERS_S = 30.0
"""A disk or mount that doesn't answer an engine's start for so long hangs."""


class VllmConnection:
    """The way to one engine, and the questions that warmd asks it."""

    def __init__(
        self,
        client: EngineClient,
        question: WarmupSpec,
        aim: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`aim` makes sure that the path of the weights leads to them."""
        self.client = client
        self._question = question
        self._aim = aim
        self._kind: WarmupKind | None = None  # what the last warm-up found

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session for requests of warmd's own."""
        return self.client.session

    @property
    def socket(self) -> str:
        """The path of the unix socket on which the engine listens."""
        return self.client.socket

    async def listening(self) -> bool:
        """Whether the engine's server says that it is well; a sleeping one does too."""
        return await self.client.listening()

    async def warm_up(self) -> float:
        """Get one real answer through the session that users take; raises `WarmupError`.

        Returns the seconds to its first token.
        """
        answer = await warm_up(self.client.session, self._question)
        self._kind = answer.kind
        return answer.first_token_s

    async def canary(self) -> CanaryAnswer:
        """Ask what must always be answered alike, while nothing else runs; raises `WarmupError`.

        Where no warm-up was answered yet, that comes first: it finds what the model serves.
        """
        if self._kind is None:
            await self.warm_up()
        kind, spec = self._kind or WarmupKind.AUTO, self._question
        return await ask_canary(self.client.session, spec.model, kind, spec.timeout)

    async def sleep(self, level: int) -> None:
        """Put the drained engine to sleep; the caller bounds the time. Raises `SleepError`."""
        await fall_asleep(self.client.session, level)

    async def wake(self, level: int) -> None:
        """Wake it from `level`; the caller bounds the time. Raises `EngineError`."""
        if self._aim is not None and level != 1:
            await self._aim()  # it reads the weights again, and a copy in RAM may be gone since
        await wake_up(self.client.session, level)

    async def sleeping(self) -> bool:
        """Whether it sleeps; raises `SleepError` where it doesn't say."""
        return await is_sleeping(self.client.session)

    async def counters(self, within_s: float) -> tuple[float, ...] | None:
        """Return what the engine has counted; None where it doesn't answer in time."""
        return await self.client.counters(within_s)

    async def queued(self, within_s: float) -> int | None:
        """Ask how many requests wait inside it."""
        return await self.client.queued(within_s)

    async def version(self) -> str | None:
        """Return vLLM's version; None where it isn't told in time."""
        return await self.client.version()

    async def serves(self) -> tuple[str, ...]:
        """Return the names that it answers to, adapters too; empty where it tells none."""
        return await self.client.serves()

    async def close(self) -> None:
        """Close every connection."""
        await self.client.close()


class Vllm:
    """What a replica needs to know of its vLLM. `report` is told, in a sentence, of a lost log."""

    def __init__(
        self,
        replica: str,
        recipe: EngineRecipe,
        question: WarmupSpec,
        *,
        source: Path,
        inherited: Mapping[str, str],
        report: Callable[[str], None],
        binder: Binder | None = None,
        where: Callable[[Path], Path] | None = None,
    ) -> None:
        """`source` is the model's folder, or what stands for it: the stable path's aim.

        `where` says, of its folder, which one is to be read: a copy in RAM where there is one; it
        may wait for the disk, and raise `EngineError`. `binder` None: nothing is reserved for it,
        or nobody knows on which cards.
        """
        self._replica = replica
        self._recipe = recipe
        self._source = source
        self._question = question
        self._inherited = inherited
        self._report = report
        self._log = EngineLog(recipe.home.log)
        self._note_lost = False
        self._sizes: PartsTracker | None = None  # while it starts
        self._measured: MeasuredParts | None = None
        self._compiled = CompiledTracker()
        self._binder = binder
        self._where = where
        self._bound: Binding | None = None  # while it starts
        self._look: Shared[Path] = Shared()

    async def prepare(self) -> LaunchSpec:
        """Make the engine's folder fresh and say what to run; raises `EngineError`."""
        try:
            source = await self._look(self._model_there, ANSWERS_S)
        except TimeoutError:
            raise self._silent() from None
        if self._binder is not None:
            # With a KV cache of fixed size it didn't come up, so what was measured may be wrong.
            anew = self._bound is not None and self._bound.kv_cache is not None
            self._bound = await self._binder.binding(anew=anew)
        bound = () if self._bound is None else self._bound.args
        prepare_home(self._recipe.home)
        await self._aim(source)
        command = engine_command(self._recipe, self._inherited, bound)
        self._log.begin(command.shown)
        self._sizes, self._measured, self._compiled = PartsTracker(), None, CompiledTracker()
        self._report_trouble()
        return LaunchSpec(self._replica, command.argv, command.env, command.cwd)

    def _model_there(self) -> Path:
        """Return the model's folder; waits for the disk. Raises `EngineError`."""
        try:
            source = model_folder(self._source)
        except StagingError as error:
            raise EngineError(str(error)) from error
        if not (source / "config.json").exists():
            raise EngineError(
                f"there is no model at {source} (no config.json): is the disk mounted? put "
                "the model there, or mend `weights`"
            )
        return source

    async def _aim(self, source: Path | None = None) -> None:
        """Let the stable path lead to what is to be read; raises `EngineError`.

        `source`: the model's folder where that was just looked up.
        """
        where, link = self._where, self._recipe.weights
        if where is None and source is not None:
            point_at(link, source)
            return

        def aim() -> None:
            found = source or self._model_there()
            read = found if where is None else where(found)
            point_at(link, read)
            if read != found and not (read / "config.json").exists():
                point_at(link, found)  # the copy was let go at this very moment

        try:
            async with asyncio.timeout(ANSWERS_S):
                await aside(aim)
        except TimeoutError:
            raise self._silent() from None

    def _silent(self) -> EngineError:
        return EngineError(
            f"{self._source} hasn't answered for {ANSWERS_S:g} s; look at the disk or network mount"
        )

    def resume(self, pid: int) -> None:
        """Go on with the log of an engine that an earlier daemon had started."""
        unread = self._log.lines  # what it printed while no daemon listened comes with its finding
        self._log.begin(f"taken over by warmd process {os.getpid()}: engine process {pid}")
        self._log.forget()
        for line in unread:
            self._log.line(line)
        self._report_trouble()

    def log(self, line: str) -> None:
        """Keep a line of the engine's output."""
        had = self._log.trouble
        self._log.line(line)
        if self._sizes is not None:
            self._sizes.line(line)
            self._compiled.line(line)
        if had is None:
            self._report_trouble()

    def _report_trouble(self) -> None:
        if self._log.trouble is not None:
            self._report(self._log.trouble)

    def came_up(self) -> None:
        """Hear that it is ready: what it printed before explains no later failure."""
        self._log.forget()
        self._bound = None
        if self._sizes is not None:
            self._measured, self._sizes = self._sizes.parts, None

    @property
    def measured(self) -> MeasuredParts | None:
        """What the last start told of the engine's memory, once it is ready; None where nothing."""
        return self._measured

    @property
    def compiled_in(self) -> tuple[Path, ...]:
        """The folders of compiled code: those that its last start named, and those it was given."""
        return (*map(Path, self._compiled.folders), *self._recipe.compiled_in)

    def ended(self, *, failed: bool) -> None:
        """Let go of the log's file; what bound a start that was called off is in no doubt."""
        if not failed:
            self._bound = None
        self._log.close()

    def cause(self, ending: str) -> Cause:
        """Say from its log, without its secrets, why an engine that `ending` failed."""
        by_vram, log = self._binder is not None, self._recipe.home.log_named
        secrets = self._recipe.secrets
        # Before anything is cut short: half a secret would not be known for one.
        lines = [_without(secrets, line) for line in self._log.lines]
        cause = failure_cause(lines, ending, log, by_vram=by_vram)
        # The next start goes without what warmd itself has added.
        added = self._bound is not None and self._bound.kv_cache is not None
        return replace(cause, for_good=cause.for_good and not added)

    def fingerprint(self) -> str:
        """Name everything that makes the engine what it is."""
        return self._recipe.fingerprint(self._source)

    def note(self, record: Mapping[str, object]) -> None:
        """Write down what a later daemon must know of the engine."""
        try:
            write_note(self._recipe.home.note, record)
        except OSError as error:
            if not self._note_lost:
                self._report(
                    f"{self._recipe.home.note} can't be written ({error.strerror}): a later warmd "
                    f"will stop {self._replica} instead of taking it over"
                )
            self._note_lost = True
        else:
            self._note_lost = False

    def noted(self) -> Mapping[str, object] | None:
        """Return what was written down; None where there is nothing, or nothing sound."""
        return read_note(self._recipe.home.note)

    def connect(self) -> VllmConnection:
        """Return the way to the engine; nothing is sent yet."""
        return VllmConnection(EngineClient(self._recipe.home.socket), self._question, self._aim)


def _without(secrets: Iterable[str], line: str) -> str:
    for secret in secrets:
        line = line.replace(secret, "********")
    return line
