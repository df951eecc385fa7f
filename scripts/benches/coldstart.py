"""Cold starts of the real vLLM on the CPU, with nothing, weights or everything in RAM, by stage.

The model has about 3 GB of random weights; it is made once and kept in the folder, and so is what
vLLM compiles. First an engine is started that isn't measured: it compiles, and warmd learns from it
what a start reads. Then each way has a daemon of its own. Before each start the page cache is
emptied of all that no process holds, so what a way has staged is what stays.

    nothing     [ram] staging = 0
    weights     a daemon that knows of no start yet has staged the weights
    everything  one that knows of the first start has staged program files, weights and caches

The stages are warmd's own: from the decision to the first real answer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench_rig import HERE, BenchError, Daemon, a_folder
from disk_files import empty
from report import Table, Value

from warmd.ladder import FileKind, Stage
from warmd.spoken import count

GB = 3
_ROOT = HERE.parents[1]
_PYTHON = _ROOT / ".venv-engine" / "bin" / "python"
_MAKE = _ROOT / "scripts" / "make-tiny-model"
_PATIENCE_S = 600.0
_ARGS = ("--max-model-len", "256", "--max-num-batched-tokens", "256", "--max-num-seqs", "4")
_MODEL = "m"
_NOTES = (
    f"the real vLLM on the CPU, a Llama of {GB} GB with random weights: {' '.join(_ARGS)}",
    "what warmd holds stays in RAM as the rest is dropped; -: the daemon knows of no such files",
)


@dataclass(frozen=True)
class _Way:
    """`staging` is the budget in RAM; `knows`: the daemon knows of the first start."""

    staging: str
    knows: bool


_WAYS = {
    "nothing": _Way("0B", knows=False),
    "weights": _Way("60%", knows=False),
    "everything": _Way("60%", knows=True),
}


@dataclass(frozen=True)
class _Scene:
    """Where all of it lives. `kept` outlives the run."""

    python: Path
    model: Path
    kept: Path
    learnt: Path


@dataclass(frozen=True)
class _Start:
    """One start: seconds by stage, and of each kind of files the share in RAM as it began."""

    stages: dict[str, float]
    in_ram: dict[str, float]


def run(seconds: float, folder: Path) -> Sequence[Table]:
    """Start the engine each way, again and again for about `seconds`, but once at least."""
    python = Path(os.environ.get("WARMD_TEST_ENGINE_PYTHON", _PYTHON))
    if not python.exists():
        raise BenchError(f"there is no engine at {python}: make it with scripts/engine-env")
    model = folder / f"llama-{GB}gb"
    _make(python, model)
    with a_folder() as learnt:
        kept = folder / "coldstart"
        kept.mkdir(exist_ok=True)
        scene = _Scene(python, model, kept, learnt)
        how = _learn(scene)
        began = time.monotonic()
        took: dict[str, list[_Start]] = {name: [] for name in _WAYS}
        rounds = 0
        while not rounds or (time.monotonic() - began) * (rounds + 1) / rounds < seconds:
            for name, way in _WAYS.items():
                took[name].append(_start(scene, way))
            rounds += 1
    return [
        _table(took, (f"{count(rounds, 'round')}, medians", *_NOTES, f"before each start: {how}"))
    ]


def _table(took: dict[str, list[_Start]], notes: Sequence[str]) -> Table:
    columns = list(took)
    rows: dict[str, Sequence[Value]] = {}
    for stage in Stage:
        rows[stage.label] = [
            median(start.stages.get(stage.value, 0.0) for start in took[name]) for name in columns
        ]
    rows["in all, s"] = [
        median(sum(start.stages.values()) for start in took[name]) for name in columns
    ]
    for kind in FileKind:
        shares = {name: [s.in_ram[kind] for s in took[name] if kind in s.in_ram] for name in took}
        rows[f"in RAM as it began: {kind.words}, %"] = [
            100 * median(each) if each else None for each in shares.values()
        ]
    return Table("coldstart: seconds by stage, with staged:", columns, rows, notes)


def _learn(scene: _Scene) -> str:
    """Start an engine, and wait until the daemon has learnt of it; return how RAM is emptied."""
    with _a_daemon(scene, _Way("60%", knows=True)) as daemon:
        daemon.control("POST", "/set", {"model": _MODEL, "rung": "hot"})
        model = _until(lambda: _hot(daemon.status(_MODEL)), daemon, "its engine is ready")
        took = sum(model["replicas"][0]["last_start"].values())
        print(f"coldstart: the first start took {took:.0f} s", file=sys.stderr, flush=True)
        _until(
            lambda: all(each["total"] for each in daemon.status(_MODEL)["staged"]),
            daemon,
            "what a start reads is learnt",
        )
    return empty(_files(scene))


def _start(scene: _Scene, way: _Way) -> _Start:
    with _a_daemon(scene, way) as daemon:
        if way.staging != "0B":
            daemon.control("POST", "/set", {"model": _MODEL, "rung": "staged"})
            _until(lambda: _is_staged(daemon.status(_MODEL)), daemon, "its files are staged")
        empty(_files(scene))
        daemon.control("POST", "/set", {"model": _MODEL, "rung": "hot"})
        model = _until(lambda: _hot(daemon.status(_MODEL)), daemon, "its engine is ready")
        told = _until(lambda: _told(daemon), daemon, "its start is written down")
        return _Start(
            model["replicas"][0]["last_start"],
            {
                kind: each["began"] / each["total"]
                for kind, each in told["files"].items()
                if each["began"] is not None and each["total"]
            },
        )


def _is_staged(model: Any) -> bool:
    if model["rung"] != "staged":
        return False
    return all(each["held"] or not each["total"] for each in model["staged"])


def _hot(model: Any) -> Any:
    replica = model["replicas"][0]
    if replica["phase"] in ("failed", "backing-off"):
        raise BenchError(f"the engine doesn't start: {replica['reason']}")
    return replica["phase"] == "ready" and model


def _told(daemon: Daemon) -> Any:
    history = daemon.control("GET", "/history")["models"].get(_MODEL, {})
    starts = history.get("last_starts", ())
    return starts[0] if starts and starts[0]["files"] else None


@contextmanager
def _a_daemon(scene: _Scene, way: _Way) -> Iterator[Daemon]:
    flags = ", ".join(f'"{flag}"' for flag in _ARGS)
    config = f"""
env = {{ VLLM_CPU_KVCACHE_SPACE = "1" }}
[ram]
staging = "{way.staging}"
[models.{_MODEL}]
weights = "{scene.model}"
resting = "cold"
args = [{flags}]
"""
    with a_folder() as folder:
        # One path for all: what is compiled has the model's path in its key.
        state = scene.learnt if way.knows else None
        daemon = Daemon(folder, {}, scene.python, config, None, state=state, cache=scene.kept)
        try:
            daemon.begin()
            daemon.wait_until_it_serves()
            yield daemon
        finally:
            daemon.stop()


def _files(scene: _Scene) -> Iterator[Path]:
    """Everything that a start may read, for who can't empty the whole page cache."""
    for folder in (scene.python.parents[1], scene.model, scene.kept):
        yield from (path for path in folder.rglob("*") if path.is_file())


def _until(what: Callable[[], Any], daemon: Daemon, doing: str) -> Any:
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.2)
    raise BenchError(f"not within {_PATIENCE_S:g} s: {doing}; the daemon's log: {daemon.log}")


def _make(python: Path, model: Path) -> None:
    done = subprocess.run(
        [str(python), str(_MAKE), str(model), str(GB)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"the model could not be made: {done.stderr.strip()[-500:]}")
