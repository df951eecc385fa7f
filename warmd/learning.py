"""What the start of an engine teaches: its program files, and where its compiled code is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from warmd.aside import aside
from warmd.ladder import FileKind
from warmd.staging import StagingError, is_known, learn_program, remember_caches

QUIET_S = 3.0
"""How long after an engine got ready its files are looked at: who waited for it comes first."""


class Learner:
    """Keeps what starts have taught, for the next ones."""

    def __init__(
        self,
        state_dir: Path,
        report: Callable[[str], None],
        learnt: Callable[[str, FileKind], None],
        quiet_s: float = QUIET_S,
    ) -> None:
        """`report` is told, in a sentence, what could not be kept; `learnt`, what is new."""
        self._state_dir = state_dir
        self._report = report
        self._learnt = learnt
        self._quiet_s = quiet_s
        self._one = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def came_up(
        self, model: str, pid: int, python: Path, compiled_in: Iterable[Path], apart: Iterable[Path]
    ) -> None:
        """Learn from an engine that is ready, of which `pid` is the first process.

        `compiled_in`: folders of its compiled code; `apart`: those that hold no program.
        """
        for work in (
            self._caches(model, tuple(compiled_in)),
            self._program(model, pid, python, tuple(apart)),
        ):
            task = asyncio.create_task(work, name=f"learn from {model}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Learn nothing more."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _caches(self, model: str, folders: tuple[Path, ...]) -> None:
        try:
            if folders:
                await aside(partial(remember_caches, self._state_dir, model, folders))
        except OSError as error:
            where, why = self._state_dir, error.strerror
            self._report(f"{model}: where its compiled code is can't be kept in {where}: {why}")
        self._learnt(model, FileKind.CACHES)

    async def _program(self, model: str, pid: int, python: Path, apart: tuple[Path, ...]) -> None:
        await asyncio.sleep(self._quiet_s)
        async with self._one:
            if await aside(partial(is_known, self._state_dir, python)):
                return
            try:
                found = await learn_program(self._state_dir, python, [pid], apart)
            except StagingError as error:
                self._report(f"{model}: {error}")
                return
            if found is None:
                return
            if found.trouble is not None:
                self._report(f"{model}: {found.trouble}")
        self._learnt(model, FileKind.PROGRAM)
