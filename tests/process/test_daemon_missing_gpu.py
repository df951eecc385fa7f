"""GPUs that the driver doesn't list when warmd starts, under a real daemon over a fake NVML."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_rig import Daemon, a_daemon, until
from gpu_scene import LOST, Host, a_host, card, held_up, member, pool, return_gpu, seen_by, warmctl
from nvml_rig import build

from warmd.doctor.finding import Level
from warmd.doctor.reserving import judge_reservations, look_at_reservations


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as daemon:
        for model in "abc":
            daemon.turn(model)
        yield daemon


@pytest.fixture
def host(daemon: Daemon, nvml: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = a_host(daemon, nvml, monkeypatch)
    host.uuids = ("GPU-aaaa", "GPU-bbbb", "GPU-cccc")
    host.gpus()
    return host


def seen_once(daemon: Daemon) -> None:
    """Let a daemon see all GPUs, and note them."""
    daemon.start()
    assert daemon.stop() == 0


def take_out(host: Host, *uuids: str) -> None:
    host.missing = frozenset(uuids)
    host.gpus()


def noted(daemon: Daemon) -> list[tuple[int, str]]:
    told = json.loads((daemon.folder / "state" / "gpus.json").read_text())
    return [(each["index"], each["key"]) for each in told]


def check_config(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "warmd", "check-config", "--config", str(daemon.config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def gpus(daemon: Daemon) -> Any:
    return json.loads(warmctl(daemon, "gpus", "--json").stdout)


COLD = {name: member("cold", name) for name in "abc"}
BY_NUMBER = "".join(pool(f"[{n}]", name) for n, name in enumerate("abc"))


def test_a_gpu_that_is_not_listed_at_boot_is_quarantined_and_others_keep_their_numbers(
    daemon: Daemon, host: Host
) -> None:
    daemon.write_config({**COLD, "c": member("hot", "c")}, BY_NUMBER)
    seen_once(daemon)
    take_out(host, "GPU-bbbb")
    offline = check_config(daemon)
    assert offline.returncode == 0, offline.stderr
    warning = "the driver doesn't list GPU 1 (GPU-bbbb, NVIDIA Fake 80GB), which was here"
    assert f"# warning: {warning}, which pools.b.gpus names" in offline.stdout
    assert "`warmctl gpu forget 1`" in offline.stdout
    [finding] = judge_reservations(look_at_reservations(daemon.config, 30.0))
    assert (finding.level, warning in finding.sentence) == (Level.WARNING, True)
    assert "`warmctl gpu forget 1`" in finding.remedy
    daemon.start()
    assert daemon.log.count(warning) == 1
    daemon.wait_for("ready", "c.0")
    assert seen_by(daemon, "c")[-1] == "GPU-cccc", "by the number that it had"
    daemon.set("b", "hot")
    why = "GPU 1 is quarantined: the driver doesn't list it"
    assert held_up(daemon, "quarantined", "b") == why
    assert daemon.log.count(why) == 1
    assert "`warmctl gpu forget 1`" in card(daemon, 1)["remedy"]
    refused = return_gpu(daemon, "1")
    assert (refused.status, "`warmctl gpu forget 1`" in refused.json["error"]) == (409, True)
    told = gpus(daemon)
    assert [(each["index"], each["driver_index"]) for each in told["gpus"]] == [(0, 0), (2, 1)]
    assert [(each["index"], each["uuid"]) for each in told["sick"]] == [(1, "GPU-bbbb")]
    shown = warmctl(daemon, "gpus").stdout
    assert "nvidia-smi has it as GPU 1" in shown
    assert "GPU 1 (GPU-bbbb) can't be used: the driver doesn't list it" in shown
    assert noted(daemon) == [(0, "GPU-aaaa"), (1, "GPU-bbbb"), (2, "GPU-cccc")]
    assert daemon.record("b") == []

    take_out(host)  # and it is back
    daemon.wait_for("ready", "b.0")
    assert seen_by(daemon, "b") == ["GPU-bbbb"]
    assert daemon.log.count("GPU 1 is back in service") == 1
    assert [each["driver_index"] for each in gpus(daemon)["gpus"]] == [0, 1, 2]
    assert "isn't gone, the driver lists it" in warmctl(daemon, "gpu", "forget", "1").stderr


def test_models_of_a_missing_gpu_have_a_place_elsewhere_in_their_pool(
    daemon: Daemon, host: Host
) -> None:
    models = {"a": member(), "b": member("hot", "q"), "c": 'vram = "60GiB"\nresting = "hot"'}
    pools = pool('["GPU-aaaa", "GPU-bbbb"]', vram="70GiB") + pool('["GPU-aaaa"]', "q", "9GiB")
    models["b"] = member("hot", "q", "8GiB")
    daemon.write_config(models, pools)
    seen_once(daemon)
    take_out(host, "GPU-aaaa")
    daemon.start()
    daemon.wait_for("ready", "a.0")
    assert seen_by(daemon, "a")[-1] == "GPU-bbbb"
    daemon.wait_for("ready", "c.0")
    assert seen_by(daemon, "c")[-1] == "GPU-cccc", "what names no GPU waits for none"
    assert "GPU 0 is quarantined" in held_up(daemon, "quarantined", "b")
    host.gpus({2: LOST})  # the driver's GPU 1, and it doesn't tell its UUID any more
    until(lambda: card(daemon, 2)["quarantine"], "it is seen")
    assert card(daemon, 2)["quarantine"].startswith("it is lost")
    assert [card(daemon, n)["quarantine"] for n in (0, 1)] == ["the driver doesn't list it", None]
    told = [(each["index"], each["sentence"][:10]) for each in gpus(daemon)["sick"]]
    assert told == [(0, "the driver"), (2, "it is lost")]


def test_one_that_is_gone_for_good_is_forgotten_once_no_pool_names_it(
    daemon: Daemon, host: Host
) -> None:
    daemon.write_config({**COLD, "c": member("hot", "c")}, BY_NUMBER)
    seen_once(daemon)
    take_out(host, "GPU-bbbb")
    daemon.start()
    pid = daemon.wait_for("ready", "c.0")["pid"]

    def forget(name: str) -> tuple[int, str]:
        done = warmctl(daemon, "gpu", "forget", name)
        return done.returncode, done.stdout + done.stderr

    status, said = forget("1")
    assert (status, "GPU 1 (GPU-bbbb) is not forgotten, for pools.b.gpus names it" in said) == (
        1,
        True,
    ), said
    assert "GPU 2 (GPU-cccc) isn't gone, the driver lists it" in forget("2")[1]
    assert "no GPU is named 7: there are GPU 0 (GPU-aaaa)" in forget("7")[1]
    rest = {"a": COLD["a"], "c": member("hot", "c")}
    daemon.write_config(rest, pool("[0]", "a") + pool("[2]", "c"))
    status, said = forget("1")
    assert (status, "the config can't do without it" in said) == (1, True), said
    assert "2 is no GPU of this host; there are 0 (GPU-aaaa), 1 (GPU-cccc)" in said
    host.gpus(None, "error nvmlInit 18")
    assert "nobody can tell what GPUs there are" in forget("1")[1]
    host.gpus()
    assert noted(daemon)[1] == (1, "GPU-bbbb")

    daemon.write_config(rest, pool("[0]", "a") + pool('["GPU-cccc"]', "c"))
    in_the_way = daemon.folder / "state" / "gpus.draft"  # nothing can be written, as on a full disk
    in_the_way.mkdir()
    status, said = forget("GPU-bbbb")
    assert (status, "GPU-bbbb is not forgotten: that can't be noted in" in said) == (1, True), said
    assert [each["words"] for each in gpus(daemon)["ledger"]] == ["GPU 0", "GPU 1", "GPU 2"]
    in_the_way.rmdir()
    status, said = forget("GPU-bbbb")
    assert status == 0, said
    assert said.splitlines()[:2] == [
        "GPU 1 (GPU-bbbb) is forgotten",
        "GPU 2 (GPU-cccc) is GPU 1 now, as the driver has it",
    ]
    assert said.replace("\n", " ").count("b is gone from the config") == 1
    assert noted(daemon) == [(0, "GPU-aaaa"), (1, "GPU-cccc")]
    assert daemon.replica("c.0")["pid"] == pid, "what runs on another GPU doesn't notice"
    assert forget("GPU-bbbb")[0] == 1
    assert "no GPU is named GPU-bbbb" in forget("GPU-bbbb")[1]
    assert [each["words"] for each in gpus(daemon)["ledger"]] == ["GPU 0", "GPU 1"]
    assert gpus(daemon)["sick"] == []
    assert daemon.stop() == 0
    daemon.start()
    assert "doesn't list" not in daemon.log.rpartition("stopped")[2]


def test_an_engine_that_is_up_on_a_forgotten_gpu_moves_to_what_its_pool_names_now(
    daemon: Daemon, host: Host
) -> None:
    outlive = "engines_outlive_daemon = true"
    daemon.write_config({"b": member("hot", "b")}, pool("[1]", "b"), host=outlive)
    daemon.start()
    pid = daemon.wait_for("ready", "b.0")["pid"]
    assert daemon.stop() == 0
    take_out(host, "GPU-bbbb")
    daemon.start()
    assert daemon.wait_for("ready", "b.0")["pid"] == pid, "it goes on while it answers"
    until(lambda: card(daemon, 1)["quarantine"], "it is seen")
    daemon.write_config({"b": member("hot", "b")}, pool('["GPU-cccc"]', "b"), host=outlive)
    assert warmctl(daemon, "gpu", "forget", "1").returncode == 0
    until(lambda: seen_by(daemon, "b") == ["GPU-bbbb", "GPU-cccc"], daemon.log)
    daemon.wait_for("ready", "b.0")
    assert [each["key"] for each in daemon.status["cards"]] == ["GPU-aaaa", "GPU-cccc"]


def test_another_card_in_its_place_has_its_number_at_once(daemon: Daemon, host: Host) -> None:
    daemon.write_config({"b": member("hot", "b")}, pool("[1]", "b"))
    seen_once(daemon)
    host.uuids = ("GPU-aaaa", "GPU-new", "GPU-cccc")
    host.missing = frozenset({"GPU-aaaa"})  # so that the driver numbers it otherwise
    host.gpus()
    daemon.start()
    daemon.wait_for("ready", "b.0")
    assert seen_by(daemon, "b")[-1] == "GPU-new"
    assert daemon.log.count("GPU 1 is another card now, GPU-new: GPU-bbbb, which was in") == 1
    assert noted(daemon) == [(0, "GPU-aaaa"), (1, "GPU-new"), (2, "GPU-cccc")]


def test_a_host_with_other_gpus_alone_begins_anew(daemon: Daemon, host: Host) -> None:
    daemon.write_config({"b": member("hot", "b")}, pool("[1]", "b"))
    seen_once(daemon)
    host.uuids = ("GPU-x", "GPU-y")
    host.gpus()
    daemon.start()
    daemon.wait_for("ready", "b.0")
    assert seen_by(daemon, "b")[-1] == "GPU-y"
    assert daemon.log.count("none of the GPUs that were here is listed, and others are") == 1
    assert noted(daemon) == [(0, "GPU-x"), (1, "GPU-y")]


@pytest.mark.parametrize("garbage", ["", "{", '[{"key": 1}]', '{"a": []}', "[" * 100_000])
def test_garbage_where_gpus_were_noted_is_told_and_written_anew(
    daemon: Daemon, host: Host, garbage: str
) -> None:
    daemon.write_config({"a": member("cold", "a")}, pool("[0]", "a"))
    state = daemon.folder / "state"
    state.mkdir()
    (state / "gpus.json").write_text(garbage)
    assert "which GPUs were here before can't be read" in check_config(daemon).stdout
    daemon.start()
    assert daemon.log.count("which GPUs were here before can't be read") == 1
    until(lambda: len(noted(daemon)) == 3, "they are noted anew")
