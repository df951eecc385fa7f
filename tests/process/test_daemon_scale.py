"""Replicas on demand: the whole daemon over fake engines that run two requests at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from daemon_rig import Answer, Daemon, a_daemon, until

SCALE = 'scale = { max = 2, waiting_above = 1, for = "500ms", cool_down = "1s" }'
REMEDY = "raise its `replicas`, or `scale.max`, then `warmctl reload`"
HOT = 'resting = "hot"'


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as made:
        made.turn(slots=2, token_s=0.02, tokens=5, seconds={"imports": 0.5})
        yield made


@dataclass
class Crowd:
    """Clients that ask one after the other, so many at a time."""

    daemon: Daemon
    answers: list[Answer] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        while not self.gone.is_set():
            self.answers.append(self.daemon.chat())


@contextmanager
def a_crowd(daemon: Daemon, size: int) -> Iterator[Crowd]:
    crowd = Crowd(daemon)
    with ThreadPoolExecutor(size) as clients:
        asking = [clients.submit(crowd.ask) for _ in range(size)]
        try:
            yield crowd
        finally:
            crowd.gone.set()
    for each in asking:
        each.result()


def test_a_crowd_gets_a_second_engine_and_gives_it_back(daemon: Daemon) -> None:
    daemon.write_config({"m": f"{HOT}\n{SCALE}"}, engine='sleep = "drill"')
    daemon.start()
    daemon.wait_for("ready")
    with a_crowd(daemon, 8) as crowd:
        model = until(
            lambda: (m := daemon.status["models"]["m"])["replicas_wanted"] == 2 and m, "two"
        )
        assert "2 replicas: " in model["reason"]
        assert "requests waited for 0.5 s" in model["reason"]
        daemon.wait_for("ready", "m.1")
        since = len(crowd.answers)
        # Whoever is new goes where the fewest are.
        until(lambda: daemon.replica("m.1")["in_flight"] >= 2, "the second one serves as well")
        until(lambda: len(crowd.answers) > since + 20, "all go on")
    assert {answer.status for answer in crowd.answers} == {200}
    # What is wanted no longer sleeps, and a second crowd only has to wake it.
    daemon.wait_for("asleep", "m.1")
    model = daemon.status["models"]["m"]
    assert (model["replicas_wanted"], model["target"]) == (1, "hot")
    assert "1 replica: its load has fitted in so few for 1 s" in daemon.replica("m.1")["reason"]
    assert daemon.replica("m.0")["phase"] == "ready"
    with a_crowd(daemon, 8) as crowd:
        daemon.wait_for("ready", "m.1")
    assert {answer.status for answer in crowd.answers} == {200}
    assert [e["event"] for e in daemon.record()].count("started") == 2
    assert "m  2 replicas wanted, where 1 was: " in daemon.log
    assert "m  1 replica wanted, where 2 were: its load has fitted in so few for 1 s" in daemon.log


def test_who_is_served_keeps_an_engine_that_is_wanted_no_longer(daemon: Daemon) -> None:
    daemon.turn(slots=2, token_s=0.02, tokens=5)
    daemon.write_config({"m": f"{HOT}\n{SCALE}"}, engine='sleep = "drill"\ndrain_timeout = "1s"')
    daemon.config.write_text(daemon.config.read_text().replace('drain_timeout = "5s"\n', "", 1))
    daemon.start()
    daemon.wait_for("ready")
    daemon.set("m", "hot", replicas=2)
    daemon.wait_for("ready", "m.1")
    with ThreadPoolExecutor(2) as clients:
        # One for each engine, far longer than a drain may last.
        long = [clients.submit(daemon.chat, max_tokens=200) for _ in range(2)]
        until(lambda: daemon.replica("m.1")["in_flight"], "both serve")
        daemon.set("m", "hot", replicas=1)
        until(lambda: daemon.status["models"]["m"]["replicas_wanted"] == 1, "one is enough")
        assert daemon.chat().status == 200
        assert daemon.replica("m.1")["in_flight"] == 1, "nobody new is sent to it"
        time.sleep(1.5)
        assert daemon.replica("m.1")["phase"] == "ready", "it is no drain with a deadline"
    assert {each.result().status for each in long} == {200}
    daemon.wait_for("asleep", "m.1")


def test_a_number_that_was_set_survives_a_restart(daemon: Daemon) -> None:
    daemon.write_config({"m": f"{HOT}\n{SCALE}"}, engine='sleep = "drill"')
    daemon.start()
    many = daemon.control("POST", "/set", {"model": "m", "rung": "hot", "replicas": 3})
    assert (many.status, many.json["error"]) == (
        409,
        f"m can't have 3 replicas: its config has a place for 2; {REMEDY}",
    )
    staged = daemon.control("POST", "/set", {"model": "m", "rung": "staged", "replicas": 2})
    assert staged.status == 400
    until_then = {"model": "m", "rung": "hot", "replicas": 2, "for": 3600}
    said = daemon.control("POST", "/set", until_then).json["models"]["m"]
    assert said.startswith("m is to be hot with 2 replicas for 1 h")
    daemon.wait_for("ready", "m.1")
    daemon.stop()
    daemon.start()
    assert daemon.status["models"]["m"]["replicas_wanted"] == 2
    assert "an operator set it to hot" in daemon.status["models"]["m"]["reason"]
    daemon.set("m", "auto")
    until(lambda: daemon.status["models"]["m"]["replicas_wanted"] == 1, "by its own policy")
