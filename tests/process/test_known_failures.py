"""Failures that users of vLLM and its proxies have met, through a real daemon: processes, device.

Each test is named after the failure and carries an issue where it was reported. The failures of
sleep and wake stand in test_known_failures_of_sleep.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from daemon_rig import Daemon, a_daemon, until
from nvml_rig import GIB, build, environment

HOT = 'resting = "hot"'
ERROR_WHILE_MEASURING = (
    "AssertionError: Error in memory profiling. Initial free memory 60.1 GiB, current free memory"
    " 71.3 GiB. This happens when other processes sharing the same container release GPU memory"
    " while vLLM is profiling during initialization."
)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as made:
        made.turn()
        yield made


def lives(process: psutil.Process) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def starts(daemon: Daemon, model: str = "m") -> list[float]:
    """When each engine of a model was started."""
    return [each["at"] for each in daemon.record(model) if each["event"] == "started"]


# What a dead or dying engine leaves behind


def test_a_killed_api_server_leaves_its_engine_core_and_workers(daemon: Daemon) -> None:
    """vllm#55510: they keep the VRAM, the port is free, and the next start runs out of memory."""
    daemon.turn(children=3, leak=True)
    daemon.write_config({"m": HOT})
    daemon.start()
    first = daemon.wait_for("ready")["pid"]
    orphans = daemon.engine_processes()
    assert len(orphans) >= 4
    os.kill(first, signal.SIGKILL)
    until(lambda: daemon.replica()["pid"] not in (first, None), "another engine")
    assert not any(lives(p) for p in orphans), "before anything else is started"
    daemon.wait_for("ready")
    assert "SIGKILL" in daemon.log
    assert daemon.chat().status == 200


@pytest.mark.parametrize("where", ["imports", "warm-up"])
def test_a_stop_during_a_start_orphans_workers(daemon: Daemon, where: str) -> None:
    """vllm#32116."""
    phase = "starting" if where == "imports" else "warming"
    trouble = {"hang_at": "compile"} if where == "imports" else {"answer": "silence"}
    daemon.turn(children=3, leak=True, ignore_sigterm=True, **trouble)
    daemon.write_config({"m": HOT})
    daemon.start()
    daemon.wait_for(phase)
    until(lambda: len(daemon.engine_processes()) >= 5, "it has its children")
    orphans = daemon.engine_processes()
    daemon.set("m", "cold")
    daemon.wait_for("down")
    assert not any(lives(p) for p in orphans)
    assert daemon.engine_processes() == []
    daemon.set("m", "auto")
    daemon.wait_for(phase)
    until(lambda: len(daemon.engine_processes()) >= 5, "it has its children again")
    assert daemon.stop() == 0
    assert daemon.engine_processes() == [], "nor does the daemon's own end leave any"


def test_leftovers_in_shared_memory_block_every_restart(daemon: Daemon) -> None:
    """vllm#54002: the region of KV offloading outlives a killed engine."""
    name = f"vllm_offload_{daemon.folder.name}.mmap"
    segment = Path("/dev/shm") / name
    try:
        daemon.turn(segment=name, children=2)
        daemon.write_config({"m": HOT})
        daemon.start()
        first = daemon.wait_for("ready")["pid"]
        assert segment.exists()
        os.kill(first, signal.SIGKILL)
        until(lambda: daemon.replica()["pid"] not in (first, None), "another engine")
        daemon.wait_for("ready")
        assert len(starts(daemon)) == 2, "the first new start found nothing in its way"
        assert segment.exists(), "which the new engine has made"
        daemon.set("m", "cold")
        daemon.wait_for("down")
        assert not segment.exists()
    finally:
        segment.unlink(missing_ok=True)


# Neighbours on one device


def test_two_engines_that_start_together_mis_measure_the_device(daemon: Daemon) -> None:
    """vllm#55827."""
    for name in ("a", "b", "c"):
        daemon.turn(name, seconds={"weights": 0.2, "kv-cache": 0.1})
    daemon.write_config({"a": HOT, "b": HOT, "c": 'resting = "cold"'})
    daemon.start()
    assert daemon.chat("c").status == 200, "asked for while both others start"
    for name in ("a", "b"):
        daemon.wait_for("ready", f"{name}.0")
    done = daemon.operations("a", "b", "c")
    assert {each.model for each in done if each.kind == "started"} == {"a", "b", "c"}
    assert all(one.end <= other.begin for one, other in pairwise(done)), done


def test_a_neighbour_frees_memory_while_an_engine_measures(daemon: Daemon) -> None:
    """vllm#56830: the start ends in an assertion. An orderly stop waits for it."""
    daemon.turn("b", seconds={"kv-cache": 0.8})
    daemon.turn("a")
    daemon.write_config({"a": HOT, "b": 'resting = "cold"'})
    daemon.start()
    daemon.wait_for("ready", "a.0")
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(daemon.chat, "b")
        daemon.wait_for("starting", "b.0")
        until(lambda: daemon.record("b"), "its process runs")
        daemon.set("a", "cold")
        assert asked.result().status == 200
    daemon.wait_for("down", "a.0")
    kinds = [(each.model, each.kind) for each in daemon.operations("a", "b")]
    assert kinds == [("a", "started"), ("b", "started"), ("a", "sigterm")]
    start, stop = daemon.operations("a", "b")[1:]
    assert start.end <= stop.begin


def test_a_stranger_frees_memory_while_an_engine_measures(daemon: Daemon) -> None:
    """vllm#56830: what is not ours can't be held back; it is named, and the start tried again."""
    state = str(daemon.folder / "starts")
    daemon.turn(fail_at="kv-cache", fail_error=ERROR_WHILE_MEASURING, bad_starts=1, state=state)
    daemon.write_config({"m": HOT}, "[restart]\nmax_delay = '200ms'")
    daemon.start()
    daemon.wait_for("ready")
    assert "another process freed memory of the device while vLLM measured its own" in daemon.log
    assert daemon.chat().status == 200


def test_engines_collide_on_a_port(daemon: Daemon) -> None:
    """vllm#43206, gpustack#5657: each has a range of its own; a stranger's port costs one try."""
    daemon.turn("b")
    daemon.turn(port_taken=True, bad_starts=1, state=str(daemon.folder / "starts"))
    daemon.write_config({"m": HOT + "\nreplicas = 2", "b": HOT})
    daemon.start()
    for name in ("m.0", "m.1", "b.0"):
        daemon.wait_for("ready", name)
    assert "in use" in daemon.log
    assert "failure 1 in a row, next try in 0 s" in daemon.log
    up = [daemon.replica(name)["pid"] for name in ("m.0", "m.1", "b.0")]
    started = [e for name in "mb" for e in daemon.record(name) if e["event"] == "started"]
    ports = sorted(int(e["env"]["VLLM_PORT"]) for e in started if e["pid"] in up)
    assert len(ports) == 3
    assert all(high - low >= 50 for low, high in pairwise(ports)), ports


# Green while nothing moves, and moving while nothing looks green


def test_a_stopped_engine_is_alive_and_answers_nothing(daemon: Daemon) -> None:
    """vllm#39863: its request is answered by the next one."""
    daemon.write_config({"m": HOT}, engine='hang_after = "1s"')
    daemon.start()
    first = daemon.wait_for("ready")["pid"]
    os.kill(first, signal.SIGSTOP)
    assert daemon.chat().status == 200, "no byte had come: it is tried once more"
    assert daemon.replica()["pid"] != first
    assert "it has hung: it answered nothing for" in daemon.log
    assert not psutil.pid_exists(first)


def test_health_is_green_while_no_token_comes(daemon: Daemon) -> None:
    """vllm#39863."""
    daemon.turn(wedge_after=1)
    daemon.write_config({"m": HOT}, engine='hang_after = "1s"')
    daemon.start()
    first = daemon.wait_for("ready")["pid"]
    daemon.turn()
    assert daemon.chat().status == 200
    assert daemon.replica()["pid"] != first
    assert "1 request in flight and not one token for" in daemon.log


def test_a_busy_engine_is_declared_dead(daemon: Daemon) -> None:
    """gonka#1421: slow tokens, late probes and a crowd are no reason to replace it."""
    daemon.turn(token_s=0.5, tokens=6, first_token_s=0.5, probe_s=0.3)
    daemon.write_config({"m": HOT}, engine='hang_after = "2s"')
    daemon.start()
    first = daemon.wait_for("ready")["pid"]
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: daemon.chat(), range(12)))
    assert [a.status for a in answers] == [200] * 12
    assert daemon.replica()["pid"] == first
    assert "hung" not in daemon.log


# A GPU that is gone, or not there yet


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def test_the_daemon_boots_before_the_driver(
    daemon: Daemon, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ollama#18144: it runs and says so, and what needs the driver comes with it."""
    says = daemon.folder / "nvml"
    says.write_text("error nvmlInit 9\n")
    for name, value in environment(library, says).items():
        monkeypatch.setenv(name, value)
    daemon.write_config({"m": 'resting = "asleep"\nidle = { after = "200ms" }'})
    daemon.start()
    until(lambda: "yet: the NVIDIA kernel driver is not loaded" in daemon.log, "it says so")
    assert daemon.chat().status == 200
    refused = daemon.control("POST", "/set", {"model": "m", "rung": "asleep"})
    assert refused.status == 409
    assert "no NVIDIA GPU works here" in refused.json["error"]
    says.write_text(f"gpu GPU-aaaa {80 * GIB} {GIB // 2} NVIDIA Fake 80GB\n")
    daemon.wait_for("asleep")
    assert "a GPU can be used now: NVIDIA Fake 80GB" in daemon.log
    assert "m has 73.6 GiB on GPU 0 for each engine, what is left there" in daemon.log
    assert daemon.status["models"]["m"]["vram"] == int(0.92 * 80 * GIB)
    assert daemon.chat().status == 200


def test_a_gpu_falls_off_the_bus(daemon: Daemon) -> None:
    """ollama#7669: the cause is named, tries grow rarer, and the other models go on."""
    daemon.turn("other")
    daemon.write_config({"m": HOT, "other": HOT}, "[restart]\ngive_up_after = 4")
    daemon.start()
    for name in ("m", "other"):
        daemon.wait_for("ready", f"{name}.0")
    error = "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered"
    daemon.turn(fail_at="weights", fail_error=error, children=2)
    os.kill(daemon.replica()["pid"], signal.SIGKILL)
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(daemon.chat)
        until(lambda: "failure 2 in a row" in daemon.log, "it is tried again")
        assert daemon.chat("other").status == 200
        failed = daemon.wait_for("failed")
        assert asked.result().status == 503
    assert "CUDA error: uncorrectable ECC error" in failed["reason"]
    assert daemon.chat("other").status == 200
    first, second, third = starts(daemon)[1:]
    assert third - second > second - first > 0, "tries grow rarer"
    assert [p for p in daemon.engine_processes() if "/weights-m" in " ".join(p.cmdline())] == []
