"""What goes wrong with engines, over the real daemon: said, and mended or given up."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from daemon_rig import Daemon, a_daemon, until

HOT = {"m": 'resting = "hot"'}
QUICK_TO_GIVE_UP = "[restart]\ngive_up_after = 2"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as made:
        made.turn()
        yield made


@pytest.mark.parametrize("stage", ["imports", "weights", "compile", "kv-cache"])
def test_a_crash_at_each_stage_is_told_with_the_engines_own_words(
    daemon: Daemon, stage: str
) -> None:
    error = "ValueError: No available memory for the cache blocks."
    daemon.turn(fail_at=stage, fail_error=error, children=1)
    daemon.write_config(HOT, QUICK_TO_GIVE_UP)
    daemon.start()
    failed = daemon.wait_for("failed")
    assert "memory" in failed["reason"]
    assert "exited with status 1" not in failed["reason"]
    assert failed["failures"] == 2
    assert "given up after 2 failures in a row" in daemon.log
    assert daemon.engine_processes() == []
    refused = daemon.chat()
    assert refused.status == 503
    assert "needs an operator" in refused.json["error"]["message"]
    daemon.turn()
    assert daemon.control("POST", "/set", {"model": "m", "rung": "auto"}).status == 200
    daemon.wait_for("ready")
    assert daemon.chat().status == 200


@pytest.mark.parametrize("answer", ["garbage", "500", "empty-choices", "wrong-shape", "no-tokens"])
def test_a_wrong_first_answer_is_never_served(daemon: Daemon, answer: str) -> None:
    daemon.turn(answer=answer)
    daemon.write_config(HOT, QUICK_TO_GIVE_UP)
    daemon.start()
    failed = daemon.wait_for("failed")
    assert "warm-up" in failed["reason"]
    assert daemon.chat().status == 503
    assert daemon.engine_processes() == []


def test_a_silent_engine_is_not_waited_for_for_ever(daemon: Daemon) -> None:
    daemon.turn(answer="silence")
    daemon.write_config({"m": 'resting = "hot"\nwarmup = { timeout = "300ms" }'}, QUICK_TO_GIVE_UP)
    daemon.start()
    assert "warm-up" in daemon.wait_for("failed")["reason"]


def test_a_slow_load_shows_its_stage_and_is_held_for(daemon: Daemon) -> None:
    daemon.turn(seconds={"imports": 0.2, "weights": 1.0, "compile": 0.3})
    daemon.write_config({"m": 'resting = "cold"'})
    daemon.start()
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(daemon.chat)
        until(lambda: (daemon.replica()["start"] or {}).get("stage") == "weights", "it loads")
        assert daemon.status["models"]["m"]["waiting"] == 1
        assert waiting.result().status == 200
    took = daemon.replica()["last_start"]
    assert 0.9 < took["weights"] < 2.5
    assert took["compile"] > 0.25


def test_a_load_that_never_ends_is_ended(daemon: Daemon) -> None:
    daemon.turn(hang_at="weights", ignore_sigterm=True, children=2)
    daemon.write_config({"m": 'resting = "hot"\nstart_timeout = "1s"'}, QUICK_TO_GIVE_UP)
    daemon.start()
    failed = daemon.wait_for("failed")
    assert "not ready within 1 s and stood at 'weights'" in failed["reason"]
    assert daemon.engine_processes() == []


def test_arguments_that_vllm_refuses_are_named(daemon: Daemon) -> None:
    daemon.turn(refuse_args=["--no-such"])
    daemon.write_config({"m": 'resting = "hot"\nargs = ["--no-such", "1"]'}, QUICK_TO_GIVE_UP)
    daemon.start()
    assert "--no-such" in daemon.wait_for("failed")["reason"]


def test_a_python_without_vllm_is_named(daemon: Daemon) -> None:
    daemon.write_config(HOT, QUICK_TO_GIVE_UP)
    text = daemon.config.read_text().replace("PYTHONPATH", "NOT_PYTHONPATH")
    daemon.config.write_text(text)
    daemon.start()
    assert "vllm" in daemon.wait_for("failed")["reason"].lower()


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_killed_engine_takes_no_request_with_it(daemon: Daemon, replicas: int) -> None:
    """The rest of its tree may live on for a while: nobody is sent there."""
    daemon.turn(children=2, leak=True)
    daemon.write_config({"m": f'resting = "hot"\nreplicas = {replicas}'})
    daemon.start()
    for index in range(replicas):
        daemon.wait_for("ready", f"m.{index}")
    victim = daemon.replica()["pid"]
    with ThreadPoolExecutor(4) as clients:
        answers = [clients.submit(daemon.chat) for _ in range(8)]
        os.kill(victim, signal.SIGKILL)
        answers += [clients.submit(daemon.chat) for _ in range(24)]
        assert [a.result().status for a in answers] == [200] * 32
    daemon.wait_for("ready")
    assert all(r["in_flight"] == 0 for r in daemon.status["models"]["m"]["replicas"])


def test_an_exit_with_status_0_that_nobody_asked_for_is_a_failure(daemon: Daemon) -> None:
    """The death of vLLM's engine after readiness exits 0 (vllm#48966)."""
    daemon.turn(exit_after=2, bad_starts=None)
    daemon.write_config(HOT)
    daemon.start()
    first = daemon.wait_for("ready")["pid"]
    assert daemon.chat().status == 200, "the second answer: the warm-up was the first"
    until(lambda: daemon.replica()["pid"] not in (first, None), "another engine")
    assert "failure 1 in a row" in daemon.log


def test_a_crash_in_a_stream_never_looks_complete(daemon: Daemon) -> None:
    daemon.turn(crash_mid_stream=3, token_s=0.05)
    daemon.write_config(HOT)
    daemon.start()
    daemon.wait_for("ready")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        daemon.chat(stream=True)
    daemon.wait_for("ready")
    until(lambda: daemon.replica()["in_flight"] == 0, "no place is lost")


def test_a_lost_stager_brings_the_rung_down_and_is_made_good(daemon: Daemon) -> None:
    daemon.write_config({"m": ""})
    daemon.start()
    daemon.wait_for_rung("staged")
    assert daemon.process is not None
    below = psutil.Process(daemon.process.pid).children(recursive=True)
    holder = next(p for p in below if p.name() == "warmd-held")
    holder.send_signal(signal.SIGKILL)
    daemon.wait_for_rung("cold")
    assert "staged -> cold" in daemon.log
    assert daemon.chat().status == 200, "without its weights in RAM it starts all the same"


def test_weights_that_vanish_are_named(daemon: Daemon) -> None:
    daemon.write_config({"m": ""})
    (daemon.folder / "weights-m" / "model.safetensors").unlink()
    daemon.start()
    problem = until(lambda: daemon.status["models"]["m"]["held_up_by"], "it says why")
    assert "weights-m" in problem


def test_history_that_cant_be_written_stops_nothing(daemon: Daemon) -> None:
    daemon.write_config(HOT)
    (daemon.folder / "state" / "history.db").mkdir(parents=True)
    daemon.start()
    daemon.wait_for("ready")
    assert daemon.chat().status == 200
    assert "history" in daemon.log
    assert "Traceback" not in daemon.log


def test_args_that_vllm_refuses_are_not_tried_again_before_they_are_mended(daemon: Daemon) -> None:
    daemon.turn(refuse_args=["--my-token"])
    daemon.write_config({"m": 'args = ["--my-token=tok-12345678"]'})
    daemon.start()
    refused = daemon.chat()
    said = refused.json["error"]["message"]
    assert refused.status == 503
    assert "Retry-After" not in refused.headers
    assert said.startswith("m can't be started and needs an operator: vLLM refuses its command ")
    assert "unrecognized arguments: --my-token=********" in said
    assert daemon.replica("m.0")["failures"] == 1
    assert "mend the args, then `warmctl reload`" in daemon.log
    daemon.write_config({"m": ""})
    assert daemon.control("POST", "/reload", {}).status == 200
    assert daemon.chat().status == 200
