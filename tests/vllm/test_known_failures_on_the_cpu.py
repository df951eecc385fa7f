"""Known failures of vLLM, provoked in the real one on the CPU, through a real daemon.

Two models share a pool that holds one of them, and a daemon that all tests share. Sleep is a drill
here: the scheduler, the endpoints, the processes and the answers are the real ones, and no memory
is freed. So what sleep does to memory and speed is shown over the fake engine alone.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from daemon_rig import Answer, Daemon, UnixConnection, a_daemon, until

PATIENCE_S = 300.0
BOUND_S = 3.0
VRAM_GIB = 3

pytestmark = pytest.mark.skipif(
    "WARMD_TEST_ENGINE_PYTHON" not in os.environ, reason="no engine's Python: run scripts/test"
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A daemon with two models, `one` of sleep level 1 and `two` of level 2."""
    with a_daemon() as made:
        made.write_config({}, gateway=f'max_wait = "{PATIENCE_S:g}s"')
        text = (
            made.config.read_text().partition("[engine]")[0]
            + f"""
[engine]
python = "{os.environ["WARMD_TEST_ENGINE_PYTHON"]}"
sleep = "drill"
drain_timeout = "20s"
stop_timeout = "10s"
hang_after = "8s"
[fairness]
bound = "{BOUND_S:g}s"
[pools.device]
vram = "4GiB"
"""
        )
        for level, name in enumerate(("one", "two"), 1):
            shutil.copytree(os.environ["WARMD_TEST_MODEL"], made.folder / name)
            text += f"""
[models.{name}]
weights = "{made.folder / name}"
resting = "cold"
pool = "device"
vram = "{VRAM_GIB}GiB"
args = ["--max-model-len", "1024", "--enforce-eager"]
sleep = {{ level = {level}, slowest = "0%" }}
"""
        made.config.write_text(text)
        made.start()
        yield made


def ask(daemon: Daemon, model: str, tokens: int = 8, **more: object) -> Answer:
    body = {"model": model, "prompt": "the quick", "max_tokens": tokens, "ignore_eos": True}
    return daemon.post("/v1/completions", body | more, PATIENCE_S)


def is_whole(answer: Answer, tokens: int = 8) -> bool:
    """Whether the answer came to its end, and nobody aborted it behind a 200."""
    assert answer.status == 200, answer.body
    ending = answer.json["choices"][0]["finish_reason"]
    return bool(ending == "length" and answer.json["usage"]["completion_tokens"] == tokens)


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def tree(daemon: Daemon, replica: str) -> list[psutil.Process]:
    """The processes of an engine, its API server first."""
    main = psutil.Process(daemon.replica(replica)["pid"])
    return [main, *main.children(recursive=True)]


def engine_core(daemon: Daemon, replica: str) -> psutil.Process | None:
    try:
        found = [p for p in tree(daemon, replica) if "EngineCore" in " ".join(p.cmdline())]
    except (psutil.NoSuchProcess, TypeError):
        return None
    return found[0] if found else None


def stop_in_mid_start(daemon: Daemon, model: str, but: int) -> None:
    """Call the start of an engine off that has its EngineCore; `but`: the pid of its forerunner."""
    until(
        lambda: (
            daemon.replica(f"{model}.0")["pid"] not in (but, None)
            and engine_core(daemon, f"{model}.0")
        ),
        f"the EngineCore of another {model}",
        PATIENCE_S,
    )
    assert daemon.replica(f"{model}.0")["phase"] == "starting"
    started = tree(daemon, f"{model}.0")
    assert len(started) >= 2
    daemon.set(model, "cold")
    daemon.wait_for("down", f"{model}.0")
    assert not any(lives(process) for process in started)


@contextmanager
def watched(daemon: Daemon) -> Iterator[list[dict[str, str]]]:
    """Look at the phases of both replicas again and again; a list of all that differ in a row."""
    seen: list[dict[str, str]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            models = daemon.status["models"]
            now = {name: m["replicas"][0]["phase"] for name, m in models.items()}
            if not seen or seen[-1] != now:
                seen.append(now)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def test_two_engines_in_one_memory_are_each_held_to_their_own_part(daemon: Daemon) -> None:
    """vllm#54354: its share covers the worker and its KV cache, the rest all other processes."""
    assert is_whole(ask(daemon, "one"))
    log = (daemon.run_dir / "engines" / "one.0" / "engine.log").read_text()
    told = re.search(
        r"Auto set \((?P<kv>[\d.]+)/[\d.]+\) GiB for KV cache .* with (?P<share>[\d.]+) GiB"
        r" requested memory for the worker\. (?P<beside>[\d.]+) GiB",
        log,
    )
    assert told is not None, log
    kv_cache, share, beside = (float(part) for part in told.groups())
    assert kv_cache > 0
    assert kv_cache + beside <= share + 0.02
    api, *others = tree(daemon, "one.0")
    programs = [api, *(each for each in others if "Worker" not in " ".join(each.cmdline()))]
    held = sum(each.memory_full_info().pss for each in programs) / 2**30
    print(f"KV cache {kv_cache}, beside it {beside}, of {share} GiB; programs {held:.2f} GiB")
    assert share + held <= VRAM_GIB


OPERATIONS = {"starting", "warming", "draining", "falling-asleep", "waking", "stopping"}


def test_a_busy_model_starves_the_one_that_waits(daemon: Daemon) -> None:
    """llama-swap#612, #946, vllm#36753: under constant load on both, both are served in turn.

    None is put to sleep or woken while the other moves, and none comes back in the middle.
    """
    assert is_whole(ask(daemon, "one"))
    both_up, over = threading.Event(), threading.Event()
    longest = {"one": 0.0, "two": 0.0}

    def ask_on_and_on(model: str) -> int:
        times = 0
        while not over.is_set():
            asked, counts = time.monotonic(), both_up.is_set()
            assert is_whole(ask(daemon, model, 16), 16)
            if counts:
                longest[model] = max(longest[model], time.monotonic() - asked)
            times += 1
        return times

    with ThreadPoolExecutor(4) as clients, watched(daemon) as seen:
        try:
            busy = [clients.submit(ask_on_and_on, "one") for _ in range(2)]
            assert is_whole(ask(daemon, "two")), "though `one` was never idle"
            both_up.set()
            busy += [clients.submit(ask_on_and_on, "two") for _ in range(2)]
            until(lambda: daemon.log.count("asleep -> hot") >= 4, "both woke twice")
        finally:
            over.set()
        assert all(client.result() for client in busy)
    assert {"one": "asleep", "two": "starting"} in seen, "it made room before the other came"
    for phases in seen:
        assert sum(phase in OPERATIONS for phase in phases.values()) <= 1, phases
        assert list(phases.values()) != ["ready", "ready"]
    moves = re.findall(r"(one|two)\.0  (\w+ -> \w+)", daemon.log)
    turns = [(model, move) for model, move in moves if "hot" in move]
    for (put_aside, move), (next_up, rise) in pairwise(turns):
        if move == "hot -> asleep":
            assert (next_up != put_aside, rise[-6:]) == (True, "-> hot"), turns
    assert max(longest.values()) < BOUND_S + 10.0, longest


def test_a_sleep_under_a_stream_aborts_it_behind_a_200(daemon: Daemon) -> None:
    """vllm#28714, #45520: it is drained first, and ends as it would have ended.

    The engine's processes spin while it answers: on two cores they kept this one from looking
    for up to 1.5 s, and then the stream of this tiny model is over first; the fake's never is.
    """
    assert is_whole(ask(daemon, "one"))
    pid = daemon.replica("one.0")["pid"]
    with ThreadPoolExecutor(1) as client:
        stream = client.submit(ask, daemon, "one", 900, stream=True)
        until(
            lambda: stream.done() or daemon.replica("one.0")["in_flight"], "it streams", PATIENCE_S
        )
        daemon.set("one", "asleep")
        body = stream.result().body
        daemon.wait_for("asleep", "one.0")
    events = [json.loads(line[6:]) for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert body.endswith(b"data: [DONE]\n\n")
    assert daemon.replica("one.0")["pid"] == pid
    daemon.set("one", "auto")
    assert is_whole(ask(daemon, "one"))


def test_garbage_after_a_wake_that_answered_200(daemon: Daemon) -> None:
    """vllm#29341: sound engines pass at both levels; one whose weights were changed in its sleep
    answers 200 to everything and is never served.

    Nothing makes this engine corrupt itself. But level 2 reads its weights again, on the CPU too:
    so they are exchanged behind its back.
    """
    for model in ("one", "two"):
        assert is_whole(ask(daemon, model))
        daemon.set(model, "asleep")
        daemon.wait_for("asleep", f"{model}.0")
        daemon.set(model, "auto")
        assert is_whole(ask(daemon, model))
    assert "canary" not in daemon.log
    daemon.set("two", "asleep")
    asleep = daemon.wait_for("asleep", "two.0")
    shift_the_vocabulary(daemon.folder / "two" / "model.safetensors")
    daemon.set("two", "auto")
    answer = ask(daemon, "two")
    assert is_whole(answer)
    told = re.search(r"the canary's answer was (\w{12}) .* and is now (\w{12})", daemon.log)
    assert told is not None, daemon.log
    assert told[1] != told[2]
    assert daemon.replica("two.0")["pid"] != asleep["pid"]


def shift_the_vocabulary(file: Path) -> None:
    """Make a model say other tokens than before: the rows of its last layer change places."""
    with file.open("r+b") as weights:
        size = int.from_bytes(weights.read(8), "little")
        header: dict[str, Any] = json.loads(weights.read(size))
        begin, end = header["lm_head.weight"]["data_offsets"]
        weights.seek(8 + size + begin)
        rows = weights.read(end - begin)
        third = len(rows) // header["lm_head.weight"]["shape"][0] * 100
        weights.seek(8 + size + begin)
        weights.write(rows[third:] + rows[:third])


def test_health_is_green_while_nothing_moves_and_a_stop_orphans_workers(daemon: Daemon) -> None:
    """vllm#39863, and vllm#32116 at the end of it: the start of the next engine is called off."""
    assert is_whole(ask(daemon, "two"))
    frozen = tree(daemon, "two.0")
    core = engine_core(daemon, "two.0")
    assert core is not None
    core.suspend()
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(ask, daemon, "two")
        until(lambda: daemon.replica("two.0")["in_flight"], "it has the request")
        assert health(daemon, "two.0") == 200
        stop_in_mid_start(daemon, "two", but=frozen[0].pid)
        assert asked.result().status == 503
    assert "1 request in flight and not one token for" in daemon.log
    assert not any(lives(process) for process in frozen)


def health(daemon: Daemon, replica: str) -> int:
    """What vLLM says of itself."""
    connection = UnixConnection(daemon.run_dir / "engines" / replica / "engine.sock")
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_killed_api_server_leaves_its_engine_core(daemon: Daemon) -> None:
    """vllm#55510: all of it has ended before the next one is started."""
    assert is_whole(ask(daemon, "one"))
    processes = tree(daemon, "one.0")
    assert len(processes) >= 2
    processes[0].kill()
    until(lambda: daemon.replica("one.0")["pid"] != processes[0].pid, "its end is seen")
    until(lambda: daemon.replica("one.0")["phase"] == "starting", "another one is started")
    assert not any(lives(process) for process in processes)
    with pytest.raises((http.client.HTTPException, OSError)):
        health(daemon, "one.0")
    daemon.set("one", "cold")
    daemon.wait_for("down", "one.0")
    assert daemon.engine_processes() == []
