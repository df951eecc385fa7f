"""Requests of warmd's own: warm-ups that must be right, keep-alives that count as nobody's."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from daemon_rig import Daemon, a_daemon, until

QUICK_TO_GIVE_UP = '[restart]\ngive_up_after = 1\nmax_delay = "100ms"\n'
IDLE = 'idle = { after = "3500ms", then = "cold" }'
KEPT = f'{IDLE}\nkeepalive = {{ every = "200ms", prompt = "tick" }}'


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as daemon:
        yield daemon


def asked(daemon: Daemon, word: str) -> list[dict[str, Any]]:
    """The bodies of the requests for chats, completions or embeddings that hold `word`."""
    requests = [e for e in daemon.record() if e["event"] == "request" and word in e["body"]]
    return [json.loads(each["body"]) for each in requests]


def metric(daemon: Daemon, name: str) -> float:
    text = daemon.control("GET", "/metrics").body.decode()
    return sum(
        float(x) for x in re.findall(rf"^{re.escape(name)} ([0-9.e+-]+)$", text, re.MULTILINE)
    )


def history(daemon: Daemon) -> Any:
    return daemon.control("GET", "/history?model=m").json["models"]["m"]


@pytest.mark.parametrize(
    ("warmup", "says", "reason"),
    [
        ('expect = "(?i)^yes"', "no", "got a wrong answer: 'no', which doesn't match warmup.exp"),
        ('response_format = "json", max_tokens = 64', "ok", "'ok', which is no JSON"),
    ],
)
def test_a_wrong_answer_is_not_ready_and_the_reason_is_told(
    daemon: Daemon, warmup: str, says: str, reason: str
) -> None:
    daemon.write_config({"m": f'resting = "hot"\nwarmup = {{ {warmup} }}'}, QUICK_TO_GIVE_UP)
    daemon.turn(says=says)
    daemon.start()
    assert reason in daemon.wait_for("failed")["reason"]
    assert daemon.chat().status == 503


def test_a_right_answer_is_what_was_asked_for_and_its_first_token_is_kept(daemon: Daemon) -> None:
    schema = json.dumps({"type": "object", "required": ["ok"]})
    warmup = f"response_format = '{schema}', max_tokens = 64, seed = 7, top_p = 0.5"
    daemon.write_config({"m": f'resting = "hot"\nwarmup = {{ {warmup} }}'})
    daemon.turn(says='{"ok": true}', first_token_s=0.2)
    daemon.start()
    daemon.wait_for("ready")
    (body,) = asked(daemon, "Reply with one word")
    assert (body["seed"], body["top_p"], body["max_tokens"]) == (7, 0.5, 64)
    assert body["response_format"]["json_schema"]["schema"] == json.loads(schema)
    (start,) = until(lambda: history(daemon)["last_starts"], "the start is written down")
    assert 0.2 <= start["first_token_s"] < 5


def test_each_wake_is_warmed_up_too_adapters_as_well(daemon: Daemon) -> None:
    idle = 'idle = { after = "200ms" }\nargs = ["--enable-lora", "--lora-modules", "polite=/l"]'
    lines = f'{idle}\nwarmup = {{ adapters = ["polite"], prompt = "wake up" }}\n'
    daemon.write_config({"m": f"{lines}sleep = {{ rehearse = false }}"}, engine='sleep = "drill"')
    daemon.turn(first_token_s=0.05)
    daemon.start()
    assert daemon.chat().status == 200
    daemon.wait_for("asleep")
    before = len(asked(daemon, "wake up"))
    assert daemon.chat().status == 200
    woken = [body["model"] for body in asked(daemon, "wake up")[before:]]
    assert woken == ["m", "polite"]
    tokens = until(lambda: history(daemon)["first_tokens_awake"], "the wake is written down")
    assert tokens["count"] == 1
    assert tokens["max"] >= 0.05


def test_keep_alives_are_nobodys_demand_and_are_counted_apart(daemon: Daemon) -> None:
    daemon.write_config({"m": KEPT})
    daemon.turn()
    daemon.start()
    assert daemon.chat().status == 200
    began = time.monotonic()
    until(lambda: len(asked(daemon, "tick")) >= 2, "it is kept warm")
    assert daemon.status["models"]["m"]["keepalive"] == "every 0.2 s"
    daemon.wait_for("down")  # it cools down all the same, and on time
    assert 3.0 < time.monotonic() - began < 8.0
    ticks = len(asked(daemon, "tick"))
    counts = history(daemon)
    assert counts["requests"]["count"] == 1
    assert counts["synthetic"]["keepalive"]["answered"] == ticks
    assert counts["synthetic"]["keepalive"]["first_token_max"] > 0
    counter = 'warmd_synthetic_requests_total{kind="keepalive",model="m",outcome="answered"}'
    assert metric(daemon, counter) == ticks
    path = 'path="/v1/chat/completions"'
    assert metric(daemon, f'warmd_requests_total{{code="200",model="m",{path}}}') == 1


def test_real_traffic_makes_a_keep_alive_needless(daemon: Daemon) -> None:
    daemon.write_config({"m": 'resting = "hot"\nkeepalive = { every = "2s", prompt = "tick" }'})
    daemon.turn()
    daemon.start()
    daemon.wait_for("ready")
    end = time.monotonic() + 4.5
    while time.monotonic() < end:
        assert daemon.chat().status == 200
        time.sleep(0.1)
    assert not asked(daemon, "tick")
    until(lambda: asked(daemon, "tick"), "it is kept warm once nobody asks")


def test_a_keep_alive_that_fails_is_told_once_and_counted(daemon: Daemon) -> None:
    kept = 'keepalive = { every = "150ms" }\nwarmup = { expect = "ok" }'
    daemon.write_config({"m": f'resting = "hot"\n{kept}'})
    daemon.turn(says="ok", says_later=[1, "no"])
    daemon.start()
    daemon.wait_for("ready")
    until(lambda: len(asked(daemon, "Reply with")) >= 3, "it was asked twice more")
    counts = history(daemon)["synthetic"]["keepalive"]
    assert counts["failed"] >= 1
    assert "doesn't match warmup.expect" in counts["last_failure"]
    assert daemon.log.count("its keep-alive failed: the warm-up chat request got a wrong") == 1
    assert daemon.replica()["phase"] == "ready"  # whether it hangs is for its watch to say
    assert daemon.chat().status == 200
