"""What is held in RAM: every set of files by its key, and which models need it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf

from warmd.ladder import FileKind, Place
from warmd.planner import LookAtFiles, PaceFiles, ReleaseFiles, StageFiles, StagingFacts
from warmd.spoken import size
from warmd.staged import SHORT_S, StagedFiles, StagedListener, StagedState
from warmd.supervisor.model import Managed, staging_facts
from warmd.supervisor.ports import Build
from warmd.supervisor.teller import Teller
from warmd.supervisor.terms import FileTerms

_RATES = 10
"""So many measured stagings say how fast the disk is."""

_WORTH_MEASURING = 64 * 2**20
"""Bytes below which a staging says nothing of a disk."""

_OWN_S = 30.0
"""So long after its end an engine may take to share what it compiled (`ExecStopPost=` of its unit).

Before that it is its own, and that nobody else may read it is no trouble to be told.
"""


@dataclass(frozen=True)
class Held:
    """Bytes of RAM that files have taken; `gone`: those that the kernel counts as used."""

    taken: int
    gone: int


class Shelf(StagedListener):
    """Every set of files that is needed, or still held."""

    def __init__(
        self,
        build: Build,
        models: Mapping[str, Managed],
        teller: Teller,
        changed: Callable[[], None],
        why: Callable[[Managed], str],
    ) -> None:
        """`models` are those of the supervisor; `changed` makes it look at the facts again.

        `why` says why a model shall be what it shall be at this moment.
        """
        self._build = build
        self._models = models
        self._teller = teller
        self._changed = changed
        self._why = why
        self._sets: dict[str, StagedFiles] = {}
        self._terms: dict[str, FileTerms] = {}
        self.why_not: Mapping[str, str] = {}  # by key: why a set isn't brought in
        self._giants: set[str] = set()  # models that are told to be too large
        self.budget: float = inf  # bytes of files that may be in RAM, as last heard
        self._rates: list[float] = []  # bytes per second
        self._doubted: set[str] = set()  # compile caches whose trouble may pass

    def fit(self, terms: Iterable[FileTerms]) -> dict[FileKind, StagedFiles]:
        """Return a model's sets by kind, made or fitted to what the config says of them now."""
        found = {}
        for each in terms:
            staged = self._sets.get(each.key)
            if staged is None:
                staged = self._sets[each.key] = self._build.staged(each)
                staged.begin_look()
            elif self._terms[each.key] != each:
                staged.refit(self._build.scan(each))
            else:
                staged.forgive()
            self._terms[each.key] = each
            found[each.kind] = staged
        return found

    def drop_unused(self) -> None:
        """Forget the sets that no model has any more, once nothing of them is held."""
        used = {staged.key for model in self._models.values() for staged in model.sets.values()}
        for key in [key for key in self._sets if key not in used]:
            if self._sets[key].state.taken:
                self._sets[key].begin_release("no model needs it any more")
            else:
                del self._sets[key], self._terms[key]

    async def clear(self, reason: str, *, leave: bool) -> None:
        """Let all go, or where `leave` leave it to the next daemon; return when that is done."""
        for staged in self._sets.values():
            if leave:
                staged.begin_leaving()
            else:
                staged.begin_release(reason)
        for staged in tuple(self._sets.values()):
            await staged.ended()

    @property
    def held(self) -> Held:
        """What sets have taken of RAM at this moment, those that an earlier daemon left too."""
        sets = {key: s.state for key, s in self._sets.items() if s.state.taken}
        left = [each for key, each in self._build.left().items() if key not in sets]
        return Held(
            sum(s.taken for s in sets.values()) + sum(each.taken for each in left),
            sum(s.gone for s in sets.values()) + sum(each.gone for each in left),
        )

    def heed(self, why_not: Mapping[str, str], budget: int) -> None:
        """Take in why sets aren't brought in; what is larger than the `budget` is told once."""
        self.why_not, self.budget = why_not, budget
        self._giants &= self._models.keys()
        for name, model in self._models.items():
            total = model.staged.state.total or 0
            if total <= budget or not budget:  # with none, that is what the config asks for
                self._giants.discard(name)
            elif model.staged.key in why_not and name not in self._giants:
                self._giants.add(name)
                follows = "are held as far as they fit; raise ram.staging, or it stays cold"
                if self._terms[model.staged.key].place is Place.TMPFS:
                    if model.staged.state.problem is not None:
                        continue  # that is told
                    follows = (
                        "none of them is staged, for a part of a model is no use in a tmpfs; raise "
                        'ram.staging, or set `stage = "page-cache"` for it'
                    )
                sentence = (
                    f"its weights ({size(total)}) are larger than ram.staging ({size(budget)}), "
                    f"and {follows}"
                )
                self._teller.tell_staging(model, FileKind.WEIGHTS, sentence)

    @property
    def disk_rate(self) -> float | None:
        """Bytes per second at which files came into RAM, the slowest of late; None: unmeasured.

        What was in the page cache already comes faster than any disk reads.
        """
        return min(self._rates, default=None)

    def programs(self) -> dict[str, StagingFacts]:
        """Return the facts of each set of program files."""
        return {
            key: staging_facts(staged)
            for key, staged in self._sets.items()
            if staged.kind is FileKind.PROGRAM
        }

    def begin(self, action: StageFiles | ReleaseFiles | PaceFiles | LookAtFiles) -> None:
        """Carry out what a plan says of a set."""
        match action:
            case StageFiles(key=key, reason=reason, limit=limit, urgent=urgent):
                self._sets[key].begin_stage(reason, urgent=urgent, limit=limit)
            case ReleaseFiles(key=key, reason=reason, short=short):
                self._sets[key].begin_release(reason, pause_s=SHORT_S if short else None)
            case PaceFiles(key=key, urgent=urgent):
                self._sets[key].pace(urgent=urgent)
            case LookAtFiles(key=key):
                self._sets[key].look_again()

    # What files tell

    def staged_changed(self, staged: StagedFiles, old: StagedState, new: StagedState) -> None:
        """Hear that a set of files came or went."""
        models = self._models_with(staged)
        told = {None, old.problem, staged.pushed}
        if models and new.problem not in told and not self._is_told_giant(models[0], staged):
            self._tell(models[0], staged, new.problem or "")
        if models and old.busy and not new.busy and new.took is not None:
            self._teller.tell_staged(models[0], staged.kind, new.took, new.done)
            if new.done >= _WORTH_MEASURING and new.took > 0:
                self._rates = [*self._rates, new.done / new.took][-_RATES:]
        for model in models:
            # Why it was begun may have passed meanwhile.
            came = new.held and old.busy
            reason = self._why(model) if came else new.reason.removeprefix(f"{model.name}: ")
            self._teller.tell_rungs(model, reason, None)
            if new.refused:
                for woken in model.waiting:
                    woken.set()  # they wait in vain
        self._changed()

    def _tell(self, model: Managed, staged: StagedFiles, problem: str) -> None:
        if staged.kind is not FileKind.CACHES:
            self._teller.tell_staging(model, staged.kind, problem)
        elif staged.key not in self._doubted:
            self._doubted.add(staged.key)
            self._tell_later(staged, problem, was_up=False)

    def _tell_later(self, staged: StagedFiles, problem: str, *, was_up: bool) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(_OWN_S, lambda: self._tell_if_it_lasts(staged, problem, was_up=was_up))

    def _tell_if_it_lasts(self, staged: StagedFiles, problem: str, *, was_up: bool) -> None:
        models = self._models_with(staged)
        is_up = any(each.state.phase.is_up for model in models for each in model.replicas)
        still = staged.state.problem
        if models and still is not None and (is_up or was_up):
            self._tell_later(staged, still, was_up=is_up)
            return
        self._doubted.discard(staged.key)
        if models and still == problem:
            self._teller.tell_staging(models[0], staged.kind, problem)

    def staging_evicted(self, staged: StagedFiles, sentence: str) -> None:
        """Hear what pushed files out of RAM."""
        for model in self._models_with(staged)[:1]:
            self._teller.tell_eviction(model, staged.kind, sentence)

    def learnt(self, model: str, kind: FileKind) -> None:
        """Hear that there is more to know of a model's files."""
        if model in self._models and kind in (sets := self._models[model].sets):
            sets[kind].begin_look()

    def _is_told_giant(self, model: Managed, staged: StagedFiles) -> bool:
        """Whether it was told already that nothing of a set can be in its tmpfs."""
        in_tmpfs = self._terms[staged.key].place is Place.TMPFS
        return in_tmpfs and model.name in self._giants

    def _models_with(self, staged: StagedFiles) -> list[Managed]:
        """The models that need a set; none where it was forgotten meanwhile."""
        return [m for m in self._models.values() if m.sets.get(staged.kind) is staged]
