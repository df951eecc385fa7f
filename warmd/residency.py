"""What of each set of files is in RAM at this moment: asked of the kernel, never remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from warmd.aside import Shared
from warmd.ladder import FileKind, FilesAtStart, Place
from warmd.staged import StagedFiles
from warmd.staging.look import Measured, measure
from warmd.supervisor import Managed

WITHIN_S = 5.0
"""A disk that doesn't answer for so long hangs."""

_AT_A_TIME = 8

_EXEC_S = 0.05
"""So long after a start was decided its program runs, and what is measured slows nothing down."""


@dataclass(frozen=True)
class KnownSet:
    """A set of files as the daemon knows it; sizes in bytes.

    `models` need it: program files are shared. `state` is `held`, `staging`, `partial` (a part is
    held) or `not held`; `held`: what a process keeps in RAM; `files` are None where they have not
    been looked for yet.
    """

    key: str
    models: tuple[str, ...]
    kind: FileKind
    files: tuple[Path, ...] | None
    state: str = "not held"
    held: int = 0
    place: str = "page-cache"
    problem: str | None = None


@dataclass(frozen=True)
class SetInRam:
    """A known set, and what was measured of it; None where its files are not known yet."""

    known: KnownSet
    measured: Measured | None


class Residency:
    """Measures in threads: a set at a time by one thread only, however often it is asked for."""

    def __init__(self, sets: Callable[[], Sequence[KnownSet]]) -> None:
        """`sets` tells what there is at the moment."""
        self._sets = sets
        self._looks: dict[str, Shared[Measured]] = {}
        self._at_a_time = asyncio.Semaphore(_AT_A_TIME)

    def known(self, model: str | None = None) -> list[KnownSet]:
        """Return all sets, or those that `model` needs, as the daemon knows them."""
        return [each for each in self._sets() if model is None or model in each.models]

    async def measure(self, model: str | None = None) -> list[SetInRam]:
        """Measure all sets, or those that `model` needs; a disk that hangs is said to hang."""
        sets = self.known(model)
        if model is None:
            kept = {each.key for each in sets}
            self._looks = {key: look for key, look in self._looks.items() if key in kept}
        return list(await asyncio.gather(*(self._measured(each) for each in sets)))

    async def _measured(self, known: KnownSet) -> SetInRam:
        if known.files is None:
            return SetInRam(known, None)
        look = self._looks.setdefault(known.key, Shared())
        async with self._at_a_time:
            try:
                found = await look(partial(measure, known.files), WITHIN_S)
            except TimeoutError:
                found = Measured(
                    resident=None,
                    trouble=f"its files haven't answered for {WITHIN_S:g} s: look at their disk or "
                    "network mount",
                )
        return SetInRam(known, found)


def known_sets(models: Iterable[Managed]) -> list[KnownSet]:
    """Return every set that `models` need, each once, with the models that need it."""
    users: dict[str, list[str]] = {}
    sets: dict[str, StagedFiles] = {}
    for model in models:
        for kind in (kind for kind in FileKind if kind in model.sets):
            staged = model.sets[kind]
            sets[staged.key] = staged
            users.setdefault(staged.key, []).append(model.name)
    return [_known(staged, tuple(users[key])) for key, staged in sets.items()]


def residency_of(
    models: Callable[[], Mapping[str, Managed]], history: Keeps
) -> tuple[Residency, StartFiles]:
    """Make what measures the files of `models`, also at their starts, which `history` keeps."""
    residency = Residency(lambda: known_sets(models().values()))
    return residency, StartFiles(residency, history)


def _known(staged: StagedFiles, models: tuple[str, ...]) -> KnownSet:
    state = staged.state
    word = "staging" if state.busy else "held" if state.held else "partial" if state.partial else ""
    # As long as there is no copy, what is measured are the files that it is made of.
    has_no_copy = state.place is Place.TMPFS and not state.held
    place = Place.PAGE_CACHE if has_no_copy else state.place
    return KnownSet(
        staged.key,
        models,
        staged.kind,
        staged.held_files if state.held else staged.files,
        word or "not held",
        state.done if state.busy else state.resident,
        place.value,
        state.problem,
    )


class Keeps(Protocol):
    """Who keeps what was seen of a start."""

    def record_start_files(
        self, replica: str, at: float, files: Mapping[str, FilesAtStart]
    ) -> None:
        """Keep it beside the start of `replica` that was written down at `at`."""


class StartFiles:
    """Sees what of a model's files is in RAM as a start begins and when it is ready."""

    def __init__(self, residency: Residency, history: Keeps) -> None:
        self._residency = residency
        self._history = history
        self._began: dict[str, asyncio.Task[list[SetInRam]]] = {}
        self._ready: set[asyncio.Task[None]] = set()

    def began(self, model: str, replica: str) -> None:
        """Look, as soon as the engine's program runs."""
        task = asyncio.create_task(self._look(model), name=f"files of {replica}")
        self._began[replica] = task

    def ready(self, model: str, replica: str, at: float) -> None:
        """Look again and keep both; `at` is the time of the start in the history."""
        began = self._began.pop(replica, None)
        if began is not None:
            task = asyncio.create_task(self._tell(model, replica, at, began))
            self._ready.add(task)
            task.add_done_callback(self._ready.discard)

    async def _look(self, model: str) -> list[SetInRam]:
        held = {each.key: each for each in self._residency.known(model)}
        await asyncio.sleep(_EXEC_S)
        found = await self._residency.measure(model)
        return [SetInRam(held.get(each.known.key, each.known), each.measured) for each in found]

    async def _tell(
        self, model: str, replica: str, at: float, began: asyncio.Task[list[SetInRam]]
    ) -> None:
        before = {each.known.kind: each for each in await began}
        told = {}
        for now in await self._residency.measure(model):
            was = before.get(now.known.kind)
            if was is None or was.measured is None or now.measured is None:
                continue
            if not (was.measured.total and now.measured.total):
                continue  # what a first start reads is known once it is over
            told[now.known.kind.value] = FilesAtStart(
                now.measured.total,
                was.measured.resident,
                now.measured.resident,
                was.known.state == "held",
            )
        if told:
            self._history.record_start_files(replica, at, told)
