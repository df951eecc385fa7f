"""The scene of a soak: models that do all that models can do, their weather, and their daemon."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from daemon_rig import Daemon

MAX_WAIT_S = 20.0
DRAIN_S = 5.0
STOP_S = 1.0
HANG_S = 3.0
_END_S = 60.0

_STATUS = {signal.SIGTERM: 0, signal.SIGKILL: -signal.SIGKILL}
"""What a daemon ends with when it is told so."""

_SLEEPS = '[models.{0}.idle]\nafter = "2s"\n[models.{0}.sleep]\ntimeout = "5s"'
_MODELS = {
    "hot": 'resting = "hot"',
    "nap": _SLEEPS,
    "pool-a": f'pool = "p"\nvram = "3GiB"\n{_SLEEPS}',
    "pool-b": f'pool = "p"\nvram = "3GiB"\n{_SLEEPS}',
    "pair": f"replicas = 2\n{_SLEEPS}",
    "flaky": _SLEEPS,
    "deaf": '[models.{0}.idle]\nafter = "3s"\nthen = "staged"',
}
NAMES = tuple(_MODELS)
FINAL = dict.fromkeys(NAMES, "asleep") | {"hot": "hot", "deaf": "staged"}
"""The rung on which each model shall stand once nobody has asked for it for a while."""

_ENGINES: Mapping[str, Mapping[str, Any]] = {
    "hot": {"children": 2},
    "nap": {"sleep": {"pinned_bytes": 16 << 20, "first_sleep_s": 0.3, "wake_s": 0.2}},
    "pool-a": {"children": 1, "sleep": {"sleep_s": 0.2, "wake_s": 0.2}},
    "pool-b": {"seconds": {"weights": 0.3}, "sleep": {"wake_s": 0.1}},
    "pair": {"children": 1},
    "flaky": {},
    "deaf": {"children": 2, "leak": True, "ignore_sigterm": True},
}
_WEATHER: tuple[Mapping[str, Any], ...] = (
    {},
    {},
    {"fail_at": "weights", "fail_error": "torch.OutOfMemoryError: CUDA out of memory."},
    {"fail_at": "imports", "fail_code": 0},
    {"hang_at": "compile"},
    {"answer": "garbage"},
    {"exit_after": 7},
    {"sleep": {"fails_in": "sleep", "failure": "500"}},
    {"sleep": {"fails_in": "sleep", "failure": "lie"}},
    {"sleep": {"fails_in": "sleep", "failure": "exit"}},
    {"sleep": {"fails_in": "sleep", "failure": "hang"}},
    {"sleep": {"fails_in": "wake", "failure": "500"}},
    {"sleep": {"fails_in": "wake", "failure": "lie"}},
    {"sleep": {"fails_in": "wake", "failure": "exit"}},
    {"sleep": {"fails_in": "wake", "failure": "hang"}},
    {"sleep": {"wrong_from_wake": 1}},
)


class Scene:
    """The config of a daemon and the ways of its engines; `lengths`: what their flags say now."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.segment = f"psm_{daemon.folder.name}"
        self.lengths = dict.fromkeys(NAMES, 2048)
        for name in NAMES:
            self._turn(name)
        self.write_config()

    def write_config(self) -> None:
        """Write the whole config anew."""
        tables = {
            name: f'args = ["--max-model-len", "{self.lengths[name]}"]\n{lines.format(name)}'
            for name, lines in _MODELS.items()
        }
        self.daemon.write_config(
            tables,
            host="engines_outlive_daemon = true",
            gateway=f'max_wait = "{MAX_WAIT_S:g}s"',
            engine=f'sleep = "drill"\nhang_after = "{HANG_S:g}s"\nstart_timeout = "10s"',
            rest=(
                '[restart]\ngive_up_after = 1000\nmax_delay = "2s"\n'
                '[fairness]\nstay = 1.0\nhold = "500ms"\nbound = "4s"\n'
                '[pools.p]\nvram = "3GiB"'
            ),
        )

    def change_args(self, name: str, chance: random.Random) -> None:
        """Give a model other flags: with the next reload, or start, its engine is another one."""
        self.lengths[name] = chance.randrange(1024, 4096)
        self.write_config()

    def change_weather(self, chance: random.Random) -> str:
        """Let the flaky model's next engines fail in another way; return a word for it."""
        ways = chance.choice(_WEATHER)
        self._turn("flaky", ways)
        return ", ".join(f"{key}={value}" for key, value in ways.items()) or "fair"

    def clear_up(self) -> None:
        """Let engines be well from their next start on."""
        self._turn("flaky")

    def _turn(self, name: str, ways: Mapping[str, Any] | None = None) -> None:
        segment = {"segment": self.segment} if name == "deaf" else {}
        self.daemon.turn(name, **{"token_s": 0.01, **_ENGINES[name], **segment, **(ways or {})})


@dataclass
class Outage:
    """The daemon was told to go by `number`, or had not begun; `ended`: the next one answers."""

    began: float
    number: signal.Signals | None = None
    ended: float | None = None

    def meets(self, began: float, ended: float) -> bool:
        """Whether it fell into the time from `began` to `ended`."""
        return self.began <= ended and (self.ended is None or began <= self.ended)


class Keeper:
    """Keeps the daemon running as an init system would: it ends, and the next one begins."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._done = False
        self.outages = [Outage(time.monotonic())]
        self.wrong: list[str] = []
        self.daemons: set[int] = set()
        self._struck: set[int] = set()
        self._thread = threading.Thread(target=self._keep, name="keeper")
        self._changing = threading.Lock()

    def start(self) -> None:
        """Start the first daemon."""
        self._launch()
        self._thread.start()

    def strike(self, number: signal.Signals) -> int | None:
        """Signal the daemon; return its process.

        None where there is none, and where it only comes up and would not know SIGTERM yet.
        """
        with self._changing:
            process = self._daemon.process
            if process is None or process.poll() is not None:
                return None
            if number is signal.SIGTERM and not self.is_up:
                return None
            self.outages.append(Outage(time.monotonic(), number))
            self._struck.add(process.pid)
            process.send_signal(number)
            return process.pid

    @property
    def is_up(self) -> bool:
        """Whether a daemon answers."""
        return not self._open

    @property
    def _open(self) -> list[Outage]:
        return [outage for outage in self.outages if outage.ended is None]

    def end(self) -> None:
        """Shut the daemon that runs down with all its engines, and start no other."""
        self._done = True
        try:
            self._daemon.control("POST", "/shutdown", {})
        except (OSError, HTTPException):
            self.strike(signal.SIGKILL)
        self._thread.join(_END_S)
        if self._thread.is_alive() and self._daemon.process is not None:
            self.wrong.append(f"the daemon was told to shut down and still ran after {_END_S:g} s")
            self._daemon.process.kill()
            self._thread.join()
        self._daemon.process = None

    def _keep(self) -> None:
        while True:
            process = self._daemon.process
            assert process is not None
            while process.poll() is None:
                if not self.is_up and self._answers():
                    with self._changing:
                        if process.pid not in self._struck:
                            for outage in self._open:
                                outage.ended = time.monotonic()
                time.sleep(0.02)
            numbers = {outage.number for outage in self._open}
            if self._done:
                numbers.add(signal.SIGTERM)
            if process.returncode not in {_STATUS[number] for number in numbers if number}:
                self.wrong.append(f"the daemon ended with {process.returncode} after {numbers}")
                self.outages.append(Outage(time.monotonic()))
                time.sleep(1.0)
            if self._done:
                return
            with self._changing:
                self._launch()

    def _launch(self) -> None:
        self._daemon.launch()
        assert self._daemon.process is not None
        self.daemons.add(self._daemon.process.pid)

    def _answers(self) -> bool:
        """Whether the daemon's own port and socket are there; an old daemon has none any more."""
        try:
            socket.create_connection(("127.0.0.1", self._daemon.port), 1.0).close()
            return bool(self._daemon.status["pid"] == getattr(self._daemon.process, "pid", None))
        except (OSError, HTTPException):
            return False
