"""`warmctl gpus` of a real daemon: over a fake NVML, and where there is no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_rig import Daemon, a_daemon
from nvml_rig import GIB, TWO_GPUS, build, environment


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as daemon:
        daemon.turn()
        daemon.write_config({"m": 'resting = "hot"\nvram = "8GiB"'})
        yield daemon


@pytest.fixture
def says(daemon: Daemon, nvml: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = daemon.folder / "nvml"
    file.write_text(TWO_GPUS)
    for name, value in environment(nvml, file).items():
        monkeypatch.setenv(name, value)
    return file


def warmctl(daemon: Daemon, *args: str) -> subprocess.CompletedProcess[str]:
    socket = ("--socket", str(daemon.run_dir / "control.sock"))
    command = [sys.executable, "-m", "warmd.cli.main", "gpus", *args, *socket]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def told(daemon: Daemon) -> Any:
    done = warmctl(daemon, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_replicas_and_strangers_are_named(daemon: Daemon, says: Path) -> None:
    daemon.start()
    daemon.wait_for("ready", "m.0")
    engine, we = daemon.replica("m.0")["pid"], os.getpid()
    fares = "fact 0 watts 300000\nfact 0 ecc 1\nfact 0 uncorrected 3\n"
    held = f"process 0 {engine} {GIB}\nprocess 0 {we} {GIB // 2}\nprocess 1 {we} -1\n"
    says.write_text(TWO_GPUS + fares + held + "sick 15\n")
    answer = told(daemon)
    first, second = answer["gpus"]
    assert [(each["pid"], each["replica"], each["bytes"]) for each in first["held_by"]] == [
        (engine, "m.0", GIB),
        (we, None, GIB // 2),
    ]
    assert first["held_by"][1]["name"], "a stranger has a name"
    assert second["held_by"][0]["bytes"] is None
    assert first["condition"]["watts"] == 300.0
    assert [each["unfit"] for each in first["condition"]["troubles"]] == [False]
    assert [each["index"] for each in answer["sick"]] == [2]
    ledger = {each["key"]: each for each in answer["ledger"]}
    parts = ("reserved", "sleepers", "foreign", "headroom", "free")
    for each in ledger.values():
        assert sum(each[part] for part in parts) == each["total"]
        assert (each["reserved"] > 0) is (each["key"] in daemon.record()[0]["env"].values())
    assert list(ledger) == ["GPU-aaaa", "GPU-bbbb"]
    shown = warmctl(daemon).stdout
    assert "RESERVED ON" in shown
    assert ["m.0", "1.0", "GiB"] in [line.split()[:3] for line in shown.splitlines()]
    assert "! 3 memory errors could not be corrected since the driver was loaded" in shown
    assert "GPU 2 can't be used: it is lost" in shown


def test_without_a_gpu_it_is_the_hosts_memory(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")  # hides a real one
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    daemon.start()
    daemon.wait_for("ready", "m.0")
    [card] = told(daemon)["gpus"]
    assert card["key"] == "host"
    assert sum(each["bytes"] for each in card["held_by"] if each["replica"] == "m.0") > 2**20
    strangers = [each for each in card["held_by"] if each["replica"] is None]
    # Whoever else is large on this host, these tests themselves perhaps.
    assert all(each["name"] and each["bytes"] >= 256 * 2**20 for each in strangers)
    assert "the host's memory is the device: " in warmctl(daemon).stdout


def test_a_driver_that_fails_is_said_and_stops_nobody(daemon: Daemon, says: Path) -> None:
    daemon.start()
    daemon.wait_for("ready", "m.0")
    says.write_text(TWO_GPUS + "error nvmlInit 18\n")
    refused = warmctl(daemon)
    assert refused.returncode == 1
    assert "differ in version: see nvidia-smi" in refused.stderr
    assert daemon.chat().status == 200
