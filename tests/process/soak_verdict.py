"""The verdict on a soak: what is wrong with the answers, and with what is left when it is quiet."""

from __future__ import annotations

import re
import signal
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
from daemon_rig import Daemon
from soak_blows import Blow, Tree, trees
from soak_clients import Fate, Outcome
from soak_scene import FINAL, Outage, Scene

_T = TypeVar("_T")
_STEADY = ("ready", "asleep", "down")
_FILES = {"engine.log", "engine.json", "engine.sock", "rpc"}
_RSS_MORE = 24 << 20
_DESCRIPTORS_MORE = 16
_THREADS_MORE = 8  # asyncio.to_thread keeps its workers


_OUR_FAULT = re.compile(r"Traceback|please report|longer than it may|was never (retrieved|awaited)")


def judge(
    outcomes: Sequence[Outcome], blows: Sequence[Blow], outages: Sequence[Outage]
) -> Iterator[str]:
    """Tell each answer that nothing excuses."""
    for outcome in outcomes:
        if (why := _inexcusable(outcome, blows, outages)) is not None:
            took = outcome.ended - outcome.began
            yield (
                f"a request to {outcome.model} at {outcome.began:.1f} was {outcome.fate} "
                f"after {took:.1f} s, {why}: {outcome.said}"
            )


def _inexcusable(o: Outcome, blows: Sequence[Blow], outages: Sequence[Outage]) -> str | None:
    met = [outage for outage in outages if outage.meets(o.began, o.ended)]
    match o.fate:
        case Fate.ANSWERED | Fate.LEFT | Fate.REFUSED:
            return None
        case Fate.WRONG | Fate.HUNG:
            return "which must never be"
        case Fate.NO_DAEMON:
            return None if met else "and the daemon was up"
        case Fate.RESET:
            # Asked to end, a daemon lets its requests end before.
            killed = any(outage.number is not signal.SIGTERM for outage in met)
            return None if killed else "and nobody had killed the daemon"
        case Fate.LOST | Fate.CUT if o.model == "flaky":
            return None  # in some weathers it ends by itself, under the requests of others
        case Fate.LOST | Fate.CUT:
            hit = any(
                blow.model == o.model and blow.at <= o.ended and o.began <= blow.felt_until
                for blow in blows
            )
            return None if hit else "and nobody had struck its engine"


def unsettled(status: Any) -> Iterator[str]:
    """Tell each model that isn't where it shall be in the end, or not at rest."""
    for name, model in status["models"].items():
        # Put aside by a blow, and asked for by nobody since: it rests where that left it.
        stays_aside = "since an operator set it to" in model["reason"]
        if model["target"] != FINAL[name] and not stays_aside:
            yield f"{name} shall be {model['target']}, not {FINAL[name]}: {model['reason']}"
        for replica in model["replicas"]:
            if replica["rung"] != model["target"] or replica["phase"] not in _STEADY:
                yield (
                    f"{replica['name']} is {replica['phase']} ({replica['reason']}) and shall be "
                    f"{model['target']}; held up by: {model['held_up_by']}"
                )
            if replica["in_flight"]:
                yield f"{replica['name']} has {replica['in_flight']} in flight"
        if model["waiting"]:
            yield f"{name} has {model['waiting']} waiting"


def strays(daemon: Daemon, status: Any) -> Iterator[str]:
    """Tell each process, file and segment that belongs to nothing that lives."""
    mains = {r["pid"]: r["name"] for m in status["models"].values() for r in m["replicas"]}
    found = list(trees())
    shims = {t.process.pid for t in found if t.what == "shim" and _children(t) & mains.keys()}
    forkservers = {t.process.pid for t in found if t.what == "forkserver"}
    daemon_pid = status["pid"]
    held = {
        # The program's files are one set for all models.
        (kind["kind"], None if kind["kind"] == "program" else name)
        for name, model in status["models"].items()
        for kind in model["staged"]
        if kind["held"] or kind["partial"] or kind["busy"]
    }
    ours = {daemon_pid, *shims}
    for tree in found:
        pid = tree.process.pid
        parents = _ancestors(tree)
        match tree.what:
            case "daemon":
                well = pid == daemon_pid
            case "forkserver":
                well = daemon_pid in parents or bool(_children(tree) & shims)
            case "shim":
                well = pid in shims
            case "stage keeper":
                well = sum(each.what == "stage keeper" for each in found) == 1
            case "holder":
                well = sum(each.what == "holder" for each in found) <= len(held)
            case "zombie":
                # Whoever must reap it does so at its next look, or when its last engine ends.
                well = bool(parents & (ours | forkservers))
            case "stranger":
                well = False
            case _:
                well = bool(parents & shims)
        if not well:
            yield f"process {pid} ({tree.what} of {tree.model}) is left, below {sorted(parents)}"
    known = {tree.process.pid for tree in found}
    for process in daemon.engine_processes():
        if process.pid not in known:
            yield f"process {process.pid} bears the mark of the run folder and is not ours"


def stray_files(daemon: Daemon, up: set[str]) -> Iterator[str]:
    """Tell each file in the run folder that belongs to nothing that lives; `up`: the replicas."""
    run_dir = daemon.run_dir
    allowed = {run_dir / name for name in ("warmd.lock", "control.sock", "engines", "stage.sock")}
    allowed |= {run_dir / "engines" / f"{name}.shim" for name in up}
    for folder in (run_dir / "engines").iterdir():
        if folder.is_dir():
            allowed |= {folder, *(folder / name for name in _FILES)}
    for path in run_dir.rglob("*"):
        if path not in allowed:
            yield f"{path} is left"


@dataclass(frozen=True)
class Size:
    """What a daemon takes: bytes of RAM, descriptors, threads."""

    rss: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Size:
        """Look."""
        process = psutil.Process(pid)
        return cls(process.memory_info().rss, process.num_fds(), process.num_threads())

    def grown(self, before: Size) -> Iterator[str]:
        """Tell what has become more than it may since `before`."""
        for what, now, then, more in (
            ("bytes of RAM", self.rss, before.rss, _RSS_MORE),
            ("descriptors", self.descriptors, before.descriptors, _DESCRIPTORS_MORE),
            ("threads", self.threads, before.threads, _THREADS_MORE),
        ):
            if now > then + more:
                yield f"the daemon has {now} {what} and had {then}: that is over {more} more"


def faults_in_log(log: str) -> Iterator[str]:
    """Tell what a log must never hold: our own bugs, and false alarms."""
    for line in log.splitlines():
        if _OUR_FAULT.search(line):
            yield f"the log says: {line}"


def faults_in_history(daemon: Daemon) -> Iterator[str]:
    """Tell what is wrong with the history's file."""
    for path in ("/history", *(f"/explain?model={name}" for name in FINAL)):
        if (answer := daemon.control("GET", path)).status != 200:
            yield f"{path}: {answer.status} {answer.body[:200]!r}"
    file = daemon.folder / "state" / "history.db"
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
        if (found := database.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
            yield f"{file} is damaged: {found}"
    database.close()


def faults_in_scene(scene: Scene, status: Any) -> Iterator[str]:
    """Tell everything that is left of what has ended."""
    replicas = [r for m in status["models"].values() for r in m["replicas"]]
    up = {replica["name"] for replica in replicas if replica["pid"] is not None}
    yield from strays(scene.daemon, status)
    for tree in trees():
        if tree.what == "api-server" and tree.model is not None:
            length = str(scene.lengths[tree.model])
            if length not in (command := _safely(tree.process.cmdline)):
                yield f"{tree.model} runs with other flags than {length}: {command}"
    yield from stray_files(scene.daemon, up)
    segment = Path("/dev/shm", scene.segment)
    if "deaf.0" not in up and segment.exists():
        yield f"{segment} is left"


def _children(tree: Tree) -> set[int]:
    return {child.pid for child in _safely(tree.process.children)}


def _ancestors(tree: Tree) -> set[int]:
    return {parent.pid for parent in _safely(tree.process.parents)}


def _safely(look: Callable[[], list[_T]]) -> list[_T]:
    try:
        return look()
    except psutil.Error:
        return []


def tail(file: Path, lines: int = 60) -> str:
    """Return the end of a log."""
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
