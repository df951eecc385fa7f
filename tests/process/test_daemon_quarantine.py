"""GPUs out of service, under a real daemon: over a fake NVML and a kernel log of our own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_rig import Daemon, a_daemon, until
from gpu_scene import (
    LOST,
    Host,
    a_host,
    card,
    held_up,
    member,
    pool,
    return_gpu,
    seen_by,
    warmctl,
)
from nvml_rig import build


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as daemon:
        for model in "ab":
            daemon.turn(model)
        yield daemon


@pytest.fixture
def host(daemon: Daemon, nvml: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return a_host(daemon, nvml, monkeypatch)


def test_a_lost_gpus_models_are_started_on_another_one_of_their_pool(
    daemon: Daemon, host: Host
) -> None:
    pools = pool(vram="40GiB") + pool("[0]", "q", "30GiB")
    daemon.write_config({"a": member(), "b": member("cold", "q")}, pools)
    daemon.start()
    pid = daemon.wait_for("ready", "a.0")["pid"]
    host.gpus({0: LOST})
    why = until(lambda: card(daemon, 0)["quarantine"], "it is seen")
    assert why.startswith("it is lost")
    assert daemon.replica("a.0")["pid"] == pid, "it goes on while it answers"
    assert daemon.chat("a").status == 200
    os.kill(pid, signal.SIGKILL)
    until(lambda: seen_by(daemon, "a") == ["GPU-aaaa", "GPU-bbbb"], daemon.log)
    pid = daemon.wait_for("ready", "a.0")["pid"]
    daemon.set("b", "hot")
    assert held_up(daemon, "quarantined", "b") == f"GPU 0 is quarantined: {why}"
    assert daemon.log.count("GPU 0 is quarantined: it is lost") == 1
    refused = return_gpu(daemon, "0")
    assert (refused.status, "GPU 0 can't be used" in refused.json["error"]) == (409, True)
    host.gpus()
    daemon.wait_for("ready", "b.0")
    assert seen_by(daemon, "b") == ["GPU-aaaa"]
    assert daemon.log.count("GPU 0 is back in service") == 1
    assert daemon.replica("a.0")["pid"] == pid, "what runs elsewhere stays there"


def test_when_a_second_gpu_is_lost_its_engine_has_a_place_that_the_first_ones_left_free(
    daemon: Daemon, host: Host
) -> None:
    host.uuids = (*host.uuids, "GPU-cccc", "GPU-dddd")
    host.gpus()
    table = f"{member()}\nreplicas = 2"
    daemon.write_config({"a": table}, pool("[0, 1, 2, 3]", vram="40GiB"))
    daemon.start()
    pids = [daemon.wait_for("ready", f"a.{n}")["pid"] for n in range(2)]
    for sick, place in (({1}, "GPU-cccc"), ({0, 1}, "GPU-dddd")):
        host.gpus(dict.fromkeys(sick, LOST))
        until(lambda: all(card(daemon, n)["quarantine"] for n in sick), "it is seen")  # noqa: B023
        os.kill(pids.pop(), signal.SIGKILL)
        until(lambda: seen_by(daemon, "a")[-1] == place, f"it is on {place}: {daemon.log}")  # noqa: B023
    daemon.wait_for("ready", "a.0")
    daemon.wait_for("ready", "a.1")


def test_a_reload_that_widens_a_pool_gives_its_models_a_place_beside_the_lost_gpu(
    daemon: Daemon, host: Host
) -> None:
    daemon.write_config({"a": member()}, pool('"auto"', vram="40GiB"))
    daemon.start()
    pid = daemon.wait_for("ready", "a.0")["pid"]
    host.gpus({0: LOST})
    until(lambda: card(daemon, 0)["quarantine"], "it is seen")
    os.kill(pid, signal.SIGKILL)
    held_up(daemon, "quarantined", "a")
    wide = f"{member('cold')}\ntensor_parallel = 2"
    daemon.write_config({"a": member(), "b": wide}, pool('"auto"', vram="40GiB"))
    assert warmctl(daemon, "reload").returncode == 0
    daemon.wait_for("ready", "a.0")
    assert seen_by(daemon, "a") == ["GPU-aaaa", "GPU-bbbb"]


def test_an_xid_keeps_a_gpu_out_until_an_operator_returns_it(daemon: Daemon, host: Host) -> None:
    host.meets(1, 31)  # a program's own fault
    daemon.write_config({"a": member(), "b": member("cold")}, pool())
    daemon.start()
    first = daemon.wait_for("ready", "a.0")["pid"]
    assert [each["quarantine"] for each in daemon.status["cards"]] == [None, None]
    host.meets(0, 94)
    os.kill(first, signal.SIGKILL)
    assert until(lambda: card(daemon, 0)["quarantine"], "it is seen at once") == "Xid 94: bad"
    daemon.wait_for("ready", "a.0")
    assert seen_by(daemon, "a") == ["GPU-aaaa", "GPU-bbbb"]
    shown = warmctl(daemon, "gpu", "return", "0")
    assert (shown.returncode, shown.stdout) == (0, "GPU 0 is back in service\n")
    assert card(daemon, 0)["quarantine"] is None
    daemon.set("b", "hot")
    daemon.wait_for("ready", "b.0")
    assert seen_by(daemon, "b") == ["GPU-aaaa"]
    assert warmctl(daemon, "gpu", "return", "GPU-bbbb").stdout == "GPU 1 is in service already\n"
    assert daemon.stop() == 0
    daemon.start()
    daemon.wait_for("ready", "a.0")
    assert card(daemon, 0)["quarantine"] is None, "an operator's word holds for later warmds too"
    unknown = warmctl(daemon, "gpu", "return", "7")
    assert (unknown.returncode, "no GPU is named 7" in unknown.stderr) == (1, True)
    assert daemon.log.count("is quarantined: ") == 1


def test_without_a_place_elsewhere_nothing_is_started_until_the_driver_says_it_is_well(
    daemon: Daemon, host: Host
) -> None:
    host.gpus(None, "fact 0 recovery 1")
    daemon.write_config({"a": member()}, pool("[0]"))
    daemon.start()
    asks = "its driver asks for a reset of the GPU"
    assert held_up(daemon, "quarantined", "a") == f"GPU 0 is quarantined: {asks}"
    assert "sudo nvidia-smi --gpu-reset -i 0" in card(daemon, 0)["remedy"]
    assert daemon.record("a") == []
    host.meets(0, 95)  # while it waits for its reset
    assert return_gpu(daemon, "1").json["sentence"] == "GPU 1 is in service already"
    assert "and 1 other trouble" in card(daemon, 0)["quarantine"]
    host.gpus()
    assert return_gpu(daemon, "0").json["sentence"] == "GPU 0 is in service already"
    daemon.wait_for("ready", "a.0")


def test_a_gpu_that_is_lost_at_boot_ends_no_daemon(daemon: Daemon, host: Host) -> None:
    host.gpus({1: LOST})
    models = {"a": member(), "b": member("hot", "q")}
    daemon.write_config(models, pool(vram="30GiB") + pool("[1]", "q", "30GiB"))
    daemon.start()  # nobody has ever seen it well
    daemon.wait_for("ready", "a.0")
    assert "GPU 1 is quarantined: it is lost" in held_up(daemon, "quarantined", "b")
    assert daemon.stop() == 0
    host.gpus()
    daemon.start()
    daemon.wait_for("ready", "b.0")
    assert daemon.stop() == 0

    host.gpus({1: LOST})
    daemon.write_config(models, pool(vram="30GiB") + pool('["GPU-bbbb"]', "q", "30GiB"))
    daemon.start()
    daemon.wait_for("ready", "a.0")
    held_up(daemon, "quarantined", "b")
    host.gpus()
    daemon.wait_for("ready", "b.0")
    assert seen_by(daemon, "b") == ["GPU-bbbb", "GPU-bbbb"]


def test_an_engine_on_a_lost_gpu_outlives_the_daemon_too(daemon: Daemon, host: Host) -> None:
    outlive = "engines_outlive_daemon = true"
    daemon.write_config({"a": member(), "b": member()}, pool(), host=outlive)
    daemon.start()
    pid = daemon.wait_for("ready", "a.0")["pid"]
    moved = daemon.wait_for("ready", "b.0")["pid"]
    host.gpus({0: LOST})
    until(lambda: card(daemon, 0)["quarantine"], "it is seen")
    os.kill(moved, signal.SIGKILL)
    until(lambda: seen_by(daemon, "b") == ["GPU-aaaa", "GPU-bbbb"], daemon.log)
    moved = daemon.wait_for("ready", "b.0")["pid"]
    assert daemon.stop() == 0
    daemon.start()
    assert daemon.wait_for("ready", "a.0")["pid"] == pid, daemon.log
    assert daemon.wait_for("ready", "b.0")["pid"] == moved, daemon.log
    until(lambda: card(daemon, 0)["quarantine"], "it is seen again")
    assert [each["who"] for each in card(daemon, 1)["engines"]] == ["b.0"], "where it runs"
