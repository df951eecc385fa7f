"""Blows of a soak: something is killed, stopped or changed, by chance, in an order that is kept."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException

import psutil
from soak_scene import DRAIN_S, HANG_S, NAMES, STOP_S, Keeper, Scene

_AFTER_A_KILL_S = 3.0
"""For so long after a kill requests may still meet what is left of an engine, on a busy host."""

_AFTER_A_STOP_S = HANG_S + DRAIN_S + STOP_S + 2.0


@dataclass(frozen=True)
class Blow:
    """What was done, to what, when (monotonic seconds), and until when requests may feel it."""

    what: str
    at: float
    target: str = ""
    model: str | None = None
    felt_until: float = 0.0


@dataclass(frozen=True)
class Tree:
    """One process of ours and what it is; `model`: whose engine it belongs to, where that shows."""

    process: psutil.Process
    what: str
    model: str | None = None


def trees() -> Iterator[Tree]:
    """Name every process below this one, which adopts the daemon's orphans."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            yield _named(process)


def _named(process: psutil.Process) -> Tree:
    name = process.name()
    if process.status() == psutil.STATUS_ZOMBIE:
        return Tree(process, "zombie")
    if name in ("warmd-fork", "warmd-shim"):
        what = {"warmd-fork": "forkserver", "warmd-shim": "shim"}[name]
        return Tree(process, what, _model(process) or _model_below(process))
    if model := _model(process):
        if name.startswith("VLLM::"):
            # The kernel keeps 15 bytes of a name.
            what = "EngineCore" if name.startswith("VLLM::EngineCor") else "child"
            return Tree(process, what, model)
        return Tree(process, "api-server", model)
    if name in ("warmd-stage", "warmd-held"):
        return Tree(process, {"warmd-stage": "stage keeper", "warmd-held": "holder"}[name])
    command = process.cmdline()
    return Tree(process, "daemon" if "warmd" in command else "stranger")


def _model(process: psutil.Process) -> str | None:
    return (process.environ().get("WARMD_ENGINE") or "").rpartition(".")[0] or None


def _model_below(shim: psutil.Process) -> str | None:
    return next((m for m in map(_model, shim.children()) if m), None)


class Hand:
    """Strikes. The order of what it picks hangs on the seed alone."""

    def __init__(self, scene: Scene, keeper: Keeper, seed: int) -> None:
        self._scene = scene
        self._keeper = keeper
        self._chance = random.Random(f"{seed} hand")
        self._ways: dict[str, tuple[int, Callable[[str], Blow | None]]] = {
            "api-server": (4, self._kill_of_engine),
            "api-server SIGTERM": (1, self._terminate_engine),
            "EngineCore": (3, self._kill_of_engine),
            "shim": (3, self._kill_of_engine),
            "stop": (3, self._stop_engine),
            "forkserver": (2, self._kill),
            "holder": (2, self._kill),
            "stage keeper": (1, self._kill),
            "daemon SIGKILL": (3, self._end_daemon),
            "daemon SIGTERM": (2, self._end_daemon),
            "reload": (2, self._reload),
            "set": (3, self._set),
            "weather": (3, self._turn_weather),
        }
        self.spares_the_daemon = False
        self.blows: list[Blow] = []

    def strike(self) -> Blow:
        """Do one thing that can be done now."""
        words = list(self._ways)
        weights = [self._ways[word][0] for word in words]
        while True:
            (word,) = self._chance.choices(words, weights)
            if self.spares_the_daemon and word.startswith("daemon"):
                continue
            blow = self._ways[word][1](word)
            if blow is not None:
                self.blows.append(blow)
                return blow

    def _pick(self, what: str) -> Tree | None:
        found = sorted((t for t in trees() if t.what == what), key=lambda t: t.process.pid)
        return self._chance.choice(found) if found else None

    def _kill(self, what: str) -> Blow | None:
        return self._signal(what, what, signal.SIGKILL, 0.0)

    def _kill_of_engine(self, what: str) -> Blow | None:
        return self._signal(what, what, signal.SIGKILL, _AFTER_A_KILL_S)

    def _terminate_engine(self, what: str) -> Blow | None:
        return self._signal(what, "api-server", signal.SIGTERM, _AFTER_A_KILL_S)

    def _stop_engine(self, what: str) -> Blow | None:
        return self._signal(what, "api-server", signal.SIGSTOP, _AFTER_A_STOP_S)

    def _signal(self, what: str, kind: str, number: signal.Signals, felt: float) -> Blow | None:
        tree = self._pick(kind)
        if tree is None:
            return None
        at = time.monotonic()
        with suppress(psutil.Error):
            tree.process.send_signal(number)
        target = f"{tree.process.pid} of {tree.model}"
        return Blow(what, at, target, tree.model, time.monotonic() + felt)

    def _end_daemon(self, what: str) -> Blow | None:
        at = time.monotonic()
        pid = self._keeper.strike(signal.Signals[what.partition(" ")[2]])
        return None if pid is None else Blow(what, at, str(pid))

    def _reload(self, what: str) -> Blow:
        name = self._chance.choice(NAMES)
        self._scene.change_args(name, self._chance)
        return Blow(what, time.monotonic(), f"{name}: {self.ask('POST', '/reload')}")

    def _set(self, what: str) -> Blow:
        name, rung = self._chance.choice(NAMES), self._chance.choice(("hot", "staged", "cold"))
        asked = {"model": name, "rung": rung, "for": self._chance.uniform(1.0, 6.0)}
        return Blow(what, time.monotonic(), f"{name} {rung}: {self.ask('POST', '/set', asked)}")

    def _turn_weather(self, what: str) -> Blow:
        return Blow(what, time.monotonic(), self._scene.change_weather(self._chance))

    def ask(self, method: str, path: str, body: object = None) -> str:
        """Ask the daemon; it may just not be there."""
        try:
            return str(self._scene.daemon.control(method, path, body).status)
        except (OSError, HTTPException):
            return "no daemon"
