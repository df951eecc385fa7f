"""A real daemon under a calendar: windows that open and close, entries that fired, restarts."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from daemon_rig import PATIENCE_S, Daemon, a_daemon, until
from noon import HOST, clock

from warmd.cli.explain import explanation

MINUTE_S = 60.0
WARM_UP = '[[models.m.cron]]\nat = "30 8 1 1 *"\nwarmup = true\n'


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as made:
        made.turn()
        yield made


def shown(moment: float) -> str:
    return time.strftime("%H:%M", time.gmtime(moment))


def window(begin: float, end: float, more: str = "") -> str:
    """A table of a window of the model `m`, of every day, from one minute to another in UTC."""
    return f'[[models.m.windows]]\nfrom = "{shown(begin)}"\nto = "{shown(end)}"\n{more}\n'


def entry(moment: float, rung: str) -> str:
    hour, minute = shown(moment).split(":")
    return f'[[models.m.cron]]\nat = "{int(minute)} {int(hour)} * * *"\nrung = "{rung}"\n'


def model(daemon: Daemon, name: str = "m") -> dict[str, Any]:
    found: dict[str, Any] = daemon.status["models"][name]
    return found


def under(daemon: Daemon, *tables: str, host: str = "") -> None:
    daemon.write_config(
        {"m": 'resting = "cold"\n' + "".join(tables)}, host='timezone = "UTC"' + host
    )


def test_an_open_window_makes_hot_at_once_and_again_after_a_crash(daemon: Daemon) -> None:
    now = time.time()
    under(
        daemon, window(now - 3600, now + 7200, "replicas = 2"), entry(now - 7200, "cold"), WARM_UP
    )
    daemon.start()
    for replica in ("m.0", "m.1"):
        daemon.wait_for("ready", replica)
    told = model(daemon)
    assert (told["rank"], told["reason"]) == (
        "calendar",
        f"its window daily {shown(now - 3600)}-{shown(now + 7200)} is open",
    )
    assert told["until"] == (now + 7200) // 60 * 60
    lines = explanation(daemon.control("GET", "/explain?model=m").json, time.gmtime).splitlines()
    assert "its calendar (UTC), what rules now marked with *" in lines
    assert any(line.startswith("  * window daily ") for line in lines)
    at = lines.index("its warm-up requests and probes (UTC), sent while it is hot")
    assert lines[at + 1].startswith('    cron entry "30 8 1 1 *"; fired ')
    assert " fires next " in lines[at + 1]
    daemon.stop(signal.SIGKILL)
    until(lambda: not daemon.engine_processes(), "its engines end with it")
    daemon.start()
    for replica in ("m.0", "m.1"):
        daemon.wait_for("ready", replica)
    assert daemon.chat().status == 200


def test_a_plan_with_another_config_says_what_its_calendars_would_move(daemon: Daemon) -> None:
    now = time.time()
    first, later = (now + 3600) // 60 * 60, (now + 7200) // 60 * 60
    opened = (now - 600) // 60 * 60
    names = ("m", "stays", "goes", "comes", "open")

    def tables(opens: float, *models: str) -> dict[str, str]:
        starts = {"m": opens, "open": opened}
        return {
            each: 'resting = "cold"\n'
            f'windows = [{{ from = "{clock(at)}", to = "{clock(at + 1800)}" }}]'
            for each in models
            for at in [starts.get(each, first)]
        }

    daemon.write_config(tables(later, "m", "stays", "comes", "open"), host=HOST)
    new = daemon.folder / "new.toml"
    new.write_text(daemon.config.read_text())
    daemon.write_config(tables(first, "m", "stays", "goes"), host=HOST)
    daemon.start()
    asked = {"next": 14400.0, "config": str(new)}
    answer = daemon.control("POST", "/plan", asked).json

    def rises(timeline: Any) -> dict[str, float]:
        return {each["model"]: each["at"] for each in timeline["moves"] if each["to_rung"] == "hot"}

    assert rises(answer["before"]) == {"m": first, "stays": first, "goes": first}
    found = {"m": later, "stays": first, "comes": first, "open": opened}
    assert rises(answer["timeline"]) == found
    # It is new, so nobody has begun to start it for the window that is open.
    assert any(each.startswith("open is late since") for each in answer["timeline"]["warnings"])
    assert set(daemon.status["models"]) == {*names} - {"comes", "open"}, "a plan changes nothing"


def test_what_fired_while_nobody_was_awake_is_in_force_after_a_restart(daemon: Daemon) -> None:
    now = time.time()
    under(daemon, entry(now - 3600, "staged"), entry(now - 7200, "cold"))
    daemon.start()
    daemon.wait_for_rung("staged")
    daemon.stop()
    # The night between: as if it had fired meanwhile.
    under(daemon, entry(now - 7200, "staged"), entry(now - 3600, "hot"), entry(now + 3600, "cold"))
    daemon.start()
    daemon.wait_for("ready")
    told = model(daemon)
    assert str(told["reason"]).startswith("its cron entry")
    assert told["rank"] == "calendar"
    calendar = daemon.control("GET", "/explain?model=m").json["calendar"]
    [hot] = [each for each in calendar["entries"] if each["rules"]]
    assert (hot["rung"], hot["since"]) == ("hot", (now - 3600) // 60 * 60)
    assert [each["rung"] for each in calendar["changes"]] == ["cold", "staged", "hot"]


def test_engines_that_outlive_the_daemon_stay_for_their_window(daemon: Daemon) -> None:
    now = time.time()
    under(daemon, window(now - 3600, now + 7200), host="\nengines_outlive_daemon = true")
    daemon.start()
    pid = daemon.wait_for("ready")["pid"]
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert daemon.wait_for("ready")["pid"] == pid


def test_a_window_closes_to_the_minute_and_another_is_ready_by_then(daemon: Daemon) -> None:
    daemon.turn("n")
    turn = time.time() // MINUTE_S * MINUTE_S + MINUTE_S
    if turn - time.time() < 20.0:  # the daemon and its engine must be up before
        turn += MINUTE_S
    rests = 'resting = "cold"\n'
    opens = window(turn, turn + 7200).replace("models.m", "models.n")
    models = {"m": rests + window(turn - 3600, turn), "n": rests + opens}
    daemon.write_config(models, host='timezone = "UTC"')
    daemon.start()
    daemon.wait_for("ready")
    assert daemon.wait_for("ready", "n.0")["since"] < turn
    patience = turn - time.time() + PATIENCE_S
    until(lambda: daemon.replica()["phase"] == "down", "it closes", patience)
    assert turn <= time.time() < turn + PATIENCE_S
    assert model(daemon)["reason"] == "it rests cold and nobody asks for it"
    assert model(daemon, "n")["reason"].startswith("its window ")


def test_an_override_ends_by_itself_and_the_window_goes_on(daemon: Daemon) -> None:
    now = time.time()
    under(daemon, window(now - 3600, now + 7200))
    daemon.start()
    daemon.wait_for("ready")
    set_for = {"model": "m", "rung": "cold", "for": 8.0}
    assert daemon.control("POST", "/set", set_for).status == 200
    daemon.wait_for("down")
    daemon.stop()
    daemon.start()
    told = model(daemon)
    if told["override_until"] is not None:
        assert (told["rank"], told["target"]) == ("operator", "cold")
    daemon.wait_for("ready")
    assert model(daemon)["rank"] == "calendar"
