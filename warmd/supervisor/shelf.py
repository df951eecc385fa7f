"""What is held in RAM: every set of files by its key, and which models need it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from warmd.ladder import FileKind
from warmd.planner import PaceFiles, ReleaseFiles, StageFiles, StagingFacts
from warmd.staged import SHORT_S, StagedFiles
from warmd.supervisor.model import FileTerms, Managed, staging_facts
from warmd.supervisor.ports import Build


@dataclass(frozen=True)
class Held:
    """Bytes of RAM that files have taken; `gone`: those that the kernel counts as used."""

    taken: int
    gone: int


class Shelf:
    """Every set of files that is needed, or still held."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._sets: dict[str, StagedFiles] = {}
        self._terms: dict[str, FileTerms] = {}
        self.why_not: Mapping[str, str] = {}  # by key: why a set isn't brought in

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
            self._terms[each.key] = each
            found[each.kind] = staged
        return found

    def drop_unused(self, models: Iterable[Managed]) -> None:
        """Forget the sets that no model has any more, once nothing of them is held."""
        used = {staged.key for model in models for staged in model.sets.values()}
        for key in [key for key in self._sets if key not in used]:
            if self._sets[key].state.taken:
                self._sets[key].begin_release("no model needs it any more")
            else:
                del self._sets[key], self._terms[key]

    def sets(self) -> tuple[StagedFiles, ...]:
        """Return every set."""
        return tuple(self._sets.values())

    @property
    def held(self) -> Held:
        """What the sets have taken of RAM at this moment."""
        states = [staged.state for staged in self._sets.values()]
        return Held(sum(s.taken for s in states), sum(s.gone for s in states))

    def programs(self) -> dict[str, StagingFacts]:
        """Return the facts of each set of program files."""
        return {
            key: staging_facts(staged.state)
            for key, staged in self._sets.items()
            if staged.kind is FileKind.PROGRAM
        }

    def begin(self, action: StageFiles | ReleaseFiles | PaceFiles) -> None:
        """Carry out what a plan says of a set."""
        match action:
            case StageFiles(key=key, reason=reason, limit=limit, urgent=urgent):
                self._sets[key].begin_stage(reason, urgent=urgent, limit=limit)
            case ReleaseFiles(key=key, reason=reason, short=short):
                self._sets[key].begin_release(reason, pause_s=SHORT_S if short else None)
            case PaceFiles(key=key, urgent=urgent):
                self._sets[key].pace(urgent=urgent)
