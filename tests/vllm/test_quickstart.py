"""scripts/quickstart, as a person runs it: the real vLLM, the tiny model, the real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
START_S = 600.0  # a first start on a busy machine compiles for a minute or two
STOP_S = 60.0

pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv-engine" / "warmd-engine-env").exists(),
    reason="scripts/engine-env has not made .venv-engine",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all runs: the later ones reuse the compile cache, as a second run does."""
    return tmp_path_factory.mktemp("q")


class Run:
    """One quickstart in the background, and its output so far."""

    def __init__(self, home: Path, *args: str) -> None:
        self.home = home
        self.output = home / f"output-{time.monotonic_ns()}"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [ROOT / "scripts" / "quickstart", *args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "WARMD_QUICKSTART_DIR": str(home)},
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def until(self, word: str) -> None:
        give_up_at = time.monotonic() + START_S
        while word not in self.text:
            assert self.process.poll() is None, self.text
            assert time.monotonic() < give_up_at, self.text
            time.sleep(0.1)

    def left(self) -> list[psutil.Process]:
        """Every process that this run brought into the world and that still lives."""
        config = self.home / "warmd.toml"
        run_dir = tomllib.loads(config.read_text())["host"]["run_dir"] if config.exists() else ""
        marks = {("WARMD_QUICKSTART_DIR", str(self.home)), ("WARMD_RUN_DIR", run_dir)}
        return [p for p in psutil.process_iter() if marks & _environment(p).items()]

    def assert_nothing_left(self) -> None:
        give_up_at = time.monotonic() + STOP_S
        while left := self.left():
            assert time.monotonic() < give_up_at, left
            time.sleep(0.1)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return {}


@pytest.fixture
def started(home: Path) -> Iterator[list[Run]]:
    """Whatever a test starts is gone after it, also where it failed."""
    runs: list[Run] = []
    yield runs
    for run in runs:
        for process in run.left():
            process.kill()
        run.process.wait()


def _seconds(label: str, text: str) -> float:
    found = re.search(rf"^\s*{re.escape(label)}\s+([0-9.]+) s", text, re.MULTILINE)
    assert found is not None, (label, text)
    return float(found[1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_once_shows_what_a_cold_start_costs_and_leaves_no_process(
    home: Path, started: list[Run]
) -> None:
    run = Run(home, "--once", "--port", str(_free_port()))
    started.append(run)
    assert run.process.wait(START_S) == 0, run.text
    assert run.left() == []

    stages = ["program start", "imports", "weights", "KV and warm-up", "first answer"]
    if "no compiler" not in run.text:
        stages.append("compile")
    spent = [_seconds(stage, run.text) for stage in stages]
    whole = _seconds("in all", run.text)
    assert sum(spent) == pytest.approx(whole, abs=0.01 * len(stages))
    assert _seconds("imports", run.text) > 0
    # The first user waited for the start, the second for nothing of it.
    assert _seconds("First delay", run.text) >= whole - 0.2
    assert _seconds("Next delay", run.text) < whole / 2


def test_it_serves_until_it_is_killed_and_even_then_leaves_no_process(
    home: Path, started: list[Run]
) -> None:
    port = _free_port()
    run = Run(home, "--port", str(port))
    started.append(run)
    run.until("Ctrl-C")
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(chat).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.load(response)["usage"]["completion_tokens"] == 2
    assert len(run.left()) > 2  # itself, warmd, the engine: the count below means something

    run.process.kill()
    run.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_the_engine_starts_ends_all(
    home: Path, started: list[Run], number: signal.Signals
) -> None:
    run = Run(home, "--once", "--port", str(_free_port()))
    started.append(run)
    run.until("imports")
    os.killpg(run.process.pid, number)  # as a terminal does
    assert run.process.wait(STOP_S) == 128 + number
    assert run.left() == []
    assert "Traceback" not in run.text
