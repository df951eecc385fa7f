"""Engines that outlive a real daemon: killed, restarted, kept from coming up, told to end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from daemon_rig import Daemon, a_daemon, until

from warmd.launch import sweep


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon whose engines outlive it, with one of them hot."""
    with a_daemon() as daemon:
        daemon.turn("m", children=2)
        daemon.write_config({"m": 'resting = "hot"'}, engine='sleep = "drill"')
        text = daemon.config.read_text()
        daemon.config.write_text(text.replace("[host]", "[host]\nengines_outlive_daemon = true"))
        daemon.start()
        daemon.wait_for("ready")
        yield daemon
        if daemon.process is not None:
            daemon.process.kill()
            daemon.process.wait()
            daemon.process = None
        sweep(daemon.run_dir)


def die(daemon: Daemon) -> None:
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()
    daemon.process = None


def engine(daemon: Daemon) -> psutil.Process:
    return psutil.Process(daemon.replica()["pid"])


def test_a_killed_daemon_s_engine_serves_on_under_the_next_and_its_log_goes_on(
    daemon: Daemon,
) -> None:
    before = engine(daemon)
    die(daemon)
    assert before.is_running()
    daemon.start()
    daemon.wait_for("ready")
    assert engine(daemon) == before
    assert daemon.chat().status == 200
    log = daemon.run_dir / "engines" / "m.0" / "engine.log"
    until(lambda: log.read_text().count("POST /v1/chat/completions") > 0, "its log goes on")
    assert f"taken over by warmd process {daemon.status['pid']}" in log.read_text()
    assert len([line for line in daemon.record() if line["event"] == "started"]) == 1


def test_a_sleeper_wakes_under_the_next_daemon(daemon: Daemon) -> None:
    before = engine(daemon)
    daemon.control("POST", "/set", {"model": "m", "rung": "asleep", "for": None})
    daemon.wait_for("asleep")
    die(daemon)
    daemon.start()
    daemon.wait_for("asleep")
    daemon.control("POST", "/set", {"model": "m", "rung": "auto", "for": None})
    daemon.wait_for("ready")
    assert engine(daemon) == before
    assert daemon.chat().status == 200


def test_a_daemon_that_can_not_come_up_takes_no_engine_down_with_it(daemon: Daemon) -> None:
    before = engine(daemon)
    assert daemon.stop() == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", daemon.port))
        taken.listen()
        failed = subprocess.run(
            [sys.executable, "-m", "warmd", "run", "--config", str(daemon.config)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert failed.returncode == 69, failed.stderr
    assert before.is_running()
    daemon.start()
    daemon.wait_for("ready")
    assert engine(daemon) == before


def test_changed_settings_are_told_and_end_the_engine_that_was_left(daemon: Daemon) -> None:
    before = engine(daemon)
    die(daemon)
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace('resting = "hot"', 'resting = "hot"\nargs = ["--x"]'))
    daemon.start()
    daemon.wait_for("ready")
    assert not before.is_running()
    said = "m.0: the engine that an earlier warmd left is stopped: its settings have changed"
    assert said.removeprefix("m.0: ") in daemon.log


def test_shutdown_ends_the_engines_as_well(daemon: Daemon) -> None:
    before = engine(daemon)
    assert daemon.control("POST", "/shutdown", {}).status == 200
    assert daemon.process is not None
    assert daemon.process.wait(30) == 0
    daemon.process = None
    assert not before.is_running()
    assert daemon.engine_processes() == []
    left = [path.name for path in (daemon.run_dir / "engines").iterdir()]
    assert left == ["m.0"], "its folder with the log, no socket"


def test_a_record_that_is_garbage_is_not_believed(daemon: Daemon) -> None:
    before = engine(daemon)
    die(daemon)
    note: Path = daemon.run_dir / "engines" / "m.0" / "engine.json"
    facts: dict[str, Any] = {"phase": "ready", "identity": "somebody else"}
    note.write_text(str(facts))
    daemon.start()
    daemon.wait_for("ready")
    assert not before.is_running()


def test_an_engine_that_stands_still_is_not_taken_over(daemon: Daemon) -> None:
    text = daemon.config.read_text()
    table = '[models.m.sleep]\ntimeout = "2s"\n[models.m.env]'
    daemon.config.write_text(text.replace("[models.m.env]", table))
    daemon.control("POST", "/reload", {})
    before = engine(daemon)
    die(daemon)
    os.kill(before.pid, signal.SIGSTOP)
    daemon.start()
    until(lambda: not before.is_running(), "the one that stands still is ended")
    why = "can't be taken over: it did not answer within 2 s"
    until(lambda: why in daemon.log, "it is said")
    daemon.wait_for("ready")


def test_what_a_killed_daemon_had_staged_is_held_and_found_by_the_next() -> None:
    with a_daemon() as daemon:
        daemon.write_config({"m": 'resting = "staged"'}, host="engines_outlive_daemon = true")
        daemon.start()
        daemon.wait_for_rung("staged")
        assert daemon.process is not None
        below = psutil.Process(daemon.process.pid).children(recursive=True)
        (holder,) = (p for p in below if p.name() == "warmd-held")
        for end in (die, Daemon.stop):
            end(daemon)
            assert holder.is_running()
            daemon.start()
            staged = daemon.wait_for_rung("staged")
            assert staged["staging"]["holding"]
            assert holder.is_running()
            assert daemon.log.count("cold -> staged") == daemon.starts, "each tells it once"
        assert daemon.control("POST", "/shutdown").status == 200
        assert daemon.process is not None
        assert daemon.process.wait(20) == 0
        daemon.process = None
        until(lambda: not holder.is_running(), "nothing is held any more")
        assert not (daemon.run_dir / "stage.sock").exists()
