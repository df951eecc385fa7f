"""A real daemon over the fake engine: a config in a short folder, HTTP from outside, signals."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from warmd.launch import sweep

FAKES = Path(__file__).parents[1] / "fakes"
PATIENCE_S = 30.0
_T = TypeVar("_T")


def until(what: Callable[[], _T], doing: str, patience: float = PATIENCE_S) -> _T:
    """Poll `what` until it is true and return it."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {patience:g} s: {doing}")


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Operation:
    """One operation of a fake engine on its device. Times are monotonic seconds."""

    model: str
    kind: str
    begin: float
    end: float


_OPERATIONS = {"started": "done", "sleep": "slept", "wake": "woke", "sigterm": "ended"}
"""What begins an operation, and what ends it, in a fake engine's record."""


def _operations(model: str, record: list[dict[str, Any]]) -> Iterator[Operation]:
    for index, entry in enumerate(record):
        last = _OPERATIONS.get(entry["event"])
        end = next((e["at"] for e in record[index:] if e["event"] == last), None)
        if end is not None:
            yield Operation(model, entry["event"], entry["at"], end)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("warmd", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


@dataclass
class Daemon:
    """One daemon's folder, and its process while it runs. `knobs` are the fake engine's."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    starts: int = 0
    knobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    command: tuple[str, ...] = ("-m", "warmd")

    @property
    def config(self) -> Path:
        return self.folder / "warmd.toml"

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def write_config(
        self,
        models: dict[str, str],
        rest: str = "",
        gateway: str = "",
        engine: str = "",
        host: str = "",
    ) -> None:
        """`models` maps names to further lines of their tables."""
        self.port = self.port or _free_port()
        text = f"""
[host]
run_dir = "{self.run_dir}"
state_dir = "{self.folder}/state"
cache_dir = "{self.folder}/cache"
{host}
[gateway]
listen = ["127.0.0.1:{self.port}"]
{gateway}
[metrics]
listen = []
[engine]
python = "{sys.executable}"
stop_timeout = "1s"
drain_timeout = "5s"
{engine}
[engine.env]
PYTHONPATH = "{FAKES / "site"}"
{rest}
"""
        for name, lines in models.items():
            weights = self.folder / f"weights-{name}"
            weights.mkdir(exist_ok=True)
            (weights / "config.json").write_text("{}")
            if not (weights / "model.safetensors").exists():
                (weights / "model.safetensors").write_bytes(os.urandom(1 << 20))
            knobs = json.dumps({"file": str(self.folder / f"knobs-{name}.json")})
            text += f"""
[models.{name}]
weights = "{weights}"
{lines}
[models.{name}.env]
FAKE_VLLM = '{knobs}'
"""
        _write_at_once(self.config, text)

    def turn(self, model: str = "m", **knobs: Any) -> None:
        """Set the fake engine's knobs from its next start on."""
        self.knobs[model] = knobs | {"record": str(self.folder / f"record-{model}")}
        _write_at_once(self.folder / f"knobs-{model}.json", json.dumps(self.knobs[model]))

    def record(self, model: str = "m") -> list[dict[str, Any]]:
        """What the fake engine saw."""
        file = self.folder / f"record-{model}"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def operations(self, *models: str) -> list[Operation]:
        """What the fake engines of `models` did on their device, in the order of its begin.

        A start lasts until its first answer; one that broke off has no end and is left out.
        """
        return sorted(
            (each for model in models for each in _operations(model, self.record(model))),
            key=lambda each: each.begin,
        )

    def start(self) -> None:
        self.launch()
        self.wait_until_up()

    def wait_until_up(self) -> None:
        until(self._is_up, f"the daemon is up; its log: {self.log}")

    def launch(self) -> None:
        """Start it and wait for nothing."""
        self.starts += 1
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.command, "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"NO_COLOR": "1"},
            )

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        return self.log.count(" serves ") == self.starts

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        self.process = None
        return status

    def control(self, method: str, path: str, body: object = None) -> Answer:
        return _ask(UnixConnection(self.run_dir / "control.sock"), method, path, body)

    def set(self, model: str, rung: str, **more: object) -> None:
        """Keep a model on a rung, as an operator does."""
        answer = self.control("POST", "/set", {"model": model, "rung": rung, **more})
        assert answer.status == 200, answer.body

    @property
    def status(self) -> Any:
        return self.control("GET", "/status").json

    def replica(self, name: str = "m.0") -> Any:
        model = name.rpartition(".")[0]
        return next(r for r in self.status["models"][model]["replicas"] if r["name"] == name)

    def wait_for(self, phase: str, name: str = "m.0") -> Any:
        return until(
            lambda: (r := self.replica(name))["phase"] == phase and r,
            f"{name} is {phase}; {self.log}",
        )

    def wait_for_rung(self, rung: str, model: str = "m") -> Any:
        return until(
            lambda: (m := self.status["models"][model])["rung"] == rung and m,
            f"{model} is {rung}; {self.log}",
        )

    def post(self, path: str, body: object, patience: float = PATIENCE_S) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience)
        return _ask(connection, "POST", path, body)

    def chat(self, model: str = "m", patience: float = PATIENCE_S, **more: object) -> Answer:
        messages = [{"role": "user", "content": "hi"}]
        body = {"model": model, "messages": messages, **more}
        return self.post("/v1/chat/completions", body, patience)

    def get(self, path: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        return _ask(connection, "GET", path, None)

    def engine_processes(self) -> list[psutil.Process]:
        """Every process that any engine of this daemon left anywhere."""
        mark = str(self.run_dir.resolve())
        return [p for p in psutil.process_iter() if _env(p).get("WARMD_RUN_DIR") == mark]


def _write_at_once(file: Path, text: str) -> None:
    """Write in one step: a daemon or an engine may be reading it."""
    draft = file.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(file)


def _env(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
    except psutil.Error:
        return {}


def _ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: object,
) -> Answer:
    try:
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, sent, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def end_stage_keeper(run_dir: Path) -> None:
    """End the stage keeper that outlived its daemon, where there is one."""
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(str(run_dir / "stage.sock"))
        except OSError:
            return
        caller.settimeout(PATIENCE_S)
        caller.sendall(b'{"end": true}\n')
        while caller.recv(4096):
            pass


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def a_daemon() -> Iterator[Daemon]:
    """A daemon that leaves nothing behind, whatever the test did to it."""
    folder = Path(tempfile.mkdtemp(prefix="warmd-"))  # short: unix sockets live below it
    daemon = Daemon(folder)
    try:
        yield daemon
    finally:
        if daemon.process is not None:
            daemon.process.kill()
            daemon.process.wait()
        if "engines_outlive_daemon = true" in daemon.config.read_text():
            sweep(daemon.run_dir)
            end_stage_keeper(daemon.run_dir)
        until(lambda: not daemon.engine_processes(), "every engine has ended")
        shutil.rmtree(folder)
