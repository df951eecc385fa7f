"""The sets of files that belong in RAM, in the order in which they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from warmd.ladder import FileKind, Phase, Rung, set_key
from warmd.planner.facts import ModelFacts, Scene, StagingFacts
from warmd.policy import Rank

SERVES_S = 10.0
"""So long after its last request a model counts as serving: the next one may be on its way."""


@dataclass(frozen=True)
class FileSet:
    """One set, and whose it is: one model's, or program files that several share.

    `models` come in the order of their need, the most urgent first.
    """

    key: str
    kind: FileKind
    staging: StagingFacts
    models: Sequence[ModelFacts]

    @property
    def words(self) -> str:
        """The set for people: `the weights of qwen3-32b`."""
        if self.kind is FileKind.PROGRAM:
            return "the engine's program files"
        return f"the {self.kind.words} of {self.models[0].name}"

    @property
    def its(self) -> str:
        """The set at the beginning of a sentence about its model."""
        return f"its {self.kind.words}"

    @cached_property
    def wanted(self) -> bool:
        """Whether any of its models needs it in RAM."""
        if not self.staging.total and self.kind is not FileKind.WEIGHTS:
            return False  # there is nothing yet; what is wrong with weights, staging them will say
        return any(_wants(model, self.kind) for model in self.models)

    @cached_property
    def rises(self) -> bool:
        """Whether a model that needs it is on its way up."""
        return any(_wants(model, self.kind) and rises(model) for model in self.models)

    @property
    def is_there(self) -> bool:
        """Whether it is held, as far as it shall be."""
        return self.staging.held or self.staging.partial

    def shares_a_model_with(self, other: FileSet) -> bool:
        """Whether both are needed by the same model."""
        return any(one is model for one in self.models for model in other.models)

    def is_urgent(self, *, served: bool) -> bool:
        """Whether it is brought in at full speed: for its model, or as nobody is `served` now.

        Where a rate is set, it holds for all that nobody waits for.
        """
        needy = (m for m in self.models if _wants(m, self.kind))
        free = not served and not self.staging.rated
        return free or any(m.waiting or _comes_up(m) for m in needy)

    @property
    def why(self) -> str:
        """Why it shall be in RAM."""
        return next(m for m in self.models if _wants(m, self.kind)).target.reason

    @property
    def why_not(self) -> str:
        """Why it shall no longer be in RAM."""
        if self.kind is FileKind.PROGRAM:
            return "no engine needs them to start"
        target = self.models[0].target
        return "its engines have loaded them" if target.rung >= Rung.ASLEEP else target.reason


def file_sets(scene: Scene) -> Sequence[FileSet]:
    """Return every set, the one that is needed first in front.

    Models: who is waited for, what shall be hot, what an operator asked for, what rests staged, by
    its next need: that is taken to be as far ahead as its last use is behind, unless its calendar
    knows of a nearer one. A model whose weights are larger than the whole budget comes after those
    that fit: half a model is no rung.
    Of one model: in the order in which a start needs them, where the budget has room for that.
    """
    ordered = sorted(scene.models, key=_need(scene.ram.budget))
    users: dict[str, list[ModelFacts]] = {}
    for model in ordered:
        if model.program is not None:
            users.setdefault(model.program, []).append(model)
    found: dict[str, FileSet] = {}
    for model in ordered:
        ours = [_set_of(model, FileKind.WEIGHTS, model.staging)]
        if model.caches.total:
            ours.append(_set_of(model, FileKind.CACHES, model.caches))
        program = model.program
        if program is not None and program in scene.programs and program not in found:
            shared = FileSet(program, FileKind.PROGRAM, scene.programs[program], users[program])
            # It has its turn with the first model that needs it.
            if _wants(model, FileKind.PROGRAM) or not shared.wanted:
                both = (shared.staging.total or 0) + (model.staging.total or 0)
                # Only weights make a rung: where there is no room for both, they come first.
                ours.insert(0 if both <= scene.ram.budget else len(ours), shared)
        found |= {each.key: each for each in ours}
    return tuple(found.values())


def _set_of(model: ModelFacts, kind: FileKind, staging: StagingFacts) -> FileSet:
    return FileSet(set_key(kind, model.name), kind, staging, (model,))


def is_anyone_served(scene: Scene) -> bool:
    """Whether some model answers requests at this time."""
    return any(
        any(r.in_flight for r in model.replicas)
        or (model.idle_s < SERVES_S and any(r.phase is Phase.READY for r in model.replicas))
        for model in scene.models
    )


def rises(model: ModelFacts) -> bool:
    """Whether a model is on its way up: what it needs is let go for nobody."""
    if _comes_up(model):
        return True
    up = (Phase.READY, Phase.FAILED)  # a failed one waits for an operator's word
    hot = model.target.rung is Rung.HOT
    return hot and any(r.phase not in up for r in model.firm)


def _comes_up(model: ModelFacts) -> bool:
    return any(r.launches or r.phase.is_coming_up for r in model.replicas)


_Need = tuple[bool, float, bool, bool, bool, float, float]


def _need(budget: int) -> Callable[[ModelFacts], _Need]:
    def need(model: ModelFacts) -> _Need:
        on_its_way = rises(model)
        giant = (model.staging.total or 0) > budget and not on_its_way
        waited = (not model.oldest_wait, -model.oldest_wait)
        asked = model.target.rank is Rank.OPERATOR
        next_need = min(model.needed_in, model.idle_s), model.idle_s
        return (*waited, not on_its_way, giant, not asked, *next_need)

    return need


def _wants(model: ModelFacts, kind: FileKind) -> bool:
    """Files belong in RAM from `staged` up, until every wanted engine has loaded them."""
    loaded: tuple[Phase, ...] = (Phase.READY, Phase.ADOPTING)
    if model.sleep_level == 1 or kind is not FileKind.WEIGHTS:
        # A sleeper of level 2 has dropped its weights, and reads them again when it wakes.
        loaded += (Phase.ASLEEP, Phase.WAKING, Phase.FALLING_ASLEEP)
    if model.files_due and model.target.rung > Rung.COLD:
        return True
    match model.target.rung:
        case Rung.COLD:
            return False
        case Rung.STAGED:
            return True
        case Rung.ASLEEP:
            return not all(r.phase in (*loaded, Phase.DRAINING) for r in model.wanted)
        case Rung.HOT:
            return not all(r.phase in loaded for r in model.wanted)
