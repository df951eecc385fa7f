"""What `warmctl report` says of a real daemon: where models stood, who waited, what was spared."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_rig import Daemon, a_daemon

from warmd.cli.main import main

WITHIN_S = 1.0
"""A change of rung is booked at the next look."""


@pytest.fixture(scope="module")
def lived() -> Iterator[Daemon]:
    """A daemon under which `m` was started, slept and was woken, and `held` was kept hot."""
    with a_daemon() as daemon:
        for name in ("m", "held"):
            daemon.turn(name, seconds={"imports": 0.5})
        idle = 'idle = { after = "1s", then = "asleep", keep = "1h" }'
        window = 'windows = [{ from = "00:00", to = "24:00" }]\ntimezone = "Asia/Tokyo"'
        models = {"m": f'aliases = ["other"]\n{idle}', "held": f"{idle}\n{window}"}
        daemon.write_config(models, engine='sleep = "drill"')
        daemon.start()
        daemon.wait_for_rung("hot", "held")
        daemon.wait_for_rung("staged", "m")
        for name in ("held", "held", "m"):  # its calendar spares the first one a start
            assert daemon.chat(name).status == 200
        daemon.wait_for_rung("asleep", "m")
        for name in ("other", "m"):
            assert daemon.chat(name).status == 200
        yield daemon


def report(daemon: Daemon, *models: str, since: float = 0.0) -> Any:
    query = "&".join((f"since={since}", *(f"model={name}" for name in models)))
    answer = daemon.control("GET", f"/report?{query}")
    assert answer.status == 200, answer.body
    return answer.json


def stood(daemon: Daemon, model: str, until: float) -> dict[str, float]:
    """How long a model stood on each rung since it was first moved, as its changes were told."""
    told = daemon.control("GET", f"/history?model={model}&since=0").json["decisions"]
    changes = sorted((each["at"], each["to_rung"]) for each in told)
    ends = [at for at, _ in changes[1:]] + [until]
    seconds: dict[str, float] = {}
    for (at, rung), end in zip(changes, ends, strict=True):
        seconds[rung] = seconds.get(rung, 0.0) + end - at
    return seconds


def test_what_a_model_did_is_what_the_report_says(lived: Daemon) -> None:
    told = report(lived, "other")
    (waits,) = told["models"].values()
    recorded = stood(lived, "m", told["time"])
    assert set(recorded) >= {"staged", "hot", "asleep"}
    for rung, seconds in recorded.items():
        assert waits["seconds"][rung] == pytest.approx(seconds, abs=WITHIN_S)
    life = told["time"] - lived.status["started"]
    assert life - 5.0 < sum(waits["seconds"].values()) <= life
    assert waits["unknown_s"] < WITHIN_S
    assert (waits["requests"], waits["not_hot"]) == (3, 2)
    assert (waits["met"]["staged"], waits["met"]["asleep"]) == (1, 1)
    delays = waits["first_delays"]
    assert delays["count"] == delays["all"] == 2
    assert delays["max"] > 0.5 > waits["others"]["max"]
    assert waits["starts"]["staged"]["count"] == waits["wakes"]["count"] == 1
    assert waits["starts"]["staged"]["stages"]["imports"] > 0.4
    assert waits["gpu_hours_added"] == 0
    assert waits["gpu_hours_hot"] * 3600 == pytest.approx(recorded["hot"], abs=WITHIN_S)


def test_what_a_calendar_added_and_spared(lived: Daemon) -> None:
    kept = report(lived, "held")["models"]["held"]
    assert kept["spared"] == {"cold": 0, "staged": 1, "asleep": 0}, "the first alone"
    assert (kept["requests"], kept["not_hot"], kept["zone"]) == (2, 0, "Asia/Tokyo")
    assert 0 < kept["gpu_hours_added"] < kept["gpu_hours_hot"], "demand held it hot for a second"
    assert kept["removed_s"] > 0.5
    metrics = lived.control("GET", "/metrics").body.decode()
    assert 'warmd_rung_seconds_total{cause="calendar",model="held",rung="hot"}' in metrics
    assert 'warmd_spared_requests_total{model="held",otherwise="staged"} 1.0' in metrics


def test_the_command(lived: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def warmctl(*argv: str) -> int:
        return main(["--socket", str(lived.run_dir / "control.sock"), "report", *argv])

    assert warmctl("m") == 0
    said = capsys.readouterr().out
    assert "3; 2 met it not hot (66.7 %): 1 asleep, 1 staged" in said
    assert "held" not in said
    page = tmp_path / "report.html"
    assert warmctl("--html", str(page)) == 0
    assert capsys.readouterr().out == f"{page} is written\n"
    assert page.read_text().count("<section>") == page.read_text().count("</section>") == 2
    assert warmctl("--json", "--since", "1h", "m", "held") == 0
    assert json.loads(capsys.readouterr().out)["models"].keys() == {"m", "held"}
    assert warmctl("nobody") == 1
    assert warmctl("--html", str(tmp_path)) == 1


def test_what_was_told_is_kept_over_a_kill_and_the_gap_is_unknown(lived: Daemon) -> None:
    """The last of these: it ends the daemon."""
    began = lived.status["started"]
    before = report(lived, "m", since=began)["models"]["m"]
    assert before["unknown_s"] < 3.0
    lived.stop(signal.SIGKILL)
    time.sleep(2.0)  # nobody looks
    lived.start()
    later = report(lived, "m", since=began)["models"]["m"]
    assert later["unknown_s"] > 2.0
    for rung, seconds in before["seconds"].items():
        assert later["seconds"][rung] >= seconds


def test_a_history_that_can_not_be_read_is_a_sentence() -> None:
    with a_daemon() as daemon:
        daemon.turn()
        daemon.write_config({"m": 'resting = "cold"'})
        (daemon.folder / "state" / "history.db").mkdir(parents=True)
        daemon.start()
        answer = daemon.control("GET", "/report")
        assert answer.status == 503
        assert "history.db can't be read" in answer.json["error"]
        assert daemon.control("GET", "/report?since=yesterday").status == 400
