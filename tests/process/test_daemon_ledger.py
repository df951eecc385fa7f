"""The VRAM ledger of a real daemon over a fake NVML, and over the host's memory without a GPU."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from daemon_rig import Daemon, a_daemon, until
from nvml_rig import GIB, build, environment


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


class Gpu:
    """The fake GPU of 80 GiB: who holds how much of it, and what it fails with."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.says()

    def says(self, held: dict[int, int] | None = None, *lines: str) -> None:
        """`held` maps processes to GiB."""
        held = held or {}
        used = sum(held.values()) * GIB
        told = [f"gpu GPU-aaaa {80 * GIB} {used} NVIDIA Fake 80GB"]
        told += [f"process 0 {pid} {gib * GIB}" for pid, gib in held.items()]
        draft = self._file.with_suffix(".draft")
        draft.write_text("\n".join((*told, *lines)) + "\n")
        draft.replace(self._file)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as daemon:
        yield daemon


@pytest.fixture
def gpu(daemon: Daemon, nvml: Path, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    says = daemon.folder / "nvml"
    for name, value in environment(nvml, says).items():
        monkeypatch.setenv(name, value)
    return Gpu(says)


def member(vram: str, rest: str = 'resting = "hot"') -> str:
    return f'pool = "p"\nvram = "{vram}"\n{rest}'


POOL = '[pools.p]\nvram = "70GiB"\n'


def card(daemon: Daemon) -> Any:
    [found] = daemon.status["cards"]
    return found


def held_up(daemon: Daemon, words: str, model: str = "m") -> str:
    """Wait until `model` is held up for a reason that holds `words`; return it."""

    def reason() -> str:
        return str(daemon.status["models"][model]["held_up_by"])

    until(lambda: words in reason(), f"{model} is held up by {words!r}: {daemon.status}")
    return reason()


def test_nothing_is_started_over_a_stranger(daemon: Daemon, gpu: Gpu) -> None:
    daemon.turn()
    daemon.write_config({"m": member("60GiB")}, POOL)
    gpu.says({os.getpid(): 30})
    daemon.start()
    we = f"process {os.getpid()} ({psutil.Process().name()})"
    assert held_up(daemon, we) == (
        f"GPU 0 lacks 10.0 GiB for m.0, which wants 60.0 GiB: of its 80.0 GiB {we} holds 30.0 GiB"
    )
    [foreign] = card(daemon)["foreign"]
    assert (foreign["who"], foreign["held"]) == (we, 30 * GIB)
    assert daemon.record() == []
    gpu.says()
    daemon.wait_for("ready", "m.0")
    assert (card(daemon)["reserved"], card(daemon)["taken"]) == (60 * GIB, 61 * GIB)
    assert psutil.Process(os.getpid()).is_running()


def test_memory_that_comes_back_late_is_waited_for(daemon: Daemon, gpu: Gpu) -> None:
    """vllm#55510: a killed API server's VRAM outlives it."""
    daemon.turn()
    daemon.write_config({"m": member("60GiB")}, POOL)
    daemon.start()
    pid = daemon.wait_for("ready", "m.0")["pid"]
    gpu.says({pid: 55})
    until(lambda: [e["held"] for e in card(daemon)["engines"]] == [55 * GIB], "it is seen as its")
    os.kill(pid, signal.SIGKILL)
    daemon.wait_for("stopping", "m.0")
    until(lambda: not psutil.pid_exists(pid), "the process is gone")
    assert daemon.replica("m.0")["phase"] == "stopping", "its memory isn't back"
    gpu.says()
    until(lambda: daemon.replica("m.0")["pid"] not in (None, pid), "a new engine is started")
    daemon.wait_for("ready", "m.0")
    assert "still holds" not in daemon.log


def test_memory_that_never_comes_back_is_told_and_counts_as_a_strangers(
    daemon: Daemon, gpu: Gpu
) -> None:
    daemon.turn()
    daemon.write_config({"m": member("60GiB")}, POOL)
    daemon.start()
    pid = daemon.wait_for("ready", "m.0")["pid"]
    gpu.says({pid: 55})
    until(lambda: [e["held"] for e in card(daemon)["engines"]] == [55 * GIB], "it is seen as its")
    os.kill(pid, signal.SIGKILL)
    why = held_up(daemon, f"process {pid}, which was m.0 and is dead holds 55.0 GiB")
    assert why.startswith("GPU 0 lacks")
    told = f"its engine has ended, and process {pid} still holds 55.0 GiB of GPU 0"
    assert daemon.log.count(told) == 1
    counted = 'warmd_vram_mismatch_total{kind="kept-after-end",model="m"} 1.0'
    assert counted in daemon.control("GET", "/metrics").body.decode()
    gpu.says()
    daemon.wait_for("ready", "m.0")


def test_a_sleep_that_frees_nothing_has_failed(daemon: Daemon, gpu: Gpu) -> None:
    daemon.turn()
    daemon.write_config({"m": member("60GiB")}, POOL, engine='sleep = "on"')
    daemon.start()
    pid = daemon.wait_for("ready", "m.0")["pid"]
    gpu.says({pid: 50})
    daemon.set("m", "asleep")
    until(lambda: "its sleep gave back 0 bytes of the 50.0 GiB" in daemon.log, daemon.log)
    gpu.says()
    assert daemon.wait_for("asleep", "m.0")["pid"] != pid, "another engine was started for it"
    assert not psutil.pid_exists(pid), "it is stopped"


def test_an_engine_that_holds_more_than_it_reserves_is_shown_and_counted(
    daemon: Daemon, gpu: Gpu
) -> None:
    daemon.turn()
    daemon.write_config({"m": member("60GiB")}, POOL)
    daemon.start()
    gpu.says({daemon.wait_for("ready", "m.0")["pid"]: 62})
    [sentence] = until(lambda: card(daemon)["mismatches"], "it is shown")
    assert sentence.startswith("m.0 holds 62.0 GiB of GPU 0 and reserves 60.0 GiB")
    assert daemon.log.count(sentence.replace("m.0 ", "m.0  ", 1)) == 1
    metrics = daemon.control("GET", "/metrics").body.decode()
    assert 'warmd_vram_mismatch_total{kind="holds-more",model="m"} 1.0' in metrics
    for name, gib in (("total", 80), ("used", 62), ("taken", 62), ("foreign", 0)):
        line = f'warmd_gpu_{name}_bytes{{gpu="0",uuid="GPU-aaaa"}} '
        value = float(metrics.partition(line)[2].split()[0])
        assert value == gib * GIB


def test_a_driver_that_hangs_holds_up_starts_and_nobody_else(daemon: Daemon, gpu: Gpu) -> None:
    for model in "mn":
        daemon.turn(model)
    models = {"m": member("20GiB"), "n": member("20GiB", 'resting = "cold"')}
    daemon.write_config(models, POOL)
    daemon.start()
    daemon.wait_for("ready", "m.0")
    gpu.says({}, "slow nvmlDeviceGetMemoryInfo 13000")
    until(lambda: "the NVIDIA driver didn't answer within 10 s" in daemon.log, daemon.log)
    daemon.set("n", "hot")
    assert "the NVIDIA driver didn't answer" in held_up(daemon, "nobody can tell", "n")
    assert daemon.chat("m").status == 200
    gpu.says()
    daemon.wait_for("ready", "n.0")
    assert "GPU 0 can be looked at again" in daemon.log


def test_without_a_gpu_the_hosts_memory_is_the_card(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")  # hides a real one
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    for model in "mn":
        daemon.turn(model)
    rest = psutil.virtual_memory().total // 2**20 - 2200  # more of it than is free anywhere
    models = {"m": member("2GiB"), "n": f'pool = "q"\nvram = "{rest}MiB"'}
    pools = f'[pools.p]\nvram = "2GiB"\n[pools.q]\nvram = "{rest}MiB"\n'
    daemon.write_config(models, f'{pools}[gpus]\nheadroom = "1MiB"\n')
    daemon.start()
    daemon.wait_for("ready", "m.0")
    [engine] = until(lambda: [e for e in card(daemon)["engines"] if e["held"] > 2**20], "it holds")
    assert engine["held"] < 2**30
    daemon.set("n", "hot")
    why = held_up(daemon, "the rest of this host holds", "n")
    assert why.startswith("the host's memory lacks")
