"""A real daemon says what a calendar isn't kept for: once, with the reason, and in its report."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_rig import Daemon, a_daemon, until
from noon import HOST, clock
from nvml_rig import TWO_GPUS, build, environment

from warmd.cli.report import report

STARTS_S = 20.0
BEFORE_S = 15.0


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as daemon:
        yield daemon


def lines(daemon: Daemon, *parts: str) -> list[str]:
    return [line for line in daemon.log.splitlines() if any(part in line for part in parts)]


def test_a_missed_window_is_told_once_over_a_restart_and_counted(daemon: Daemon) -> None:
    daemon.turn("m", seconds={"weights": STARTS_S})
    opens = (time.time() + BEFORE_S) // 60 * 60 + 60
    hours = f'from = "{clock(opens)}", to = "{clock(opens + 3600)}"'
    table = f'resting = "cold"\nwindows = [{{ {hours} }}]'
    daemon.write_config({"m": table}, host=HOST)
    time.sleep(max(0.0, opens - BEFORE_S - time.time()))
    daemon.start()
    until(lambda: lines(daemon, "not ready by"), f"its window opens too early: {daemon.log}", 60.0)
    daemon.stop(signal.SIGKILL)
    until(lambda: not daemon.engine_processes(), "its engines end with it")
    daemon.start()
    daemon.wait_for("ready")
    until(lambda: lines(daemon, "late for its window"), "it is told")
    (missed,) = lines(daemon, "not ready by")
    assert f" not ready by {clock(opens)}, as its window daily " in missed
    assert " wants it: m.0 has been starting for " in missed
    (late,) = lines(daemon, "late for its window")
    answer = daemon.control("GET", "/report?since=0").json
    windows = answer["models"]["m"]["windows"]
    assert (windows["opened"], windows["ready"], windows["late"]["count"]) == (1, 0, 1)
    assert windows["late"]["max"] == pytest.approx(time.time() - opens, abs=5.0)
    said = report(answer, time.gmtime)
    assert "1 opened, 0 ready by then; 1 late: longest " in said
    assert f" late for its window daily {clock(opens)}-" in late


def test_a_first_window_that_opens_while_a_killed_daemon_is_away_is_told_once(
    daemon: Daemon,
) -> None:
    daemon.turn("m")
    opens = (time.time() + BEFORE_S) // 60 * 60 + 60
    hours = f'from = "{clock(opens)}", to = "{clock(opens + 3600)}"'
    table = f'resting = "cold"\nwindows = [{{ {hours} }}]'
    daemon.write_config({"m": table}, host=HOST)
    daemon.start()
    daemon.stop(signal.SIGKILL)
    assert time.time() < opens, "it opened before the daemon was killed"
    until(lambda: not daemon.engine_processes(), "nothing is left of it")
    time.sleep(max(0.0, opens + 1.0 - time.time()))
    daemon.start()
    daemon.wait_for("ready")
    until(lambda: lines(daemon, "late for its window"), "it is told")
    daemon.stop(signal.SIGKILL)
    until(lambda: not daemon.engine_processes(), "its engines end with it")
    daemon.start()
    daemon.wait_for("ready")
    (missed,) = lines(daemon, "not ready by")
    assert f" not ready by {clock(opens)}, as its window daily " in missed
    assert "warmd didn't run then, and began at " in missed
    assert len(lines(daemon, "late for its window")) == 1
    windows = daemon.control("GET", "/report?since=0").json["models"]["m"]["windows"]
    assert (windows["opened"], windows["ready"], windows["late"]["count"]) == (1, 0, 1)


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def test_an_operator_hears_who_stays_and_whose_window_will_be_late(
    daemon: Daemon, nvml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = daemon.folder / "nvml"
    says.write_text(TWO_GPUS)
    for name, value in environment(nvml, says).items():
        monkeypatch.setenv(name, value)
    later = time.time() + 7200
    hours = f'from = "{clock(later)}", to = "{clock(later + 3600)}"'
    heavy = 'pool = "heavy"\nvram = "30GiB"\nresting = "{}"\n{}'
    models = {
        "rests": heavy.format("hot", ""),
        "a": heavy.format("cold", ""),
        "b": heavy.format("cold", f"windows = [{{ {hours} }}]"),
    }
    pool = '[pools.heavy]\nvram = "40GiB"\ngpus = [0]\n'
    daemon.write_config(models, pool, host=HOST)
    daemon.start()
    daemon.wait_for("ready", "rests.0")

    def say(model: str, **more: object) -> str:
        answer = daemon.control("POST", "/set", {"model": model, "rung": "hot", **more})
        return str(answer.json["models"][model])

    said = say("a")
    assert "; rests.0 is put aside for it; while that holds, b by " in said
    assert "it finds no room there for as long as it is wanted: a is hot there" in said
    daemon.wait_for("ready", "a.0")
    assert lines(daemon, "put aside for a, which an operator set hot: it only rests there")
    assert "while that holds" not in say("a"), "that was so before"
    said = say("rests", **{"for": 600})
    assert "; a.0 is hot there: an operator set it" in said
