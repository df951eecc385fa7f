"""Failures that users of vLLM's sleep mode have met, through a real daemon over the fake engine.

Each test is named after the failure and carries an issue where it was reported. The other failures
stand in test_known_failures.py.
"""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from random import Random

import pytest
from daemon_rig import Answer, Daemon, Operation, a_daemon, until

MIB = 2**20
SLEEPY = 'idle = { after = "200ms" }\nsleep = { slowest = "0%" }'
"""Asleep soon after its last request. On a busy host the fake's speed says nothing."""

DRILL = 'sleep = "drill"'


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as made:
        made.turn()
        yield made


def events(daemon: Daemon, model: str = "m") -> list[str]:
    return [each["event"] for each in daemon.record(model)]


def text(answer: Answer) -> str:
    """What the engine said; the fake repeats the question, which is `hi`."""
    assert answer.status == 200, answer.body
    return str(answer.json["choices"][0]["message"]["content"])


def is_right(answer: Answer) -> bool:
    return set(text(answer).split()) == {"hi"}


# One operation on the device at a time


def test_a_sleep_beside_a_wake_hangs_or_crashes(daemon: Daemon) -> None:
    """vllm#36753: under random demand no operation of one engine meets one of the other."""
    for name in ("a", "b"):
        daemon.turn(name, sleep={"first_sleep_s": 0.3, "sleep_s": 0.15, "wake_s": 0.15})
    daemon.write_config({"a": SLEEPY, "b": SLEEPY}, engine=DRILL)
    daemon.start()
    random = Random(36753)  # the same demand in each run
    answers: list[Future[Answer]] = []
    with ThreadPoolExecutor(24) as clients:
        for _ in range(24):
            answers.append(clients.submit(daemon.chat, random.choice("ab")))
            time.sleep(random.choice((0.05, 0.2, 0.6)))
        assert all(is_right(each.result()) for each in answers)
    done = daemon.operations("a", "b")
    assert all(one.end <= other.begin for one, other in pairwise(done)), done
    kinds = [(each.model, each.kind) for each in done]
    assert all(kinds.count((m, kind)) >= 2 for m in "ab" for kind in ("sleep", "wake")), kinds
    for name in ("a", "b"):
        assert events(daemon, name).count("started") == 1
        assert "asked-asleep" not in events(daemon, name), "no request was sent to a sleeper"


def test_a_wake_runs_out_of_memory_beside_a_hot_neighbour(daemon: Daemon) -> None:
    """vllm#55169: half awake after a 500, it is started anew, and its neighbour never notices."""
    daemon.turn("hot")
    daemon.turn(sleep={"fails_in": "wake", "failure": "500"})
    daemon.write_config({"m": SLEEPY, "hot": 'resting = "hot"'}, engine=DRILL)
    daemon.start()
    neighbour = daemon.wait_for("ready", "hot.0")["pid"]
    assert is_right(daemon.chat())
    first = daemon.wait_for("asleep")["pid"]
    with ThreadPoolExecutor(4) as clients:
        asked = clients.submit(daemon.chat)
        others = [clients.submit(daemon.chat, "hot") for _ in range(12)]
        assert is_right(asked.result())
        assert all(is_right(each.result()) for each in others)
    assert daemon.replica()["pid"] != first
    assert daemon.replica("hot.0")["pid"] == neighbour
    assert re.search("POST /wake_up was answered with HTTP 500.*out of memory", daemon.log)
    assert daemon.engine_processes() != []
    assert first not in [p.pid for p in daemon.engine_processes()]


def test_the_one_to_evict_is_never_idle_and_is_resurrected_in_the_middle(daemon: Daemon) -> None:
    """ollama#17408, llama-swap#946, #612: both are served in turn, each within the bound."""
    for name in ("a", "b"):
        daemon.turn(name, token_s=0.02, tokens=10, sleep={"sleep_s": 0.1, "wake_s": 0.1})
    lines = 'pool = "p"\nvram = "8GiB"\nsleep = { slowest = "0%" }'
    rules = '[pools.p]\nvram = "10GiB"\n[fairness]\nbound = "1s"'
    daemon.write_config({"a": lines, "b": lines}, rules, engine=DRILL)
    daemon.start()
    assert is_right(daemon.chat("a"))
    end = time.monotonic() + 7.0
    longest = {"a": 0.0, "b": 0.0}

    def ask_on_and_on(model: str) -> None:
        while time.monotonic() < end:
            asked = time.monotonic()
            assert is_right(daemon.chat(model))
            longest[model] = max(longest[model], time.monotonic() - asked)

    with ThreadPoolExecutor(6) as clients:
        for client in [clients.submit(ask_on_and_on, model) for model in "ababab"]:
            client.result()
    turns = [each for each in daemon.operations("a", "b") if each.kind != "sigterm"]
    for put_aside, next_up in pairwise(turns):
        if put_aside.kind == "sleep":
            assert next_up.model != put_aside.model, turns
            assert next_up.kind in ("wake", "started"), turns
    assert _count(turns, "wake") >= 2, turns
    assert _count(turns, "started") == 2, turns
    # Beyond the bound: a drain of 0.2 s, the sleep, the wake or a start, and its proof.
    assert max(longest.values()) < 1.0 + 4.0, longest


def _count(operations: list[Operation], kind: str) -> int:
    return sum(each.kind == kind for each in operations)


# Sleep under requests


def test_a_sleep_while_requests_run_aborts_them_behind_a_200(daemon: Daemon) -> None:
    """vllm#28714, #45520: they are drained first, and end as they would have ended."""
    daemon.turn(token_s=0.1, tokens=8, sleep={"sleep_s": 0.4})
    daemon.write_config({"m": 'sleep = { slowest = "0%" }'}, engine=DRILL)
    daemon.start()
    assert is_right(daemon.chat())
    with ThreadPoolExecutor(2) as clients:
        streams = [clients.submit(daemon.chat, stream=True) for _ in range(2)]
        until(lambda: daemon.replica()["in_flight"] == 2, "they stream")
        daemon.set("m", "asleep")
        for stream in streams:
            body = stream.result().body
            assert body.endswith(b"data: [DONE]\n\n")
            assert b'"finish_reason":"stop"' in body
            assert b"abort" not in body
    daemon.wait_for("asleep")
    seen = [event for event in events(daemon) if event != "request"]
    assert seen[-4:] == ["done", "done", "sleep", "slept"]
    daemon.set("m", "auto")
    assert is_right(daemon.chat())
    assert events(daemon).count("started") == 1
    assert "asked-asleep" not in events(daemon)


def test_a_stream_that_outlasts_the_drain_looks_complete(daemon: Daemon) -> None:
    """vllm#45520: it is cut, so that its client sees that the end is missing."""
    daemon.turn(token_s=0.2, tokens=100)
    daemon.write_config({"m": ""}, engine=DRILL)
    config = daemon.config.read_text().replace('drain_timeout = "5s"', 'drain_timeout = "1s"')
    daemon.config.write_text(config)
    daemon.start()
    with ThreadPoolExecutor(1) as client:
        stream = client.submit(daemon.chat, stream=True)
        until(lambda: daemon.replica()["in_flight"], "it streams")
        asked = time.monotonic()
        daemon.set("m", "asleep")
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            stream.result()
    until(lambda: "sigterm" in events(daemon), "its engine is stopped instead")
    seen = events(daemon)
    assert "sleep" not in seen[: seen.index("sigterm")]
    assert "1 request still ran after 1 s" in daemon.log
    stopped = next(each["at"] for each in daemon.record() if each["event"] == "sigterm")
    assert 1.0 <= stopped - asked < 1.9, "it is drained once, not once more for its stop"


# What a wake that answered 200 is worth


@pytest.mark.parametrize("failure", ["garbage", "no weights after level 2"])
def test_garbage_after_a_wake_that_answered_200(daemon: Daemon, failure: str) -> None:
    """vllm#29341: no answer of it reaches anybody, and the log shows both hashes."""
    if failure == "garbage":
        level = 1
        daemon.turn(sleep={"wrong_from_wake": 1})
    else:
        level = 2
        daemon.turn(sleep={"fails_in": "reload", "failure": "lie"})
    lines = f'idle = {{ after = "200ms" }}\nsleep = {{ level = {level}, slowest = "0%" }}'
    daemon.write_config({"m": lines}, engine=DRILL)
    daemon.start()
    assert is_right(daemon.chat())
    first = daemon.wait_for("asleep")["pid"]
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: daemon.chat(), range(4)))
    assert all(is_right(each) for each in answers)
    assert daemon.replica()["pid"] != first
    told = re.search(r"the canary's answer was (\w{12}) .* and is now (\w{12})", daemon.log)
    assert told is not None, daemon.log
    assert told[1] != told[2]
    assert "was not served" in daemon.log


def test_half_the_speed_after_a_wake_that_answered_200(daemon: Daemon) -> None:
    """vllm#52479."""
    daemon.turn(token_s=0.01, sleep={"slow_from_wake": 1, "slow_token_s": 0.06})
    daemon.write_config({"m": 'idle = { after = "200ms" }'}, engine=DRILL)
    daemon.start()
    assert is_right(daemon.chat())
    first = daemon.wait_for("asleep")["pid"]
    assert is_right(daemon.chat())
    assert daemon.replica()["pid"] != first
    assert re.search(r"came at [\d.]+ tokens a second and comes now at", daemon.log)
    seen = events(daemon)
    last = [json for json in daemon.record() if json["event"] == "request"][-1]
    assert seen.count("started") == 2
    assert '"hi"' in last["body"]


# What sleep takes and never gives back


def test_each_sleep_leaks_until_an_engine_gives_garbage(daemon: Daemon) -> None:
    """vllm#21336: it is made anew in a quiet moment, long before."""
    daemon.turn(sleep={"pinned_bytes": 8 * MIB, "leaked_bytes": 48 * MIB, "wrong_from_wake": 2})
    lines = 'idle = { after = "200ms" }\nsleep = { growth = "24MiB", slowest = "0%" }'
    daemon.write_config({"m": lines}, engine='sleep = "on"')
    daemon.start()
    assert is_right(daemon.chat())
    first = daemon.wait_for("asleep")["pid"]
    assert is_right(daemon.chat())
    assert daemon.replica()["pid"] == first, "one sleep leaves nothing to compare it with"
    until(lambda: (r := daemon.replica())["phase"] == "asleep" and r["pid"] != first, "it is new")
    assert re.search(r"asleep it holds \S+ MiB more than at first, and is made anew", daemon.log)
    second = daemon.replica()["pid"]
    assert is_right(daemon.chat())
    assert daemon.replica()["pid"] == second, "nobody had to wait for the new one's start"
    assert "canary" not in daemon.log
    requests = [e["body"] for e in daemon.record() if e["event"] == "request"]
    assert sum('"hi"' in body for body in requests) == 3, "and nobody was cut off"


def test_the_first_sleep_takes_host_ram_and_never_returns_it(daemon: Daemon) -> None:
    """vllm#16663: what is pinned counts, awake too; who doesn't fit beside it rests lower."""
    daemon.turn("a", sleep={"pinned_bytes": 96 * MIB})
    daemon.turn("b", sleep={"pinned_bytes": 1 * MIB})
    lines = f'{SLEEPY}\nresting = "cold"'
    daemon.write_config(
        {"a": lines, "b": lines}, '[ram]\nsleeping = "64MiB"', engine='sleep = "on"'
    )
    daemon.start()
    assert is_right(daemon.chat("a"))
    pid = daemon.wait_for("asleep", "a.0")["pid"]
    daemon.set("a", "hot")
    daemon.wait_for("ready", "a.0")
    assert is_right(daemon.chat("b"))
    daemon.wait_for("down", "b.0")
    refused = r"its sleep would take \S+ \S+, which don't fit in ram.sleeping: \S+ \S+ of 64.0 MiB"
    assert re.search(f"b.0.*{refused}", daemon.log), daemon.log
    assert daemon.wait_for_rung("staged", "b")["rung"] == "staged"
    assert "sleep" not in events(daemon, "b")
    assert daemon.replica("a.0")["pid"] == pid
    # Its process alone gives it back; and the next time its measure is known before.
    daemon.set("a", "cold")
    daemon.wait_for("down", "a.0")
    assert is_right(daemon.chat("b"))
    daemon.wait_for("asleep", "b.0")
    daemon.set("a", "auto")
    assert is_right(daemon.chat("a"))
    daemon.wait_for("down", "a.0")
    assert re.search(f"a.0.*{refused}", daemon.log), daemon.log
    assert events(daemon, "a").count("sleep") == 1
