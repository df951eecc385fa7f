"""The launcher over a real systemd, as user warmd; what is held stands in `launcher_cases`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import RELEASES, Box, Share
from packages import with_packages
from unpacked import POLKIT_RULE, UNITS, a_machine, install

_CASES = Share(Path(__file__).parent, "/usr/lib/warmd/cases")
_ENV = {"PYTHONPATH": "/usr/lib/warmd/tree:/usr/lib/warmd/packages"}
_PLAY = ("/usr/lib/warmd/venv/bin/python", "-W", "error", f"{_CASES.target}/launcher_cases.py")


@pytest.fixture(scope="module", params=RELEASES)
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    layer = with_packages(request.param, "polkitd", "python3")
    with a_machine(request.param, _CASES, layers=[layer]) as box:
        install(box)
        box.run("install", "-d", "-m", "700", "/srv/shut")
        yield box


def play(box: Box, *case: str) -> str:
    done = box.run(*_PLAY, *case, user="warmd", env=_ENV, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + box.journal()[-6000:]
    return done.stdout


def heard(played: subprocess.Popen[str], word: str) -> list[str]:
    """Read what a case says until a line begins with `word`."""
    assert played.stdout is not None
    said = []
    for line in played.stdout:
        said.append(line)
        if line.split()[:1] == [word]:
            return line.split()
    raise AssertionError("".join(said))


@pytest.mark.parametrize(
    "case",
    [
        "starts_and_is_ended_whole",
        "what_cannot_be_executed",
        "how_it_ended_is_told",
        "the_deaf_are_ended_whole",
        "a_later_daemon_finds_it",
        "what_nobody_vouches_for_is_swept",
        "lines_of_all_kinds",
        "two_at_once",
        "a_start_called_off_leaves_nothing",
        "measures_the_start",
    ],
)
def test_an_engine_as_a_unit(box: Box, case: str) -> None:
    print(play(box, case))


def test_restarts_of_systemd_and_the_journal_lose_nothing(box: Box) -> None:
    go = box.path("/run/warmd/go")
    with box.popen(*_with_env("what_happens_around_it_is_outlived"), user="warmd") as played:
        assert played.stdout is not None
        assert heard(played, "UP")
        box.run("systemctl", "daemon-reexec")
        box.run("systemctl", "restart", "systemd-journald")
        box.run("systemctl", "daemon-reload")
        go.touch()
        box.run("sh", "-c", f"kill -KILL {heard(played, 'KILL')[1]}")
        said = played.stdout.read()
    go.unlink()
    assert played.returncode == 0, said


def test_what_others_start_anew_is_ended(box: Box) -> None:
    with box.popen(*_with_env("started_anew_by_others_it_is_nobodys"), user="warmd") as played:
        assert played.stdout is not None
        assert heard(played, "UP")
        box.run("systemctl", "restart", "warmd-engine@tiny.0", check=False)
        said = played.stdout.read()
    assert played.returncode == 0, said


def test_a_unit_that_is_masked_or_missing_is_told_with_its_remedy(box: Box) -> None:
    template = box.path(f"{UNITS}/warmd-engine@.service")
    box.run("systemctl", "mask", "--runtime", "warmd-engine@tiny.0")
    play(box, "refused_and_says_why", "systemctl unmask")
    box.run("systemctl", "unmask", "--runtime", "warmd-engine@tiny.0")
    text = template.read_text()
    template.unlink()
    box.run("systemctl", "daemon-reload")
    play(box, "refused_and_says_why", "there is no warmd-engine@.service")
    box.write(
        f"{UNITS}/warmd-engine@.service", text.replace("User=warmd-engine", "User=nobody-here")
    )
    box.run("systemctl", "daemon-reload")
    play(box, "refused_and_says_why", "is there a user warmd-engine?")
    box.write(f"{UNITS}/warmd-engine@.service", text)
    box.run("systemctl", "daemon-reload")


def test_without_the_rule_or_polkit_it_says_what_to_do(box: Box) -> None:
    rule = box.path(POLKIT_RULE)
    text = rule.read_text()
    rule.unlink()
    box.run("systemctl", "restart", "polkit")
    play(box, "refused_and_says_why", POLKIT_RULE)
    box.write(POLKIT_RULE, text)
    box.run("systemctl", "restart", "polkit")
    play(box, "starts_and_is_ended_whole")


@pytest.mark.parametrize("release", RELEASES)
def test_a_machine_without_polkit_says_what_to_do(release: str) -> None:
    with a_machine(release, _CASES) as bare:
        install(bare)
        play(bare, "refused_and_says_why", "apt install polkitd")


def test_the_daemon_may_do_nothing_else(box: Box) -> None:
    """Another unit, another verb, another user, and a transient unit under an allowed name."""

    def may(*argv: str, user: str = "warmd") -> bool:
        return not box.run(*argv, user=user, check=False).returncode

    engine = "warmd-engine@tiny.0.service"
    assert may("systemctl", "stop", engine)
    assert not may("systemctl", "stop", engine, user="nobody")
    assert not may("systemctl", "start", "systemd-journal-flush.service")
    assert not may("systemctl", "kill", "dbus.service")
    assert not may("systemctl", "start", "warmd-engine@x.timer")
    assert not may("systemctl", "set-property", "--runtime", engine, "CPUWeight=1")
    assert not may("systemctl", "daemon-reload")
    assert not may("systemd-run", "--wait", f"--unit={engine}", "touch", "/root/in")
    assert not may("systemd-run", "--wait", "--unit=warmd-engine@new.service", "touch", "/root/in")
    template = box.path(f"{UNITS}/warmd-engine@.service")
    text = template.read_text()
    template.unlink()  # then there is nothing on disk under that name
    box.run("systemctl", "daemon-reload")
    assert not may("systemd-run", "--wait", f"--unit={engine}", "touch", "/root/in")
    box.write(f"{UNITS}/warmd-engine@.service", text)
    box.run("systemctl", "daemon-reload")
    assert not box.path("/root/in").exists()


def test_the_engines_unit_is_sound_and_shut_in(box: Box) -> None:
    checked = box.run("systemd-analyze", "verify", "--man=no", f"{UNITS}/warmd-engine@.service")
    assert checked.stdout + checked.stderr == ""
    told = box.run("systemd-analyze", "security", "--no-pager", "warmd-engine@tiny.0.service")
    *_, last = told.stdout.splitlines()
    print(last)
    assert float(last.rpartition(": ")[2].split()[0]) <= 2.0, told.stdout


def _with_env(case: str) -> list[str]:
    return ["env", *(f"{name}={value}" for name, value in _ENV.items()), *_PLAY, case]
