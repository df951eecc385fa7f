"""The daemon's end under a real systemd, with an engine as its unit: who stays, who goes.

The engine is the fake one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asked import asked_all_the_time
from box import RELEASES, Box
from packages import with_packages
from unpacked import a_machine, install, program, python

ENGINE = "warmd-engine@m.0.service"
CONFIG = """
[gateway]
drain = "2s"
[engine]
python = "/usr/lib/warmd/engine"
sleep = "drill"
drain_timeout = "5s"
stop_timeout = "5s"
[engine.env]
PYTHONPATH = "/usr/lib/warmd/fakes/site:/usr/lib/warmd/packages"
[models.m]
weights = "/srv/m"
resting = "hot"
"""


@pytest.fixture(scope="module", params=RELEASES)
def machine(request: pytest.FixtureRequest) -> Iterator[Box]:
    layer = with_packages(request.param, "polkitd", "python3")
    with a_machine(request.param, layers=[layer]) as box:
        install(box, CONFIG)
        program(box, "/usr/lib/warmd/engine", f'exec {python()} "$@"')
        box.write("/srv/m/config.json", "{}")
        box.write("/srv/m/model.safetensors", "x" * 4096)
        yield box


@pytest.fixture
def box(machine: Box) -> Iterator[Box]:
    """A machine whose engine is hot."""
    machine.run("systemctl", "start", "warmd")
    wait_until_hot(machine)
    yield machine
    machine.run("systemctl", "stop", "warmd")


def wait_until_hot(box: Box) -> None:
    def is_hot() -> bool:
        return "1 hot" in box.shows("warmd", "StatusText")

    box.wait_for("m is hot", is_hot)


def test_a_restart_and_a_kill_lose_no_model_and_no_answer(box: Box) -> None:
    engine = box.shows(ENGINE, "InvocationID")
    with asked_all_the_time(box, "m") as found:
        for _ in range(2):
            box.run("systemctl", "restart", "warmd")
            wait_until_hot(box)
    assert found["failed"] == []
    box.run("systemctl", "kill", "--signal=KILL", "warmd")
    box.wait_for("the next daemon", lambda: box.shows("warmd", "SubState") == "running")
    wait_until_hot(box)
    assert box.shows(ENGINE, "InvocationID") == engine
    assert "systemd restarts warmd; engines go on without it" in box.journal("-u", "warmd")


def test_a_stop_stops_the_engines_too(box: Box) -> None:
    box.run("systemctl", "stop", "warmd")
    assert box.shows(ENGINE, "ActiveState") == "inactive"
    assert "systemd stops warmd; engines are drained first" in box.journal("-u", "warmd")
    assert not box.path("/run/warmd/control.sock").exists()


def test_a_signal_alone_ends_the_daemon_alone(box: Box) -> None:
    engine = box.shows(ENGINE, "InvocationID")
    box.run("systemctl", "kill", "warmd")
    box.wait_for("its end", lambda: box.shows("warmd", "ActiveState") == "inactive")
    assert box.shows(ENGINE, "ActiveState") == "active"
    box.run("systemctl", "start", "warmd")
    wait_until_hot(box)
    assert box.shows(ENGINE, "InvocationID") == engine
