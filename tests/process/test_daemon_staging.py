"""A real daemon and its stage keeper: the budget, the order of a cold start, a restart."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from daemon_rig import Daemon, a_daemon, until

from warmd.staging import is_known, learn_program

MIB = 2**20


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as made:
        yield made


def kinds(daemon: Daemon, model: str) -> dict[str, Any]:
    return {each["kind"]: each for each in daemon.status["models"][model]["staged"]}


def holders(daemon: Daemon, file: Path) -> list[psutil.Process]:
    """The processes that hold a file mapped, but for its engines."""
    found = []
    for process in psutil.process_iter():
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            if str(file) in maps and any("holder/program.py" in arg for arg in process.cmdline()):
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


def test_a_budget_for_one_of_two_models_goes_to_the_one_that_was_used_last(daemon: Daemon) -> None:
    for model in "ab":
        daemon.turn(model)
    daemon.write_config(dict.fromkeys("ab", 'idle.after = "1s"'), rest='[ram]\nstaging = "1536KiB"')
    daemon.start()
    daemon.wait_for_rung("staged", "a")
    told = daemon.status["models"]["b"]
    assert told["rung"] == "cold"
    assert "don't fit in ram.staging" in told["held_up_by"]
    assert kinds(daemon, "b")["weights"]["problem"] == told["held_up_by"]
    assert daemon.chat("b").status == 200
    daemon.wait_for("down", "b.0")
    daemon.wait_for_rung("staged", "b")
    assert daemon.wait_for_rung("cold", "a")["staging"]["done"] == 0
    assert "makes room for the weights of b" in daemon.log
    assert [len(holders(daemon, daemon.folder / f"weights-{m}")) for m in "ab"] == [0, 1]


def test_what_is_larger_than_the_budget_is_held_in_part(daemon: Daemon) -> None:
    daemon.write_config({"m": ""}, rest='[ram]\nstaging = "512KiB"')
    daemon.start()
    weights = until(lambda: (w := kinds(daemon, "m")["weights"])["partial"] and w, "a part is held")
    assert (weights["done"], weights["held"]) == (MIB // 2, False)
    told = daemon.status["models"]["m"]
    assert told["rung"] == "cold"
    assert "are larger than ram.staging (512.0 KiB)" in told["held_up_by"]


def test_what_is_staged_outlives_the_daemon_with_its_engines(daemon: Daemon) -> None:
    daemon.write_config({"m": ""}, host="engines_outlive_daemon = true")
    daemon.start()
    daemon.wait_for_rung("staged")
    [holder] = holders(daemon, daemon.folder / "weights-m")
    daemon.stop()
    assert holder.is_running()
    daemon.start()
    daemon.wait_for_rung("staged")
    assert holders(daemon, daemon.folder / "weights-m") == [holder], "nothing is read again"
    assert daemon.control("POST", "/shutdown", {}).status == 200
    assert daemon.process is not None
    assert daemon.process.wait(30) == 0
    daemon.process = None
    until(lambda: not holder.is_running(), "it let go with the daemon")


def test_a_cold_start_gets_its_program_before_its_weights(daemon: Daemon) -> None:
    daemon.turn("m", seconds={"imports": 3.0})
    daemon.write_config({"m": 'resting = "cold"\nidle.after = "1s"\nidle.then = "cold"'})
    state, python = daemon.folder / "state", Path(sys.executable)
    daemon.start()
    daemon.set("m", "hot")
    pid = daemon.wait_for("ready")["pid"]
    assert kinds(daemon, "m")["program"]["total"] == 0, "nothing was known of it"
    asyncio.run(learn_program(state, python, [pid]))
    assert is_known(state, python)
    daemon.set("m", "cold")
    daemon.stop()

    daemon.start()
    until(lambda: kinds(daemon, "m")["program"]["total"], "it is known what its program is")
    daemon.set("m", "hot")
    daemon.wait_for("starting")
    until(lambda: kinds(daemon, "m")["weights"]["held"], f"all is staged; {daemon.log}")
    staged = kinds(daemon, "m")
    assert staged["program"]["held"], staged
    assert staged["program"]["resident"] > 0.99 * staged["program"]["total"] > 0
    [weights] = holders(daemon, daemon.folder / "weights-m")
    keeper = weights.parent()
    assert keeper is not None
    [program] = [each for each in keeper.children() if each != weights]
    assert program.create_time() < weights.create_time()
    daemon.wait_for("ready")
    until(
        lambda: not any(each["held"] for each in kinds(daemon, "m").values()),
        "its engine has loaded all, and nobody else needs the program",
    )
