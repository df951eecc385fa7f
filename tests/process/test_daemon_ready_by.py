"""A real daemon makes a model ready before its window opens, by what its last start took."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from daemon_rig import Daemon, a_daemon, until
from noon import HOST, clock

STARTS_S = 3.0
AHEAD_S = 25.0


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as daemon:
        daemon.turn("m", seconds={"weights": STARTS_S})
        yield daemon


def window(opens: float) -> str:
    """A window of an hour, which opens at a full minute."""
    hours = f'from = "{clock(opens)}", to = "{clock(opens + 3600)}"'
    return f'resting = "staged"\nwindows = [{{ {hours} }}]'


def next_minute(ahead: float) -> float:
    return (time.time() + ahead) // 60 * 60 + 60


def warmctl(daemon: Daemon, *args: str) -> str:
    command = [sys.executable, "-m", "warmd.cli.main", *args]
    socket = str(daemon.run_dir / "control.sock")
    done = subprocess.run(
        command,
        env=os.environ | {"WARMD_SOCKET": socket},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_window_finds_its_model_ready_and_not_much_too_early(daemon: Daemon) -> None:
    opens = next_minute(AHEAD_S)
    daemon.write_config({"m": window(opens)}, host=HOST)
    daemon.start()
    daemon.set("m", "hot")
    daemon.wait_for("ready")  # this start is measured
    daemon.set("m", "staged")
    daemon.wait_for("down")
    daemon.set("m", "auto")
    told = daemon.control("POST", "/plan", {"next": 3600.0}).json["timeline"]
    [up, *_] = told["moves"]
    assert (up["at"], up["to_rung"], up["short_s"], up["measured"]) == (opens, "hot", 0.0, True)
    assert 0 < opens - up["begin_at"] < STARTS_S + 15
    screen = warmctl(daemon, "plan", "--next", "1h")
    assert f"{clock(opens)}  m  staged -> hot: its window daily {clock(opens)}-" in screen
    ready = until(
        lambda: (r := daemon.replica())["phase"] == "ready" and r,
        "it is ready",
        opens - time.time() + 5,
    )
    assert ready["since"] < opens
    began = ready["since"] - sum(ready["last_start"].values())
    assert opens - began < STARTS_S + 15  # it did not start long before
    model = daemon.status["models"]["m"]
    if time.time() < opens:
        assert model["reason"].startswith(f"it is to be hot by {clock(opens)}: then its window")
    time.sleep(max(0.0, opens - time.time()) + 1.5)
    model = daemon.status["models"]["m"]
    assert model["reason"].startswith("its window daily")
    assert daemon.replica()["since"] == pytest.approx(ready["since"], abs=0.1)  # the same engine


def test_what_is_late_already_is_drawn_as_it_is_and_told_with_the_time_at_which_it_is_ready(
    daemon: Daemon,
) -> None:
    opened = time.time() // 60 * 60 - 1200
    daemon.turn("m", seconds={"weights": 5 * STARTS_S})  # a busy host looks late
    daemon.write_config({"m": window(opened)}, host=HOST)
    daemon.start()
    daemon.wait_for("starting")
    told = daemon.control("POST", "/plan", {"next": 1800.0}).json["timeline"]
    assert told["overdue"] == told["warnings"]
    [warning] = told["warnings"]
    assert warning.startswith(f"m is late since {clock(opened)}")
    assert "it is starting; it is ready at " in warning
    [up] = told["moves"]
    assert (up["at"], up["to_rung"]) == (opened, "hot")
    assert up["short_s"] > 1100.0
    screen = warmctl(daemon, "plan", "--next", "10m")
    [row] = [line for line in screen.splitlines() if line.startswith("  m")]
    assert row.split()[1].startswith("//")
    assert "late" not in daemon.log, "what is late already is told where it is asked for"
    daemon.wait_for("ready")
    assert daemon.control("POST", "/plan", {"next": 1800.0}).json["timeline"]["warnings"] == []


def test_an_operators_word_that_ends_in_a_window_is_planned_and_told_to_who_asks(
    daemon: Daemon,
) -> None:
    opened = time.time() // 60 * 60 - 1800
    daemon.write_config({"m": window(opened)}, host=HOST)
    daemon.start()
    daemon.set("m", "staged", **{"for": 300.0})
    answer = daemon.chat()
    ends = daemon.status["models"]["m"]["override_until"]
    assert answer.status == 503
    assert f"m is kept staged until {clock(ends)}: " in answer.json["error"]["message"]
    told = daemon.control("POST", "/plan", {"next": 1800.0}).json["timeline"]
    [up] = [move for move in told["moves"] if move["at"] == pytest.approx(ends, abs=1.0)]
    assert up["to_rung"] == "hot"
    assert up["why"].startswith("the time that an operator set is over: its window")


def test_what_comes_too_late_is_told_at_the_start_and_at_a_reload(daemon: Daemon) -> None:
    """Nothing is measured yet: a start is taken to last 90 s, and the window opens before."""
    opens = next_minute(5.0)
    daemon.write_config({"m": window(opens)}, host=HOST)
    daemon.start()
    until(lambda: f"m by {clock(opens)}" in daemon.log, "it is told")
    line = next(line for line in daemon.log.splitlines() if f"m by {clock(opens)}" in line)
    assert " short; it is ready at " in line
    later = opens + 7200
    daemon.write_config({"m": window(later)}, host=HOST)
    screen = warmctl(daemon, "plan", "--next", "4h", "--config", str(daemon.config))
    assert f"+     {clock(later)}" in screen or f"+ {clock(later)}" in screen.replace("Mon ", "")
    answer = daemon.control("POST", "/reload", {})
    assert not any("short" in change for change in answer.json["changes"])
