"""What the benchmarks share: a real daemon in a folder of its own, CPU clocks, quantiles."""

from __future__ import annotations

import ctypes
import http.client
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

HERE = Path(__file__).parent
MODELS = 32
"""How many models the daemon has where nothing else is said: what a tick costs grows with them."""
_PATIENCE_S = 30.0
_PR_SET_PDEATHSIG = 1  # prctl(2)
_CPUCLOCK_SCHED = 2  # <linux/posix-timers.h>
_T = TypeVar("_T")
_libc = ctypes.CDLL(None)


class BenchError(Exception):
    """A benchmark could not be run. The text says what broke."""


def until(what: Callable[[], _T], doing: str, poll_s: float = 0.005) -> _T:
    """Poll `what` until it is true and return it; raises `BenchError` after 30 s."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(poll_s)
    raise BenchError(f"not within {_PATIENCE_S:g} s: {doing}")


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def cpu_s(pid: int) -> float:
    """Seconds of CPU, user and system, of all threads of a process: clock_getcpuclockid(3).

    Nanoseconds, where /proc/PID/stat counts hundredths of a second.
    """
    try:
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError as error:
        raise BenchError(f"process {pid} has no CPU clock any more: {error.strerror}") from None


def popen(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a child that ends with us, however we end; a Ctrl-C at the terminal is ours alone."""

    def end_with_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(
        argv,
        start_new_session=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509  we have one thread
        **options,
    )


class Daemon:
    """`warmd run` on a config of its own."""

    def __init__(self, folder: Path, config: str, python: Path, models: dict[str, str]) -> None:
        """`python` runs the engines; `models` maps names to further lines of their tables."""
        self.folder = folder
        self.port = _free_port()
        self.run_dir = folder / "run"
        self._log = folder / "log"
        self._config = folder / "warmd.toml"
        weights = folder / "weights"
        weights.mkdir()
        (weights / "config.json").write_text("{}")
        (weights / "model.safetensors").write_bytes(os.urandom(1 << 20))
        tables = [
            f'[host]\nrun_dir = "{self.run_dir}"',
            f'state_dir = "{folder}/state"\ncache_dir = "{folder}/cache"',
            f'[gateway]\nlisten = ["127.0.0.1:{self.port}"]',
            "[metrics]\nlisten = []",
            f'[engine]\npython = "{python}"\nstop_timeout = "2s"\ndrain_timeout = "2s"\n{config}',
        ]
        tables += [
            f'[models."{name}"]\nweights = "{weights}"\n{lines}' for name, lines in models.items()
        ]
        self._config.write_text("\n".join(tables))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The daemon's process."""
        if self._process is None:
            raise BenchError("the daemon does not run")
        return self._process.pid

    @property
    def log(self) -> str:
        """The end of what the daemon printed."""
        return self._log.read_text()[-2000:]

    def start(self) -> None:
        """Start it and wait until it serves."""
        with self._log.open("wb") as log:
            self._process = popen(
                [sys.executable, "-m", "warmd", "run", "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"NO_COLOR": "1"},
            )
        try:
            until(self._serves, "the daemon serves")
        except BenchError as error:
            raise BenchError(f"{error}; its log: {self.log}") from None

    def _serves(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise BenchError("the daemon ended at once")
        return " serves " in self.log

    def stop(self) -> None:
        """End it, and see to it that no engine is left."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise BenchError(f"the daemon did not end on SIGTERM; its log: {self.log}") from None
        finally:
            self._process = None
            mark = str(self.run_dir.resolve())
            until(lambda: not _marked(mark), "every engine has ended", poll_s=0.1)

    def control(self, method: str, path: str, body: object = None) -> Any:
        """Ask the admin API."""
        connection = _UnixConnection(self.run_dir / "control.sock")
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 200:
                raise BenchError(f"{method} {path} was answered {response.status}: {answer}")
            return answer
        except OSError as error:
            raise BenchError(f"the daemon's admin API: {error}; its log: {self.log}") from error
        finally:
            connection.close()

    def status(self, model: str) -> Any:
        """Return what the admin API tells of a model."""
        return self.control("GET", "/status")["models"][model]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("warmd", timeout=_PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_PATIENCE_S)
        self.sock.connect(str(self._path))


def _marked(mark: str) -> bool:
    for process in psutil.process_iter():
        try:
            if process.environ().get("WARMD_RUN_DIR") == mark:
                return True
        except psutil.Error:
            continue  # it ended, or is another user's
    return False


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def a_folder() -> Iterator[Path]:
    """A folder that is gone afterwards; a short path, since unix sockets live below it."""
    folder = Path(tempfile.mkdtemp(prefix="warmd-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def a_daemon(
    folder: Path, models: dict[str, str], python: Path | None = None, config: str = ""
) -> Iterator[Daemon]:
    """A daemon that serves, and is gone afterwards. `config` goes on in the table `engine`."""
    daemon = Daemon(folder, config, python or Path(sys.executable), models)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()
