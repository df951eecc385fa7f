"""The daemon as a service of a real systemd: its sandbox, its sockets, its end, its words."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from asked import asked_all_the_time
from box import RELEASES, Box
from packages import with_packages
from unpacked import UNITS, a_machine, drop_in, install, units

from warmd.message_ids import MessageId

GOOD = """[engine]
python = "/usr/bin/true"
"""
STAGED = """
[models.{name}]
weights = "/srv/{name}"
stage = "{stage}"
resting = "staged"
"""


@pytest.fixture(params=RELEASES, scope="module")
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    layer = with_packages(request.param, "polkitd", "python3")
    with a_machine(request.param, layers=[layer]) as box:
        install(box, GOOD)
        yield box


@pytest.fixture(autouse=True)
def as_it_was(box: Box) -> Iterator[None]:
    """Each test finds a daemon that has just been started, with a good config."""
    box.write("/etc/warmd/warmd.toml", GOOD)
    box.run("systemctl", "restart", "warmd")
    yield
    box.run("systemctl", "stop", "warmd", check=False)
    box.run("rm", "-rf", "/etc/systemd/system/warmd.service.d")
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "reset-failed")


def status(box: Box) -> Any:
    return json.loads(box.run("warmctl", "status", "--json").stdout)


def from_now() -> str:
    """For `journalctl`: only what comes from now on (252's --after-cursor skips one match more)."""
    return f"--since=@{time.time():.6f}"


def test_units_are_sound_and_the_daemon_is_confined(box: Box) -> None:
    files = [f"{UNITS}/{name}" for name in units()]
    verified = box.run("systemd-analyze", "verify", "--man=no", *files)
    assert verified.stdout + verified.stderr == ""
    for unit, most in (("warmd.service", 1.5), ("warmd-stage.service", 1.5)):
        told = box.run("systemd-analyze", "security", unit).stdout
        level = float(re.findall(r"Overall exposure level.*: ([0-9.]+)", told)[0])
        print(f"{unit}: {level}")
        assert level <= most, told


def test_it_comes_up_without_root_and_says_how_it_stands(box: Box) -> None:
    pid = box.shows("warmd", "MainPID")
    assert box.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip() == "warmd"
    assert "NoNewPrivs:\t1" in box.run("cat", f"/proc/{pid}/status").stdout
    assert box.shows("warmd", "StatusText") == "no models configured"
    assert box.shows("warmd", "NFileDescriptorStore") == "3"
    assert box.run("stat", "-c", "%U:%G %a", "/run/warmd/control.sock").stdout.strip() == (
        "warmd:warmd 660"
    )
    refused = box.run("warmctl", "status", check=False, user="nobody")
    assert refused.returncode == 1
    # No GPU: nothing to do, and nothing failed.
    assert box.shows("warmd-gpu-nodes", "Result") == "success"
    assert box.run("systemctl", "--failed", "--no-legend").stdout == ""


def test_with_32_models_it_is_ready_within_a_second(box: Box) -> None:
    config = GOOD
    for number in range(32):
        box.write(f"/srv/m{number}/config.json", "{}")
        box.write(f"/srv/m{number}/model.safetensors", "x" * 4096)
        config += STAGED.format(name=f"m{number}", stage="page-cache")
    box.write("/etc/warmd/warmd.toml", config)
    walls, works = [], []
    for _ in range(3):
        box.run("systemctl", "stop", "warmd")
        began = time.monotonic()
        box.run("systemctl", "start", "warmd")
        walls.append(time.monotonic() - began)
        works.append(int(box.shows("warmd", "CPUUsageNSec")) / 1e9)
    print(f"systemctl start to READY, 32 models: {min(walls):.2f} s, of CPU {min(works):.2f} s")
    assert len(status(box)["models"]) == 32
    # Of its own work: how long that takes is for whoever else uses this host.
    assert min(works) < 1.0


def test_restarts_lose_no_connection(box: Box) -> None:
    with asked_all_the_time(box) as found:
        for _ in range(3):
            box.run("systemctl", "restart", "warmd")
            time.sleep(0.5)
    assert found["failed"] == []
    assert found["answered"] > 50


def test_a_kill_loses_no_connection_that_nobody_had_accepted(box: Box) -> None:
    first = status(box)["pid"]
    with asked_all_the_time(box) as found:
        box.run("systemctl", "kill", "--signal=KILL", "warmd")
        box.wait_for("the next daemon", lambda: box.shows("warmd", "SubState") == "running")
        assert status(box)["pid"] != first
    # One request may have been under way in the daemon that was killed; none was refused.
    assert len(found["failed"]) <= 1, found
    assert not [each for each in found["failed"] if "Refused" in each], found


def test_a_socket_that_the_config_no_longer_names_is_given_back(box: Box) -> None:
    box.write("/etc/warmd/warmd.toml", GOOD + '[gateway]\nlisten = ["127.0.0.1:8500"]\n')
    box.run("systemctl", "restart", "warmd")
    listening = box.run("ss", "-Hltn").stdout
    assert "127.0.0.1:8500" in listening
    assert "127.0.0.1:8400" not in listening
    assert box.shows("warmd", "NFileDescriptorStore") == "3"


def test_a_reload_tells_its_verdict(box: Box) -> None:
    mark = from_now()
    box.write("/etc/warmd/warmd.toml", GOOD + "[gatewy]\n")
    failed = box.run("systemctl", "reload", "warmd", check=False)
    assert failed.returncode == 1
    assert "warmd.toml:3: gatewy: unknown key, did you mean 'gateway'?" in (
        box.journal("-u", "warmd", mark)
    )
    assert box.shows("warmd", "ActiveState") == "active"
    box.run("mkdir", "-p", "/srv/m")
    box.write("/srv/m/config.json", "{}")
    box.write("/srv/m/model.safetensors", "x" * 4096)
    box.write("/etc/warmd/warmd.toml", GOOD + STAGED.format(name="m", stage="page-cache"))
    box.run("systemctl", "reload", "warmd")
    assert list(status(box)["models"]) == ["m"]
    assert box.shows("warmd", "SubState") == "running"


def test_a_bad_config_is_not_tried_again_and_what_is_only_taken_is(box: Box) -> None:
    box.run("systemctl", "stop", "warmd")
    box.write("/etc/warmd/warmd.toml", "[gatewy]\n")
    assert box.run("systemctl", "start", "warmd", check=False).returncode == 1
    assert box.shows("warmd", "ExecMainStatus") == "78"
    assert box.shows("warmd", "ActiveState") == "failed"
    assert box.shows("warmd", "NRestarts") == "0"


def test_a_daemon_that_stands_still_is_killed_and_started_anew(box: Box) -> None:
    drop_in(box, "warmd.service", "[Service]", "WatchdogSec=2", "TimeoutAbortSec=1")
    box.run("systemctl", "restart", "warmd")
    first = box.shows("warmd", "MainPID")
    box.run("sh", "-c", f"kill -STOP {first}")
    box.wait_for(
        "another daemon",
        lambda: (
            box.shows("warmd", "SubState") == "running" and box.shows("warmd", "MainPID") != first
        ),
    )
    assert "Watchdog timeout" in box.journal("-u", "warmd")


def test_what_is_staged_survives_a_restart_inside_the_sandbox_and_ends_with_a_stop(
    box: Box,
) -> None:
    config = GOOD
    for stage in ("page-cache", "locked", "tmpfs"):
        box.run("mkdir", "-p", f"/srv/{stage}")
        box.write(f"/srv/{stage}/config.json", "{}")
        with box.path(f"/srv/{stage}/model.safetensors").open("wb") as file:
            file.write(os.urandom(2 << 20))
        config += STAGED.format(name=stage, stage=stage)
    box.write("/etc/warmd/warmd.toml", config)
    box.run("systemctl", "restart", "warmd")

    def all_staged() -> bool:
        return {each["rung"] for each in status(box)["models"].values()} == {"staged"}

    box.wait_for("all is staged", all_staged)
    keeper = box.shows("warmd-stage", "MainPID")
    assert box.run("cat", f"/proc/{keeper}/comm").stdout.strip() == "warmd-stage"
    assert box.run("stat", "-c", "%U", f"/proc/{keeper}").stdout.strip() == "warmd"
    copy = box.run("find", "/run/warmd/stage", "-name", "model.safetensors", "-size", "2M").stdout
    assert copy.strip()
    assert box.run("cat", copy.strip(), check=False, user="warmd-engine").returncode == 0
    assert box.run("cat", copy.strip(), check=False, user="nobody").returncode
    box.run("systemctl", "restart", "warmd")
    box.run("systemctl", "kill", "--signal=KILL", "warmd")
    box.wait_for("the next daemon", lambda: box.shows("warmd", "SubState") == "running")
    box.wait_for("all is staged still", all_staged)
    assert box.shows("warmd-stage", "MainPID") == keeper
    box.run("systemctl", "stop", "warmd")
    assert box.shows("warmd-stage", "ActiveState") == "inactive"
    assert box.run("ls", "/run/warmd/stage").stdout == ""
    assert box.run("test", "-S", "/run/warmd/stage.sock", check=False).returncode == 0


def test_the_journal_explains_its_lines(box: Box) -> None:
    box.run("journalctl", "--update-catalog")
    mark = from_now()
    box.run("systemctl", "restart", "warmd")
    box.run("journalctl", "--sync")
    told = box.run("journalctl", "-x", "-u", "warmd", f"MESSAGE_ID={MessageId.STOPPING}", mark)
    assert "stopping: systemd restarts warmd; engines go on without it" in told.stdout
    assert "Subject: warmd is ending: systemd restarts warmd" in told.stdout
    listed = box.run("journalctl", "--list-catalog").stdout
    assert all(each.value in listed for each in MessageId)
