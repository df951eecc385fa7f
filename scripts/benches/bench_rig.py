"""What the benchmarks share: a real daemon in a folder of its own, CPU clocks, quantiles."""

from __future__ import annotations

import ctypes
import http.client
import json
import math
import os
import resource
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

from warmd.launch import sweep

HERE = Path(__file__).parent
MODELS = 32
"""How many models the daemon has where nothing else is said: what a tick costs grows with them."""
STAND_IN = f'[engine.env]\nPYTHONPATH = "{HERE / "site"}"'
"""The config's lines that make every engine a stand-in, the last ones of the table `engine`."""
_PATIENCE_S = 30.0
# What a service manager does between fork and exec, see sd_listen_fds(3).
_HAND_OVER = """fd=$1; shift; exec 3<&"$fd" {fd}<&-
LISTEN_FDS=1 LISTEN_FDNAMES=gateway LISTEN_PID=$$ exec "$@"
"""
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


def raise_file_limit() -> None:
    """Let us and our children open as many files as the system allows, within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 16384 if hard == resource.RLIM_INFINITY else min(hard, 16384)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


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

    def __init__(
        self,
        folder: Path,
        models: dict[str, str],
        python: Path,
        config: str,
        listener: socket.socket | None,
        *,
        state: Path | None = None,
        cache: Path | None = None,
    ) -> None:
        """`python` runs the engines; `models` maps names to further lines of their tables.

        `config` goes on in the table `engine`. A `listener` is handed over at each start, and the
        engines outlive the daemon. `state` and `cache`: its folders, where they shall stay.
        """
        self.folder = folder
        self._listener = listener
        self.port = free_port() if listener is None else int(listener.getsockname()[1])
        self.run_dir = folder / "run"
        self._log = folder / "log"
        self._config = folder / "warmd.toml"
        weights = folder / "weights"
        weights.mkdir()
        (weights / "config.json").write_text("{}")
        (weights / "model.safetensors").write_bytes(os.urandom(1 << 20))
        tables = [
            f'[host]\nrun_dir = "{self.run_dir}"',
            f'state_dir = "{state or folder / "state"}"\ncache_dir = "{cache or folder / "cache"}"',
            f"engines_outlive_daemon = {'false' if listener is None else 'true'}",
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

    def begin(self) -> None:
        """Start its process and return at once."""
        argv = [sys.executable, "-m", "warmd", "run", "--config", str(self._config)]
        handed_over: tuple[int, ...] = ()
        if self._listener is not None:
            handed_over = (self._listener.fileno(),)
            argv = ["bash", "-c", _HAND_OVER, "bash", str(self._listener.fileno()), *argv]
        with self._log.open("wb") as log:
            self._process = popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                pass_fds=handed_over,
            )

    def wait_until_it_serves(self) -> None:
        """Wait until it has begun to serve."""
        try:
            until(self._serves, "the daemon serves")
        except BenchError as error:
            raise BenchError(f"{error}; its log: {self.log}") from None

    def _serves(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise BenchError("the daemon ended at once")
        return " serves " in self.log

    def end(self, number: signal.Signals) -> None:
        """Send it a signal, and return when it has ended."""
        if self._process is None:
            raise BenchError("the daemon does not run")
        process, self._process = self._process, None
        process.send_signal(number)
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise BenchError(f"no end on {number.name}; the daemon's log: {self.log}") from None

    def stop(self) -> None:
        """End it, and see to it that no engine is left."""
        try:
            if self._process is not None:
                self.end(signal.SIGTERM)
        finally:
            if self._listener is not None:
                sweep(self.run_dir)
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


def _environment() -> dict[str, str]:
    """Return ours, but let Python keep what it compiles, as an installed warmd has it."""
    ours = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return ours | {"NO_COLOR": "1"}


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


def free_port() -> int:
    """Return a TCP port that nobody had a moment ago."""
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
    folder: Path,
    models: dict[str, str],
    python: Path | None = None,
    config: str = "",
    listener: socket.socket | None = None,
) -> Iterator[Daemon]:
    """A daemon that serves, and is gone afterwards with all its engines; see `Daemon`."""
    daemon = Daemon(folder, models, python or Path(sys.executable), config, listener)
    try:
        daemon.begin()
        daemon.wait_until_it_serves()
        yield daemon
    finally:
        daemon.stop()


def decision_and_exec(daemon: Daemon, model: str) -> tuple[float, float]:
    """Return when the start that is under way was decided, and its exec, in Unix seconds.

    The daemon counts in CLOCK_MONOTONIC, and tells the difference.
    """

    def told() -> Any:
        said = daemon.control("GET", "/status")
        start = said["models"][model]["replicas"][0]["start"]
        return (said["time"], start) if start and "imports" in start["seconds"] else None

    time_told, start = until(told, "the daemon knows of the engine's exec")
    decision = time_told - start["elapsed"]
    return decision, decision + start["seconds"]["program"]


class LoadClient:
    """The process of load_client.py."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def begin(self, **command: object) -> None:
        """Have it do something; `answer` waits for it."""
        stdin = self._process.stdin
        if stdin is None:
            raise BenchError("the load client has no pipes")
        stdin.write(json.dumps(command).encode() + b"\n")
        stdin.flush()

    def answer(self) -> Any:
        """Return what came of it; raises `BenchError` where a request went wrong."""
        stdout = self._process.stdout
        line = stdout.readline() if stdout is not None else b""
        answer = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise BenchError(f"the load client: {answer['error']}")
        return answer

    def do(self, **command: object) -> Any:
        """Do something and return what came of it."""
        self.begin(**command)
        return self.answer()


@contextmanager
def a_load_client() -> Iterator[LoadClient]:
    """The load client, in a process of its own."""
    argv = [sys.executable, str(HERE / "load_client.py")]
    with popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield LoadClient(process)
        finally:
            process.kill()
