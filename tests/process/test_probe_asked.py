"""`warmctl probe`, to the end of a real daemon over the fake engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from daemon_rig import Daemon, a_daemon, until

SLOW: dict[str, Any] = {"slow_after_idle_s": 0.8, "idle_first_token_s": 0.3}


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as daemon:
        yield daemon


def warmctl(daemon: Daemon, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "warmd.cli.main", "probe", *words],
        env=os.environ | {"WARMD_SOCKET": str(daemon.run_dir / "control.sock")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def measured(process: subprocess.Popen[str], status: int = 0) -> Any:
    out, errors = process.communicate(timeout=60)
    assert process.returncode == status, (out, errors)
    return json.loads(out)


def test_it_finds_the_idle_time_that_costs_something(daemon: Daemon) -> None:
    # It is kept hot beyond its idle.after, and no longer than the probe lasts.
    daemon.write_config({"m": 'idle = { after = "300ms", then = "cold" }'})
    daemon.turn(**SLOW)
    daemon.start()
    assert daemon.chat().status == 200
    process = warmctl(daemon, "m", "--idle", "100ms,1s", "--json")
    until(lambda: daemon.status["models"]["m"]["reason"] == "a probe measures it", "it is held")
    quick, slow = measured(process)["steps"]
    assert (quick["slow"], slow["slow"]) == (False, True)
    assert slow["first_token_s"] > 0.3
    assert slow["usual_s"] < 0.15
    assert 1.0 <= slow["idle_s"] < 3.0
    assert len(slow["next"]) == 10
    assert slow["came_up_s"] == 0
    daemon.wait_for("down")
    told = daemon.control("GET", "/history?model=m").json["models"]["m"]
    assert [each["source"] for each in told["probes"]] == ["probe", "probe"]
    assert told["requests"]["count"] == 1  # eleven questions each are nobody's requests
    questions = [
        e for e in daemon.record() if e["event"] == "request" and "cache_salt" in e["body"]
    ]
    salts = {json.loads(each["body"]).get("cache_salt") for each in questions}
    assert len(salts) >= 22  # the prefix cache answers for nobody


def test_no_idle_time_of_a_cold_model_measures_its_start(daemon: Daemon) -> None:
    daemon.write_config({"m": ""})
    daemon.turn(seconds={"weights": 0.3})
    daemon.start()
    daemon.wait_for_rung("staged")
    process = warmctl(daemon, "m", "--idle", "0")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "none      " in out
    assert "before, it got hot in " in out
    assert "weights " in out
    assert "m: a request that meets it staged waits " in out
    assert "as quick" not in out


def test_users_go_first_and_begin_the_quiet_time_anew(daemon: Daemon) -> None:
    daemon.write_config({"m": 'resting = "hot"'})
    daemon.turn()
    daemon.start()
    daemon.wait_for("ready")
    process = warmctl(daemon, "m", "--idle", "1s", "--json")
    time.sleep(0.7)
    assert daemon.chat().status == 200
    (step,) = measured(process)["steps"]
    assert step["restarts"] >= 1
    assert step["idle_s"] >= 1.0


def test_ctrl_c_ends_it_and_an_operators_word_goes_before_it(daemon: Daemon) -> None:
    daemon.write_config({"m": 'idle = { after = "200ms", then = "cold" }'})
    daemon.turn()
    daemon.start()
    assert daemon.chat().status == 200
    process = warmctl(daemon, "m", "--idle", "30s")
    until(lambda: daemon.status["models"]["m"]["reason"] == "a probe measures it", "it is held")
    second = warmctl(daemon, "m", "--idle", "30s")
    assert "another probe of it runs" in second.communicate(timeout=30)[1]
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "ended: an operator ended it" in out
    daemon.wait_for("down")

    assert daemon.chat().status == 200
    process = warmctl(daemon, "m", "--idle", "30s", "--json")
    until(lambda: daemon.status["models"]["m"]["reason"] == "a probe measures it", "it is held")
    daemon.set("m", "cold")
    assert "an operator set it to cold" in measured(process, 1)["ended"]
    daemon.wait_for("down")
    refused = daemon.control("POST", "/probe", {"model": "m", "idle": [1]})
    assert refused.status == 409
    assert "`warmctl set m auto`" in refused.json["error"]
    assert daemon.control("POST", "/probe", {"model": "m", "idle": []}).status == 400
    assert daemon.control("GET", "/probe?id=99").status == 404
