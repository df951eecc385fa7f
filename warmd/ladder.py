"""The words that every room shares: rungs, phases, stages of a start, why something isn't ready.

Depends on nothing. The numbers in here end up on dashboards: they never change their meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class Rung(StrEnum):
    """How warm a replica is. Ordered: cold < staged < asleep < hot."""

    COLD = "cold"
    STAGED = "staged"
    ASLEEP = "asleep"
    HOT = "hot"

    @cached_property
    def height(self) -> int:
        """The rung's number in metrics: 0 cold, 1 staged, 2 asleep, 3 hot."""
        return _HEIGHTS[self]

    # All four: str has its own, by the alphabet, which total_ordering would leave in force.
    def __lt__(self, other: str) -> bool:
        return self.height < _height(other)

    def __le__(self, other: str) -> bool:
        return self.height <= _height(other)

    def __gt__(self, other: str) -> bool:
        return self.height > _height(other)

    def __ge__(self, other: str) -> bool:
        return self.height >= _height(other)


_HEIGHTS = {Rung.COLD: 0, Rung.STAGED: 1, Rung.ASLEEP: 2, Rung.HOT: 3}


def _height(rung: str) -> int:
    return rung.height if isinstance(rung, Rung) else Rung(rung).height


class Phase(StrEnum):
    """What the engine of a replica is doing."""

    DOWN = "down"
    STARTING = "starting"
    WARMING = "warming"  # the engine listens, its first real answer is awaited
    READY = "ready"
    DRAINING = "draining"
    FALLING_ASLEEP = "falling-asleep"
    ASLEEP = "asleep"
    WAKING = "waking"  # until a real answer and the canary's have come back
    ADOPTING = "adopting"  # an earlier daemon's engine is checked, before it is taken over
    STOPPING = "stopping"
    BACKING_OFF = "backing-off"
    FAILED = "failed"  # a crash loop was given up; an operator's word starts it again

    @property
    def words(self) -> str:
        """The phase for people: `falling asleep`."""
        return self.value.replace("-", " ")

    # Asked many times at each tick: these cost no more than a look at an attribute.

    @cached_property
    def is_coming_up(self) -> bool:
        """Whether an engine is on its way to ready."""
        return self in (Phase.STARTING, Phase.WARMING)

    @cached_property
    def holds_the_device(self) -> bool:
        """Whether an operation on the GPU is under way, beside which no other may run."""
        return self in _OPERATIONS

    @cached_property
    def is_up(self) -> bool:
        """Whether an engine process exists or is being made."""
        return self in (Phase.READY, Phase.ASLEEP, Phase.ADOPTING) or self.holds_the_device


_OPERATIONS = frozenset(
    {
        Phase.STARTING,
        Phase.WARMING,
        Phase.DRAINING,
        Phase.FALLING_ASLEEP,
        Phase.WAKING,
        Phase.STOPPING,
    }
)


class Stage(StrEnum):
    """The stages of an engine's start, in their order."""

    PROGRAM = "program"
    IMPORTS = "imports"
    WEIGHTS = "weights"
    COMPILE = "compile"
    KV_CACHE = "kv-cache"
    FIRST_ANSWER = "first-answer"

    @property
    def label(self) -> str:
        """The stage's name for people."""
        return _STAGE_LABELS[self]


_STAGE_LABELS = {
    Stage.PROGRAM: "program start",
    Stage.IMPORTS: "imports",
    Stage.WEIGHTS: "weights",
    Stage.COMPILE: "compile",
    Stage.KV_CACHE: "KV and warm-up",
    Stage.FIRST_ANSWER: "first answer",
}


@dataclass(frozen=True)
class StartTimes:
    """How long a start took, by stage, in seconds from the decision to the first real answer.

    `first_token_s`: from its warm-up request to the first token of the answer.
    """

    stages: Mapping[Stage, float]
    first_token_s: float | None = None

    @property
    def total(self) -> float:
        """Seconds from the decision to start until the first real answer."""
        return sum(self.stages.values())


@dataclass(frozen=True, slots=True)
class Standing:
    """So many `replicas` of a model stand on `rung`; their engines use `gpus`, one each at least.

    `cause`: what its target rests on, in a word; `highest`: none of its replicas stands higher.
    """

    model: str
    rung: Rung
    cause: str
    replicas: int
    gpus: int
    highest: bool


@dataclass(frozen=True)
class FilesAtStart:
    """How much of a set of files was in RAM as a start began, and when it got ready; bytes.

    None where nobody could tell; `held`: a process kept them there as it began.
    """

    total: int
    began: int | None = None
    ready: int | None = None
    held: bool = False


@dataclass(frozen=True)
class WakeTimes:
    """How long a wake took, in seconds: the engine's own part, the warm-up, the canary.

    `first_token_s`: from its warm-up request to the first token of the answer.
    """

    engine: float
    first_answer: float
    canary: float
    first_token_s: float | None = None

    @property
    def total(self) -> float:
        """Seconds from the order to wake until requests may come."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, float]:
        """Its seconds by part."""
        return {
            "engine": self.engine,
            "first_answer": self.first_answer,
            "canary": self.canary,
        }


@dataclass(frozen=True)
class SleepFigures:
    """What sleep costs and gives for one engine configuration, as it was measured.

    Times are seconds, sizes bytes; None where it could not be measured.
    """

    first_sleep_s: float  # the first sleep takes the host RAM, and is the slow one
    wake_s: float
    host_ram: int | None  # held while asleep
    device_kept: int | None  # of the GPU's memory, still held while asleep


@dataclass(frozen=True)
class MeasuredParts:
    """What one engine took of each GPU, as its start told; bytes, None where it told nothing.

    `kv_tokens` is how many tokens `kv_cache` holds. `other` is what vLLM calls non-torch memory.
    `held` is what its processes held of a GPU once it was ready, by the driver's word.
    """

    version: str  # vLLM's
    weights: int | None = None
    kv_cache: int | None = None
    kv_tokens: int | None = None
    activation: int | None = None
    graphs: int | None = None
    other: int | None = None
    held: int | None = None


class FileKind(StrEnum):
    """What of a model is held in RAM, in the order in which a start needs it."""

    PROGRAM = "program"  # the engine's own files, shared by all models of one environment
    WEIGHTS = "weights"
    CACHES = "compile-cache"

    @property
    def words(self) -> str:
        """The kind for people, in the middle of a sentence."""
        return _KIND_WORDS[self]


_KIND_WORDS = {
    FileKind.PROGRAM: "program files",
    FileKind.WEIGHTS: "weights",
    FileKind.CACHES: "compile caches",
}


class Place(StrEnum):
    """Where a set of files is held."""

    PAGE_CACHE = "page-cache"
    LOCKED = "locked"  # page cache that nothing can evict, mlock(2)
    TMPFS = "tmpfs"


def set_key(kind: FileKind, owner: str) -> str:
    """Name the set of an owner's files of one kind: `weights:qwen3-32b`."""
    return f"{kind.value}:{owner}"


HOST = "host"
"""The key of the host's memory, where it is the device."""


class VramBy(StrEnum):
    """Who says how much VRAM an engine takes."""

    DECLARED = "declared"
    ESTIMATED = "estimated"
    MEASURED = "measured"
    LEFT = "left"

    @property
    def words(self) -> str:
        """The end of a sentence that begins with the figure."""
        return _VRAM_WORDS[self]


_VRAM_WORDS = {
    VramBy.DECLARED: "as declared",
    VramBy.ESTIMATED: "as estimated from its files",
    VramBy.MEASURED: "as estimated from its files and measured at earlier starts",
    VramBy.LEFT: "what is left there for vLLM, as it states neither pool nor vram",
}


def share_a_card(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether engines on these cards may meet: one whose cards aren't told may use any."""
    return not one or not other or not one.isdisjoint(other)


def replica_name(model: str, index: int) -> str:
    """Name the `index`-th engine of `model`: `qwen3-32b.0`."""
    return f"{model}.{index}"


class NotReadyError(Exception):
    """A model can't answer within the time that the request may wait.

    `reason` is a whole sentence for the person who waits; `retry_after_s` is an honest estimate in
    seconds, from measured start times where there are any; None where no time makes it ready.
    """

    def __init__(self, model: str, reason: str, retry_after_s: int | None) -> None:
        super().__init__(reason)
        self.model = model
        self.reason = reason
        self.retry_after_s = retry_after_s


class QueueFullError(Exception):
    """As many requests wait for a model as may.

    `reason` is a whole sentence for the person who asks; `retry_after_s`: seconds, an estimate.
    """

    def __init__(self, model: str, reason: str, retry_after_s: int) -> None:
        super().__init__(reason)
        self.model = model
        self.reason = reason
        self.retry_after_s = retry_after_s
