"""What the doctor makes of warmd as a service of systemd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from warmd.config import SleepMode
from warmd.doctor.daemon import DaemonAnswer, judge_group
from warmd.doctor.engine_python import EngineFacts, judge_engine
from warmd.doctor.examination import runner_of
from warmd.doctor.finding import Level
from warmd.doctor.service import EnginesFolder, ServiceFacts, judge_service
from warmd.doctor.user import User

DAEMON, ENGINES = User(990, frozenset({990, 991, 5}), 990), User(991, frozenset({991}), 991)
LOADED = {"LoadState": "loaded", "NeedDaemonReload": "no"}
UNITS = ("warmd.service", "warmd-engine@doctor.service", "polkit.service")
FOLDER = EnginesFolder(Path("/run/warmd/engines"), "990", "warmd-engine", 0o2750)
FINE = ServiceFacts(
    units=dict.fromkeys(UNITS, LOADED),
    daemon=DAEMON,
    engines=ENGINES,
    running=DAEMON,
    rule=True,
    groups={"warmd-engine": 991, "systemd-journal": 5},
    folder=FOLDER,
    storage="auto",
    journal_kept=True,
)


def units(**changed: str) -> dict[str, dict[str, str]]:
    """The units, of which that with each name in it has this LoadState."""
    return {
        unit: LOADED | {"LoadState": next((changed[n] for n in changed if n in unit), "loaded")}
        for unit in UNITS
    }


def test_in_order_or_no_service() -> None:
    assert [each.level for each in judge_service(FINE)] == ["ok"]
    assert list(judge_service(None)) == []
    [unseen] = judge_service(replace(FINE, rule=None))  # only root may look there
    assert "rule" not in unseen.sentence


@pytest.mark.parametrize(
    ("changed", "sentence", "remedy"),
    [
        ({"units": units(engine="not-found")}, "there is no warmd-engine@.service", "package"),
        ({"units": units(engine="masked")}, "is masked", "unmask warmd-engine@.service"),
        ({"units": units(engine="bad-setting")}, "(bad-setting)", "systemd-analyze verify"),
        ({"units": {}}, "tells nothing of it", "systemd-analyze verify"),
        ({"units": units(polkit="not-found")}, "polkit isn't there", "apt install polkitd"),
        ({"units": units(polkit="masked")}, "polkit is masked", "unmask polkit.service"),
        ({"rule": False}, "50-warmd.rules isn't there", "package again"),
        ({"engines": None}, "no user warmd-engine", "systemd-sysusers"),
        (
            {"daemon": replace(DAEMON, groups=frozenset({990, 991}))},
            "is no member of the group systemd-journal, so it can't read what engines say",
            "systemd-sysusers",
        ),
        ({"groups": {"warmd-engine": None, "systemd-journal": 5}}, "warmd-engine", "sysusers"),
        (
            {"running": replace(DAEMON, groups=frozenset({990, 991}))},
            "was started before user 990 became a member of the group systemd-journal",
            "systemctl restart warmd",
        ),
        ({"folder": None}, "/run/warmd/engines isn't there", "systemd-tmpfiles --create"),
        ({"folder": replace(FOLDER, mode=0o750)}, "0750 instead of 990:", "systemd-tmpfiles"),
        ({"folder": replace(FOLDER, mode=0o2755)}, "others may read", "systemd-tmpfiles"),
        ({"folder": replace(FOLDER, mode=0o2770)}, "an engine may change", "systemd-tmpfiles"),
        ({"folder": replace(FOLDER, group=None)}, "990:? 2750", "systemd-tmpfiles"),
        ({"storage": "none"}, "the journal keeps nothing", "Storage=persistent"),
    ],
)
def test_what_keeps_engines_from_running(
    changed: dict[str, Any], sentence: str, remedy: str
) -> None:
    found = [each for each in judge_service(replace(FINE, **changed)) if sentence in each.sentence]
    [finding] = found
    assert finding.level is Level.PROBLEM
    assert remedy in finding.remedy


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_a_stage_socket_that_is_stopped_beside_a_running_daemon(state: str) -> None:
    stage = {"warmd-stage.socket": {"LoadState": "loaded", "ActiveState": state}}
    stopped = replace(FINE, units=units() | stage)
    [finding] = judge_service(stopped)
    assert finding.level is Level.PROBLEM
    assert finding.remedy == "sudo systemctl start warmd-stage.socket"
    [fine] = judge_service(replace(stopped, running=None))  # it is started with the daemon
    assert fine.level == "ok"


def test_what_is_only_good_to_know() -> None:
    changed = {name: LOADED | {"NeedDaemonReload": "yes"} for name in UNITS}
    [stale] = judge_service(replace(FINE, units=changed))
    assert stale.level is Level.WARNING
    assert stale.sentence.startswith("warmd.service and warmd-engine@.service changed on disk")
    for told in (replace(FINE, storage="volatile"), replace(FINE, journal_kept=False)):
        [forgetful] = judge_service(told)
        assert forgetful.level is Level.NOTE
        assert "gone after a reboot" in forgetful.sentence
        assert forgetful.remedy
    root = replace(FINE, daemon=User(0, frozenset({0}), 0), running=None)  # a drop-in's User=root
    assert [each.level for each in judge_service(root)] == ["ok"]


def test_the_service_gives_its_socket_to_no_other_group() -> None:
    """Not even to one that its user is a member of: its sandbox knows no group but its own."""
    assert list(judge_group("warmd", 990, DAEMON, service=True)) == []
    assert list(judge_group("adm", 5, DAEMON)) == []
    [shut] = judge_group("adm", 5, DAEMON, service=True)
    assert "to no group but its own, and not to adm" in shut.sentence
    assert "take `group` out of [control]" in shut.remedy
    assert list(judge_group("adm", 4, User(0, frozenset({0}), 0), service=True)) == []


def test_who_runs_it_and_what_makes_its_engines() -> None:
    nobody = DaemonAnswer(Path("/run/warmd/control.sock"))
    asker = User(1000, frozenset({1000}), 1000)
    assert runner_of(nobody, Path("/nowhere"), asker, DAEMON) == DAEMON
    assert runner_of(nobody, Path("/nowhere"), asker) == asker
    lacking = EngineFacts(Path("/opt/e/bin/python"), "3.11")
    [finding] = judge_engine(lacking, SleepMode.AUTO, service=True)
    assert "/usr/lib/warmd/install-engine" in finding.remedy
