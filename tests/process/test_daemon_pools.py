"""Pools on GPUs through a real daemon, over a fake NVML with two GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from daemon_rig import Daemon, a_daemon, until
from nvml_rig import GIB, TWO_GPUS, build, environment

from warmd.engine.binding import SPARE
from warmd.engine.sizing.overheads import CONTEXT

HEADER_JSON = b'{"model.norm.weight":{"dtype":"BF16","shape":[512],"data_offsets":[0,1024]}}'
HEADER = len(HEADER_JSON).to_bytes(8, "little") + HEADER_JSON + bytes(1024)
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 1024,
    "max_position_embeddings": 10 * 32768,
}
"""A model whose longest request takes 10 GiB."""


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def daemon(nvml: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with a_daemon() as daemon:
        says = daemon.folder / "nvml"
        says.write_text(TWO_GPUS)
        for name, value in environment(nvml, says).items():
            monkeypatch.setenv(name, value)
        yield daemon


def pool(name: str, vram: str, gpus: str) -> str:
    return f'[pools.{name}]\nvram = "{vram}"\ngpus = {gpus}\n'


def member(name: str, vram: str, rest: str = 'resting = "hot"') -> str:
    return f'pool = "{name}"\nvram = "{vram}"\n{rest}'


def cards(daemon: Daemon, model: str) -> str | None:
    [seen] = _started(daemon, model)
    return seen


def test_engines_see_the_gpus_of_their_pool_and_start_side_by_side(daemon: Daemon) -> None:
    for model in "abc":
        daemon.turn(model, seconds={"weights": 0.6})
    models = {
        "a": member("small", "9GiB"),
        "b": member("big", "40GiB"),
        "c": member("beside", "20GiB"),
    }
    pools = pool("small", "10GiB", "[1]") + pool("big", "50GiB", '"auto"')
    daemon.write_config(models, pools + pool("beside", "20GiB", '["GPU-aaaa"]'))
    daemon.start()
    for model in "abc":
        daemon.wait_for("ready", f"{model}.0")
    seen = {model: cards(daemon, model) for model in "abc"}
    assert seen == {"a": "GPU-bbbb", "b": "GPU-aaaa", "c": "GPU-aaaa"}
    starts = {each.model: each for each in daemon.operations("a", "b", "c")}
    on_one = sorted((starts["b"], starts["c"]), key=lambda each: each.begin)
    assert on_one[0].end <= on_one[1].begin, "one after the other on the same GPU"
    assert starts["a"].begin < on_one[0].end, "and beside them on another"


def memory(daemon: Daemon, model: str) -> list[dict[str, str]]:
    """What each engine of `model` was told of its memory, by flag."""
    started = [each["argv"] for each in daemon.record(model) if each["event"] == "started"]
    flags = ("--gpu-memory-utilization", "--kv-cache-memory-bytes")
    return [dict(pair for pair in pairwise(argv) if pair[0] in flags) for argv in started]


def test_engines_are_held_to_their_vram_and_to_what_was_measured(daemon: Daemon) -> None:
    daemon.turn("a")
    models = {"a": member("p", "9GiB", 'resting = "cold"\nidle = { after = "1ms", then = "cold" }')}
    daemon.write_config(models, pool("p", "12GiB", "[1]"))
    daemon.start()
    for _ in range(3):
        assert daemon.chat("a").status == 200
        daemon.wait_for("down", "a.0")
    share = f"0.{(9 * GIB - CONTEXT) * 10**6 // (24 * GIB):06}"
    first, *later = memory(daemon, "a")
    assert first == {"--gpu-memory-utilization": share}, "it measures itself"
    parts = sum(int(part * GIB) for part in (0.53, 0.2, 0.07, 0.01)) + CONTEXT
    for flags in later:
        assert flags["--gpu-memory-utilization"] == share
        assert 0 <= 9 * GIB - parts - SPARE - int(flags["--kv-cache-memory-bytes"]) < 2**21
    assert len(later) == 2, "a start that tells less forgets nothing"
    told = "a.0: its KV cache gets 7.4 GiB and had 1.0 GiB at the last start"
    assert daemon.log.count(told) == 1, daemon.log


def test_an_engine_that_fails_with_what_was_measured_measures_itself_anew(daemon: Daemon) -> None:
    daemon.turn("a")
    models = {"a": member("p", "9GiB", 'resting = "cold"\nidle = { after = "1ms", then = "cold" }')}
    daemon.write_config(models, pool("p", "12GiB", "[1]"))
    daemon.start()
    assert daemon.chat("a").status == 200
    daemon.wait_for("down", "a.0")
    state = str(daemon.folder / "starts")
    daemon.turn("a", fail_at="kv-cache", fail_error="OOM", bad_starts=1, state=state)
    assert daemon.chat("a").status == 200
    bound = ["--kv-cache-memory-bytes" in flags for flags in memory(daemon, "a")]
    assert bound == [False, True, False]


def test_an_engine_that_can_not_live_in_its_vram_is_not_started(daemon: Daemon) -> None:
    daemon.turn("a")
    daemon.write_config({"a": member("p", "9GiB")}, pool("p", "12GiB", "[1]"))
    daemon.start()
    daemon.wait_for("ready", "a.0")
    before = daemon.replica("a.0")["pid"]
    weights = daemon.folder / "weights-a"
    (weights / "config.json").write_text(json.dumps(LLAMA))
    (weights / "model.safetensors").write_bytes(HEADER)
    daemon.write_config({"a": member("p", "4GiB")}, pool("p", "12GiB", "[1]"))
    (weights / "config.json").write_text(json.dumps(LLAMA))
    words = "can't live in its vram of 4.0 GiB"
    for path in ("/plan", "/reload"):
        answer = daemon.control("POST", path, {})
        assert (answer.status, words in answer.json["error"]) == (422, True), (path, answer.json)
    assert daemon.replica("a.0")["pid"] == before
    assert daemon.stop() == 0

    command = [sys.executable, "-m", "warmd", "check-config", "--config", str(daemon.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, words in done.stderr) == (78, True), done.stderr

    daemon.turn("a")
    daemon.start()
    until(lambda: words in daemon.replica("a.0")["reason"], "the start is refused")
    assert len(memory(daemon, "a")) == 1, "it was never run"


def test_pools_that_do_not_fit_are_told_by_a_table_and_nothing_is_started(daemon: Daemon) -> None:
    daemon.write_config(
        {"a": member("heavy", "60GiB")},
        pool("heavy", "60GiB", "[0]") + pool("light", "24GiB", "[0]"),
    )
    for command in ("check-config", "run"):
        done = subprocess.run(
            [sys.executable, "-m", "warmd", command, "--config", str(daemon.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env=os.environ,
        )
        assert done.returncode == 78, done.stderr
        assert "the pools don't fit on GPU 0: 5.0 GiB are missing:" in done.stderr
        assert "    pool heavy: 60.0 GiB" in done.stderr.splitlines()


def test_a_reload_to_pools_that_do_not_fit_changes_nothing(daemon: Daemon) -> None:
    daemon.turn("a")
    daemon.write_config({"a": member("heavy", "60GiB")}, pool("heavy", "60GiB", "[0]"))
    daemon.start()
    daemon.wait_for("ready", "a.0")
    before = daemon.replica("a.0")["pid"]
    daemon.write_config({"a": member("heavy", "60GiB")}, pool("heavy", "60GiB", "[1]"))
    answer = daemon.control("POST", "/reload", {})
    assert answer.status == 422
    assert "37.0 GiB are missing" in answer.json["error"]
    assert daemon.replica("a.0")["pid"] == before
    assert daemon.chat("a").status == 200


def test_a_pool_that_a_larger_one_pushes_to_another_gpu_takes_its_engine_along(
    daemon: Daemon,
) -> None:
    daemon.turn("a")
    daemon.write_config({"a": member("p", "20GiB")}, pool("p", "20GiB", '"auto"'))
    daemon.start()
    daemon.wait_for("ready", "a.0")
    assert cards(daemon, "a") == "GPU-bbbb"
    pools = pool("p", "20GiB", '"auto"') + pool("larger", "22GiB", '"auto"')
    daemon.write_config({"a": member("p", "20GiB")}, pools)
    plan = daemon.control("POST", "/plan", {"config": None}).json["models"]["a"]
    assert [key["key"] for key in plan["keys"]] == ["pools.p.gpus"]
    assert plan["replicas"][0]["fate"] == "made-anew"
    told = daemon.control("POST", "/reload", {}).json["changes"]
    assert told == ["a: pools.p.gpus has changed: an engine that runs is drained and made anew"]
    until(lambda: _started(daemon, "a")[-1] == "GPU-aaaa", "it stands on the other GPU")


def _started(daemon: Daemon, model: str) -> list[str | None]:
    started = [entry for entry in daemon.record(model) if entry["event"] == "started"]
    return [entry["env"].get("CUDA_VISIBLE_DEVICES") for entry in started]


def test_pools_wait_for_a_driver_that_comes_later_than_the_daemon(daemon: Daemon) -> None:
    """At boot: pools that name GPUs must not end the daemon with 78, which nobody restarts."""
    says = daemon.folder / "nvml"
    says.unlink()  # the library is there, and the kernel module isn't loaded
    daemon.turn("a")
    daemon.write_config({"a": member("p", "20GiB")}, pool("p", "20GiB", '["GPU-bbbb"]'))
    daemon.start()
    daemon.wait_for("ready", "a.0")
    says.write_text(TWO_GPUS)
    until(lambda: _started(daemon, "a")[-1] == "GPU-bbbb", "it stands where its pool says")
    assert daemon.log.count("a GPU can be used now") == 1


def test_a_pinned_model_stays_and_the_other_hears_why(daemon: Daemon) -> None:
    for model in "ab":
        daemon.turn(model)
    models = {
        "a": member("p", "15GiB", 'resting = "hot"\npinned = true'),
        "b": member("p", "15GiB", 'max_wait = "2s"'),
    }
    daemon.write_config(models, pool("p", "20GiB", "[1]") + '[fairness]\nbound = "1s"\n')
    daemon.start()
    daemon.wait_for("ready", "a.0")
    assert daemon.chat("b").status == 503
    assert daemon.replica("a.0")["phase"] == "ready"
    assert daemon.status["models"]["b"]["rung"] != "hot"
