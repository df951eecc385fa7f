"""`warmctl stage` and `warmctl residency` of a real daemon, and what a start found in RAM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_rig import Daemon, a_daemon, until

SIZE = 8 << 20


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as daemon:
        daemon.turn()
        (daemon.folder / "weights-m").mkdir()
        (daemon.folder / "weights-m" / "model.safetensors").write_bytes(os.urandom(SIZE))
        daemon.write_config({"m": 'resting = "cold"\naliases = ["gpt-4o"]'})
        daemon.start()
        yield daemon
        daemon.stop()


def warmctl(daemon: Daemon, *args: str) -> subprocess.CompletedProcess[str]:
    socket = ("--socket", str(daemon.run_dir / "control.sock"))
    command = [sys.executable, "-m", "warmd.cli.main", *args, *socket]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def weights(daemon: Daemon) -> Any:
    done = warmctl(daemon, "residency", "--json")
    assert done.returncode == 0, done.stderr
    [found] = [each for each in json.loads(done.stdout)["sets"] if each["kind"] == "weights"]
    return found


def evict(file: Path) -> None:
    """Push a file out of the page cache, which nobody maps."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_cold_model_is_staged_and_shown(daemon: Daemon) -> None:
    until(lambda: weights(daemon)["files"], "its files have been looked at")
    evict(daemon.folder / "weights-m" / "model.safetensors")
    before = weights(daemon)
    assert (before["models"], before["files"], before["state"]) == (["m"], 2, "not held")
    assert (before["bytes"], before["by"]) == (SIZE + 2, "cachestat")
    assert before["resident"] < SIZE
    staged = warmctl(daemon, "stage", "gpt-4o", "--watch", "--for", "2h")
    assert staged.returncode == 0, staged.stdout + staged.stderr
    lines = staged.stdout.splitlines()
    assert lines[0].startswith("m is to be at least staged for 2 h")
    assert any(line.startswith("weights: 8.0 of 8.0 MiB") for line in lines), staged.stdout
    assert lines[-1] == "m is staged"
    after = weights(daemon)
    assert (after["resident"], after["held"], after["state"]) == (SIZE + 2, SIZE + 2, "held")
    table = warmctl(daemon, "residency").stdout
    assert " 8.0 MiB  8.0 MiB  100 %  held " in table
    assert "measured just now by cachestat" in table
    assert daemon.chat("m").status == 200, "who asks for it is served all the same"


def test_a_rate_holds_while_nobody_is_served() -> None:
    with a_daemon() as daemon:
        daemon.turn()
        (daemon.folder / "weights-m").mkdir()
        file = daemon.folder / "weights-m" / "model.safetensors"
        file.write_bytes(os.urandom(2 * SIZE))
        evict(file)
        daemon.write_config({"m": 'resting = "staged"'}, rest='[staging]\nrate = "4MiB"')
        daemon.start()
        until(lambda: daemon.status["models"]["m"]["staging"]["busy"], "it is being staged")
        began = time.monotonic()
        daemon.wait_for_rung("staged", "m")
        assert time.monotonic() - began > 1.5
        daemon.stop()


def test_what_cannot_be_staged_is_said_with_status_1(daemon: Daemon) -> None:
    file = daemon.folder / "weights-m" / "model.safetensors"
    file.unlink()
    refused = warmctl(daemon, "stage", "m", "--watch")
    assert refused.returncode == 1
    assert "warmctl: m can't be staged: " in refused.stderr
    assert "holds no weights" in refused.stderr
    assert "did you mean m?" in warmctl(daemon, "stage", "mm").stderr


def test_a_start_tells_what_was_in_ram_as_it_began(daemon: Daemon) -> None:
    assert warmctl(daemon, "stage", "m", "--watch").returncode == 0
    daemon.set("m", "hot")
    daemon.wait_for("ready")
    hot = warmctl(daemon, "stage", "m", "--watch")
    assert (hot.returncode, hot.stdout.count("\n")) == (0, 1)
    assert hot.stdout.startswith("m is hot: its engine has loaded its files")

    def told() -> Any:
        [start] = json.loads(warmctl(daemon, "explain", "m", "--json").stdout)["starts"]
        return start["files"].get("weights")

    whole = SIZE + 2
    found = until(told, "what was in RAM is written down")
    assert found == {"total": whole, "began": whole, "ready": whole, "held": True}
    line = "in RAM as it began -> when ready: weights 100 -> 100 % (held)"
    assert line in warmctl(daemon, "history", "m").stdout
    assert line in warmctl(daemon, "explain", "m").stdout
