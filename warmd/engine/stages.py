"""Which stage an engine's start is in, from the lines that it prints. Pure.

Written against the log lines of vLLM 0.26 to 0.33. A stamp is a line's arrival in seconds of
`time.monotonic()`: the log's own clock has whole seconds only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from warmd.ladder import Stage, StartTimes


class _Mark(Enum):
    LOADING = auto()
    LOADED = auto()
    COMPILING = auto()
    COMPILED = auto()
    KV_CACHE = auto()
    UP = auto()


# Both the GPU's lines and the CPU's.
_MARKS = {
    _Mark.LOADED: ("Model loading took ", "Loading weights took "),
    _Mark.LOADING: (
        "Starting to load model ",
        "Loading model from scratch",
        "Loading safetensors checkpoint shards:",
    ),
    _Mark.COMPILED: (
        r"torch\.compile (?:takes|took|and initial profiling)",
        "saved AOT compiled function",
        r"Warming up done\.",
    ),
    _Mark.COMPILING: (
        r"Starting torch\.compile",
        r"Using cache directory: .* for vLLM's torch\.compile",
        "Dynamo bytecode transform time",
        "Compiling a graph for",
        "Cache the graph of",
        "Directly load (?:AOT compilation|the compiled graph)",
        "Warming up model for the compilation",
    ),
    _Mark.KV_CACHE: (
        "Available KV cache memory:",
        "KV cache size: ",
        r"Explicitly set \(.*for KV cache",
        "Capturing CUDA graphs",
        "Graph capturing finished",
        r"init engine \(profile",
        "Starting vLLM (?:API )?server ",
    ),
    _Mark.UP: ("Application startup complete",),
}
_MARK = re.compile(
    "|".join(f"(?P<{mark.name}>{'|'.join(patterns)})" for mark, patterns in _MARKS.items())
)
_FILES = re.compile(r"Completed \| (\d+)/(\d+)")
_CONFIG_LINE = "Initializing a V1 LLM engine"
_NO_COMPILE = re.compile(r"enforce_eager=True|'mode': <CompilationMode\.NONE")
_ORDER = tuple(Stage)


@dataclass(frozen=True)
class _Begun:
    at: float
    seen: bool  # False: only inferred from the end of the stage before


class StartTracker:
    """Follows one start, from the decision to the first real answer. It never goes back a stage."""

    def __init__(self, decided_at: float) -> None:
        self._begun = {Stage.PROGRAM: _Begun(decided_at, seen=True)}
        self._latest = decided_at
        self._stage = Stage.PROGRAM
        self._compiles = True
        self._ready_at: float | None = None
        self.percent: int | None = None  # how far the stage has come, where the engine tells

    @property
    def stage(self) -> Stage | None:
        """What the engine does now; None once it is ready."""
        return None if self._ready_at is not None else self._stage

    @property
    def is_listening(self) -> bool:
        """Whether the engine's server is up."""
        return self._stage is Stage.FIRST_ANSWER

    def exec(self, at: float) -> None:
        """Take note that the program was exec'ed."""
        begun = self._begun.get(Stage.IMPORTS)
        if begun is not None and self._begun[Stage.PROGRAM].at <= at < begun.at:
            # The engine's first line was quicker than the word of its exec.
            self._begun[Stage.IMPORTS] = _Begun(at, seen=True)
        else:
            self._begin(Stage.IMPORTS, self._clock(at))

    def line(self, at: float, text: str) -> None:
        """Take one line of the engine's output; a line that says nothing is fine."""
        if self.is_listening or self._ready_at is not None:
            return
        at = self._clock(at)
        if self._stage is Stage.PROGRAM:
            self._begin(Stage.IMPORTS, at)
        if _CONFIG_LINE in text:
            self._compiles = _NO_COMPILE.search(text) is None
        found = _MARK.search(text)
        if found is None or found.lastgroup is None:
            return
        match _Mark[found.lastgroup]:
            case _Mark.LOADING:
                self._begin(Stage.WEIGHTS, at)
                self._count_files(text)
            case _Mark.LOADED:
                self._begin(Stage.WEIGHTS, at)
                self._infer(Stage.COMPILE if self._compiles else Stage.KV_CACHE, at)
            case _Mark.COMPILING:
                self._see(Stage.COMPILE, at)
            case _Mark.COMPILED:
                self._see(Stage.COMPILE, at)
                self._infer(Stage.KV_CACHE, at)
            case _Mark.KV_CACHE:
                self._see(Stage.KV_CACHE, at)
            case _Mark.UP:
                self.listening(at)

    def _count_files(self, text: str) -> None:
        counted = _FILES.search(text)
        if counted is None or self._stage is not Stage.WEIGHTS:
            return
        done, files = map(int, counted.groups())
        if files > 1:  # of a single one the bar tells its begin and its end alone
            self.percent = 100 * done // files

    def listening(self, at: float) -> None:
        """Take note that the engine's server answers, by its log or by a request."""
        self._begin(Stage.FIRST_ANSWER, self._clock(at))

    def ready(self, at: float) -> StartTimes:
        """Take note of the first real answer and return the whole account.

        The stages add up to the time from the decision to `at`.
        """
        at = self._clock(at)
        self.listening(at)
        self._ready_at = at
        return StartTimes(self.so_far(at))

    def so_far(self, now: float) -> dict[Stage, float]:
        """Seconds spent in each stage until `now`; a stage that never happened is absent."""
        end = self._ready_at if self._ready_at is not None else max(now, self._latest)
        starts = self._starts()
        ends = [at for _, at in starts[1:]] + [end]
        return {stage: until - at for (stage, at), until in zip(starts, ends, strict=True)}

    def _starts(self) -> list[tuple[Stage, float]]:
        begun = dict(self._begun)
        compiling = begun.get(Stage.COMPILE)
        later = Stage.KV_CACHE if Stage.KV_CACHE in begun else Stage.FIRST_ANSWER
        if compiling is not None and not compiling.seen and later in begun:
            # Nothing was compiled after all: the time went into what came next.
            del begun[Stage.COMPILE]
            begun[Stage.KV_CACHE] = compiling
        return [(stage, begun[stage].at) for stage in _ORDER if stage in begun]

    def _clock(self, at: float) -> float:
        self._latest = max(self._latest, at)
        return self._latest

    def _begin(self, stage: Stage, at: float) -> None:
        if _ORDER.index(stage) > _ORDER.index(self._stage):
            self._begun[stage] = _Begun(at, seen=True)
            self._stage = stage
            self.percent = None

    def _see(self, stage: Stage, at: float) -> None:
        """`stage` surely runs; where its start was inferred, that start stands."""
        begun = self._begun.get(stage)
        if begun is None:
            self._begin(stage, at)
        elif not begun.seen:
            self._begun[stage] = _Begun(begun.at, seen=True)

    def _infer(self, stage: Stage, at: float) -> None:
        """The stage before ended, for one worker at least; the last one's word counts."""
        begun = self._begun.get(stage)
        if begun is None:
            self._begin(stage, at)
            if self._begun.get(stage) is not None:
                self._begun[stage] = _Begun(at, seen=False)
        elif not begun.seen:
            self._begun[stage] = _Begun(at, seen=False)
