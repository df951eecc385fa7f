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
from daemon_rig import PATIENCE_S, Daemon, a_daemon, until
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
        done = warmd(daemon, command)
        assert done.returncode == 78, done.stderr
        assert "the pools don't fit on GPU 0: 5.0 GiB are missing; lower a `vram`" in done.stderr
        assert "    pool heavy: 60.0 GiB" in done.stderr.splitlines()


def warmd(daemon: Daemon, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "warmd", command, "--config", str(daemon.config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=os.environ,
    )


def a_sized_model(folder: Path) -> None:
    """Give a folder the files of a model whose size can be told."""
    config = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 128}
    (folder / "config.json").write_text(
        json.dumps(config | {"vocab_size": 512, "max_position_embeddings": 1024})
    )
    entry = {"dtype": "BF16", "shape": [512, 128], "data_offsets": [0, 1 << 17]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    size = len(header).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(size + header + bytes(1 << 17))


def measured(daemon: Daemon, model: str) -> bool:
    told = daemon.control("GET", f"/size?model={model}").json
    return told["version"] is not None and told["parts"][0]["measured"] is not None


def test_every_model_has_its_own_room_whether_it_states_it_or_not(daemon: Daemon) -> None:
    gpus = TWO_GPUS.replace(f"{80 * GIB} {2 * GIB}", f"{80 * GIB} {GIB // 2}")
    (daemon.folder / "nvml").write_text(gpus)  # a driver takes less than the headroom
    for model in "abc":
        daemon.turn(model)
    hot = 'resting = "hot"'
    models = {"a": f'vram = "10GiB"\n{hot}', "b": f'vram = "auto"\n{hot}', "c": hot}
    daemon.write_config(models)
    a_sized_model(daemon.folder / "weights-b")
    told = [
        "b has 2.8 GiB on GPU 1 for each engine, as estimated from its files",
        (
            "c has 73.6 GiB on GPU 0 for each engine, what is left there for vLLM, as it states "
            "neither pool nor vram"
        ),
    ]
    checked = warmd(daemon, "check-config")
    assert checked.returncode == 0, checked.stderr
    assert not checked.stderr
    lines = checked.stdout.splitlines()
    assert [f"# {line}" for line in told] == [line for line in lines if " for each engine" in line]
    assert "#     b, a pool of its own: 2.8 GiB" in lines

    daemon.start()
    for model in "abc":
        daemon.wait_for("ready", f"{model}.0")
    assert all(line in daemon.log for line in told)
    assert [cards(daemon, model) for model in "abc"] == ["GPU-bbbb", "GPU-bbbb", "GPU-aaaa"]
    assert daemon.status["models"]["b"]["vram_by"] == "estimated"

    until(lambda: measured(daemon, "b"), "what its start took is kept")
    again = warmd(daemon, "check-config").stdout
    assert "# b has 2.0 GiB on GPU 1 for each engine, as estimated from its files and meas" in again


def test_an_engine_that_outlives_warmd_keeps_the_room_that_it_was_started_with(
    daemon: Daemon,
) -> None:
    daemon.turn("m")
    daemon.write_config({"m": 'vram = "auto"\nresting = "hot"'})
    a_sized_model(daemon.folder / "weights-m")
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("[host]", "[host]\nengines_outlive_daemon = true"))
    daemon.start()
    before = daemon.wait_for("ready")["pid"]
    until(lambda: measured(daemon, "m"), "what its start took is kept")
    daemon.stop()
    daemon.start()
    assert daemon.wait_for("ready")["pid"] == before
    assert daemon.status["models"]["m"]["vram_by"] == "estimated"
    assert daemon.control("POST", "/shutdown", {}).status == 200
    assert daemon.process is not None
    daemon.process.wait(timeout=PATIENCE_S)
    daemon.process = None
    daemon.start()
    daemon.wait_for("ready")
    assert daemon.status["models"]["m"]["vram_by"] == "measured"


def test_a_reload_moves_who_must_make_way_and_nobody_else(daemon: Daemon) -> None:
    for model in "ab":
        daemon.turn(model)
    models = dict.fromkeys("ab", 'vram = "15GiB"\nresting = "hot"')
    models["b"] = models["b"].replace("15", "30")
    daemon.write_config(models)
    daemon.start()
    pids = {name: daemon.wait_for("ready", f"{name}.0")["pid"] for name in "ab"}
    daemon.write_config(models, pool("p", "20GiB", "[1]"))
    said = daemon.control("POST", "/reload", {}).json["changes"]
    assert said == ["a: reservation has changed: an engine that runs is drained and made anew"]
    until(lambda: daemon.replica("a.0")["pid"] not in (pids["a"], None), "a is made anew")
    daemon.wait_for("ready", "a.0")
    seen = [e["env"]["CUDA_VISIBLE_DEVICES"] for e in daemon.record("a") if e["event"] == "started"]
    assert seen == ["GPU-bbbb", "GPU-aaaa"]
    assert daemon.replica("b.0")["pid"] == pids["b"]


def test_a_size_that_can_not_be_told_is_an_error_and_a_missing_disk_is_none(
    daemon: Daemon,
) -> None:
    daemon.turn("a")
    daemon.write_config({"a": 'vram = "auto"\nresting = "hot"', "b": 'resting = "cold"'})
    a_sized_model(weights := daemon.folder / "weights-a")
    weights.rename(away := daemon.folder / "away")
    daemon.start()
    why = f"a can't be started: its vram is \"auto\", and its files weren't at {weights} when"
    until(lambda: why in (daemon.status["models"]["a"]["held_up_by"] or ""), "it is said")
    away.rename(weights)
    whole = (weights / "model.safetensors").read_bytes()
    (weights / "model.safetensors").write_bytes(whole[:-1])
    refused = daemon.control("POST", "/reload", {})
    assert refused.status == 422
    assert 'models.a.vram: "auto" can\'t be told:' in refused.json["error"]
    (weights / "model.safetensors").write_bytes(whole)
    assert daemon.control("POST", "/reload", {}).status == 200
    daemon.wait_for("ready", "a.0")


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
    assert [key["key"] for key in plan["keys"]] == ["reservation"]
    assert plan["replicas"][0]["fate"] == "made-anew"
    told = daemon.control("POST", "/reload", {}).json["changes"]
    assert told == ["a: reservation has changed: an engine that runs is drained and made anew"]
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


def test_nothing_starts_unbound_on_gpus_that_nobody_could_name_yet(daemon: Daemon) -> None:
    """It would take a GPU of vLLM's choosing, as much as vLLM likes, and be made anew soon."""
    says = daemon.folder / "nvml"
    says.write_text(f"{TWO_GPUS}error nvmlInit 18\n")  # library and module of two versions
    for model in "ab":
        daemon.turn(model)
    daemon.write_config({"a": 'vram = "20GiB"\nresting = "hot"', "b": 'resting = "hot"'})
    daemon.start()
    yet = "can't be started: nobody can tell yet what GPUs there are"

    def said() -> bool:
        models = daemon.status["models"]
        return all(f"{name} {yet}" in str(models[name]["held_up_by"]) for name in "ab")

    until(said, yet)
    assert daemon.log.count("differ in version") == 1
    says.write_text(TWO_GPUS.replace(f"{80 * GIB} {2 * GIB}", f"{80 * GIB} 0"))
    for model in "ab":
        daemon.wait_for("ready", f"{model}.0")
    assert _started(daemon, "a") + _started(daemon, "b") == ["GPU-bbbb", "GPU-aaaa"]


def test_pools_that_do_not_fit_on_gpus_that_come_later_start_nothing_there(daemon: Daemon) -> None:
    says = daemon.folder / "nvml"
    says.write_text(f"{TWO_GPUS}error nvmlInit 18\n")
    daemon.turn("a")
    daemon.write_config({"a": member("p", "30GiB")}, pool("p", "30GiB", "[1]"))
    daemon.start()
    says.write_text(TWO_GPUS)
    why = "a can't be started: what is reserved for it could not be told when the GPUs came"
    until(lambda: why in str(daemon.status["models"]["a"]["held_up_by"]), why)
    assert "the pools don't fit on GPU 1" in daemon.log
    daemon.write_config({"a": member("p", "20GiB")}, pool("p", "20GiB", "[1]"))
    assert daemon.control("POST", "/reload", {}).status == 200
    daemon.wait_for("ready", "a.0")
    assert _started(daemon, "a") == ["GPU-bbbb"]


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
    status = daemon.status
    assert status["models"]["b"]["rung"] != "hot"
    assert "a.0 is hot there and pinned" in status["models"]["b"]["held_up_by"]
    warned = "b (15.0 GiB) can't be hot beside what is pinned and rests hot in pool p (a): there is"
    assert warned in "".join(status["warnings"])
    assert f"warning: {warned}" in daemon.log
    checked = warmd(daemon, "check-config")
    assert checked.returncode == 0
    assert f"# warning: {warned}" in checked.stdout
    daemon.write_config(models, pool("p", "20GiB", "[1]") + '[fairness]\nbound = "2s"\n')
    plan = daemon.control("POST", "/plan", {}).json
    assert plan["steps"] == []
    assert "held up: pool p is full" in plan["models"]["b"]["replicas"][0]["sentence"]
