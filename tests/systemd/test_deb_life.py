"""The package at work, as apt installs it on a bare Debian: from the first model to a power cut.

The engine is the fake one, run by the Python of warmd's own environment.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import package
import pytest
from asked import asked_all_the_time
from box import RELEASES, ROOT, Box, Share, base

ENGINE = "warmd-engine@m.0.service"
RULE = "/usr/share/polkit-1/rules.d/50-warmd.rules"
HOST = """[engine]
python = "/usr/lib/warmd/venv/bin/python"
sleep = "drill"
[engine.env]
PYTHONPATH = "/mnt/fakes/site"
"""
MODEL = """[models.m]
weights = "/srv/m"
resting = "hot"
"""
SLOW = "[models.m.env]\nFAKE_VLLM = '{\"token_s\": 0.02}'\n"
CALENDAR = """[models.m]
weights = "/srv/m"
resting = "cold"
[[models.m.windows]]
from = "00:00"
to = "24:00"
rung = "hot"
"""
CREDENTIAL = "[Service]\nLoadCredential=api-keys:/etc/warmd/api-keys\n"
KEYS = '[gateway]\napi_keys = "/run/credentials/warmd.service/api-keys"\n'
# Prints the status, and the body as it came.
ASK = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", 8400, timeout=30)
said = [{"role": "user", "content": "x"}]
body = {"model": "m", "max_tokens": int(sys.argv[1]), "messages": said}
headers = {"Authorization": f"Bearer {sys.argv[2]}"} if sys.argv[2:] else {}
connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""
# Prints the pieces of a stream, each as it comes, and how it ended.
STREAM = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", 8400, timeout=30)
said = [{"role": "user", "content": "x"}]
body = {"model": "m", "max_tokens": int(sys.argv[1]), "messages": said, "stream": True}
connection.request("POST", "/v1/chat/completions", json.dumps(body))
answer = connection.getresponse()
try:
    for line in answer:
        print(line.decode().strip(), flush=True)
except OSError as error:
    print("cut off:", repr(error))
"""


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def layers(release: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A bare Debian on which apt has installed the package."""
    return [package.installed(release, tmp_path_factory.mktemp(release) / "disk"), base(release)]


@contextmanager
def a_machine(
    layers: Sequence[Path], *more: Share, upper: Path | None = None, model: str = MODEL
) -> Iterator[Box]:
    """A machine with the package, an engine and, unless `model` is empty, a model's file."""
    fakes = Share(ROOT / "tests" / "fakes", "/mnt/fakes")
    with Box(*layers, upper=upper, shares=[fakes, *more]) as box:
        box.write("/srv/m/config.json", "{}")
        box.write("/srv/m/model.safetensors", "x" * 4096)
        if model:
            box.write("/etc/warmd/models.d/m.toml", HOST + model)
        yield box


def ask(box: Box, tokens: int = 4, *key: str) -> tuple[int, str]:
    """Return status and body of a chat with m."""
    said = box.run("/usr/bin/python3", "-I", "-c", ASK, str(tokens), *key).stdout
    status, _, body = said.partition(" ")
    return int(status), body


def wait_until_hot(box: Box) -> None:
    box.wait_for("m is hot", lambda: "1 hot" in box.shows("warmd", "StatusText"))


def engine(box: Box) -> tuple[str, str]:
    return box.shows(ENGINE, "InvocationID"), box.shows(ENGINE, "MainPID")


def test_from_apt_to_the_first_answer_and_a_broken_file(layers: Sequence[Path]) -> None:
    with a_machine(layers, model="") as box:
        box.run("systemctl", "enable", "--now", "warmd")
        assert box.shows("warmd", "StatusText") == "no models configured"
        box.write("/etc/warmd/models.d/m.toml", HOST + MODEL.replace('"hot"', '"cold"'))
        began = time.monotonic()
        box.run("systemctl", "reload", "warmd")
        status, body = ask(box)
        print(f"systemctl reload to the first answer: {time.monotonic() - began:.2f} s")
        assert status == 200, body
        assert json.loads(body)["model"] == "m"
        hot = engine(box)

        box.write("/etc/warmd/models.d/n.toml", '[models.n]\nwieghts = "/srv/m"\n')
        failed = box.run("systemctl", "reload", "warmd", check=False)
        assert failed.returncode == 1
        told = box.journal("-u", "warmd")
        assert "n.toml:2: models.n.wieghts: unknown key, did you mean 'weights'?" in told
        assert ask(box)[0] == 200
        assert engine(box) == hot

        # What it said and decided is found where operators look.
        lines = box.run("journalctl", "--no-pager", "-o", "cat", "-u", "warmd-engine@*").stdout
        assert "Application startup complete" in lines
        about = box.run("journalctl", "--no-pager", "-o", "cat", "WARMD_MODEL=m").stdout
        assert "m.0" in about
        assert box.run("journalctl", "-q", "WARMD_MODEL=n", check=False).stdout == ""
        explained = box.run("journalctl", "--no-pager", "-x", "WARMD_MODEL=m").stdout
        assert "Subject: " in explained


def test_restart_kill_hang_and_upgrade_lose_nothing(
    release: str, layers: Sequence[Path], tmp_path: Path
) -> None:
    package.later(package.built(release), tmp_path)
    shares = [*package.shares(release), Share(tmp_path, "/mnt/later")]
    with a_machine(layers, *shares) as box:
        box.write(
            "/etc/systemd/system/warmd.service.d/soon.conf",
            "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n",
        )
        box.run("systemctl", "daemon-reload")
        box.run("systemctl", "start", "warmd")
        wait_until_hot(box)
        hot = engine(box)

        def another(than: str) -> bool:
            return (
                box.shows("warmd", "SubState") == "running"
                and box.shows("warmd", "MainPID") != than
            )

        def signalled(name: str) -> None:
            before = box.shows("warmd", "MainPID")
            box.run("systemctl", "kill", "--kill-whom=main", f"--signal={name}", "warmd")
            box.wait_for("another daemon", lambda: another(before))

        for what, act, cut_off in (
            ("restart", lambda: box.run("systemctl", "restart", "warmd"), 0),
            ("SIGKILL", lambda: signalled("KILL"), 1),
            ("SIGSTOP, until the watchdog", lambda: signalled("STOP"), 1),
            ("upgrade", lambda: package.apt(box, "install", "/mnt/later/later.deb"), 0),
        ):
            before = box.shows("warmd", "MainPID")
            print(f"{what}: ", end="")
            with asked_all_the_time(box, "m", ["/usr/bin/python3"]) as found:
                time.sleep(0.5)
                act()
                wait_until_hot(box)
            assert another(before)
            # Whom a process that is killed was just answering can't be answered any more.
            assert len(found["failed"]) <= cut_off, (what, found)
            assert not [each for each in found["failed"] if "Refused" in each], (what, found)
            assert found["answered"] > 10, (what, found)
            assert engine(box) == hot, what
            assert ask(box)[0] == 200
        assert "later" in box.shows("warmd", "Description")
        assert "Watchdog timeout" in box.journal("-u", "warmd")


def test_a_stream_in_flight_is_finished_over_restart_and_upgrade(
    release: str, layers: Sequence[Path], tmp_path: Path
) -> None:
    """As long as it ends within `[gateway] drain`; the engine is the same one all the time."""
    package.later(package.built(release), tmp_path)
    shares = [*package.shares(release), Share(tmp_path, "/mnt/later")]
    with a_machine(layers, *shares, model=MODEL + SLOW) as box:
        box.run("systemctl", "start", "warmd")
        wait_until_hot(box)
        hot = engine(box)
        for what, tokens, act in (
            ("restart", 150, lambda: box.run("systemctl", "restart", "warmd")),
            ("upgrade", 400, lambda: package.apt(box, "install", "/mnt/later/later.deb")),
        ):
            before = box.shows("warmd", "MainPID")
            asking = box.popen("/usr/bin/python3", "-I", "-c", STREAM, str(tokens))
            box.wait_for(
                "it streams", lambda: _status(box)["models"]["m"]["replicas"][0]["in_flight"]
            )
            began = time.monotonic()
            act()
            print(f"{what} under a stream: {time.monotonic() - began:.1f} s")
            said, _ = asking.communicate(timeout=30)
            lines = [line for line in said.splitlines() if line]
            assert lines[-1] == "data: [DONE]", (what, lines[-3:])
            pieces = [json.loads(line[6:]) for line in lines[:-1]]
            assert sum(bool(_content(each)) for each in pieces) == tokens, what
            assert box.shows("warmd", "MainPID") != before
            wait_until_hot(box)
            assert engine(box) == hot, what

        # What takes longer than that is told so, and not left to hang.
        box.write("/etc/warmd/warmd.toml", '[gateway]\ndrain = "1s"\n')
        box.run("systemctl", "restart", "warmd")
        wait_until_hot(box)
        asking = box.popen("/usr/bin/python3", "-I", "-c", STREAM, "1000")
        box.wait_for("it streams", lambda: _status(box)["models"]["m"]["replicas"][0]["in_flight"])
        box.run("systemctl", "restart", "warmd")
        said, _ = asking.communicate(timeout=10)
        print(said[-300:])
        assert "[DONE]" not in said
        assert engine(box) == hot


def test_a_model_inside_a_window_is_hot_after_a_power_cut(
    layers: Sequence[Path], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with a_machine(layers, upper=disk, model=CALENDAR) as box:
        box.run("systemctl", "enable", "warmd")
    with a_machine(layers, upper=disk, model=CALENDAR) as box:
        wait_until_hot(box)
        print(f"boot {box.booted_s:.2f} s")
        before = engine(box)
    with a_machine(layers, upper=disk, model=CALENDAR) as box:  # now with what it left behind
        wait_until_hot(box)
        assert engine(box)[0] != before[0]
        assert ask(box)[0] == 200


def test_a_stop_lets_answers_end_and_a_signal_leaves_the_engine(layers: Sequence[Path]) -> None:
    with a_machine(layers, model=MODEL + SLOW) as box:
        box.run("systemctl", "start", "warmd")
        wait_until_hot(box)
        hot = engine(box)
        box.run("systemctl", "kill", "warmd")
        box.wait_for("its end", lambda: box.shows("warmd", "ActiveState") == "inactive")
        assert engine(box) == hot
        assert "can't be read" not in box.journal(
            "-u", "warmd"
        )  # its journalctl had the signal too
        box.run("systemctl", "start", "warmd")
        wait_until_hot(box)
        assert engine(box) == hot
        assert ask(box)[0] == 200

        asking = box.popen("/usr/bin/python3", "-I", "-c", ASK, "80")
        box.wait_for("it is busy", lambda: _status(box)["models"]["m"]["replicas"][0]["in_flight"])
        box.run("systemctl", "stop", "warmd")
        said, _ = asking.communicate(timeout=10)
        assert said.startswith("200 "), said
        assert json.loads(said[4:])["usage"]["completion_tokens"] == 80
        assert box.shows(ENGINE, "ActiveState") == "inactive"
        assert not box.path(f"/proc/{hot[1]}").exists()


def test_a_machine_that_is_switched_off_lets_answers_end(
    layers: Sequence[Path], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with a_machine(layers, model=MODEL + SLOW, upper=disk) as box:
        box.run("mkdir", "--parents", "/var/log/journal")  # for a journal that outlasts it
        box.run("journalctl", "--flush")
        box.run("systemctl", "start", "warmd")
        wait_until_hot(box)
        asking = box.popen("/usr/bin/python3", "-I", "-c", ASK, "80")
        box.wait_for("it is busy", lambda: _status(box)["models"]["m"]["replicas"][0]["in_flight"])
        box.run("systemctl", "poweroff", "--no-block")
        said, _ = asking.communicate(timeout=30)
        assert said.startswith("200 "), said
        assert json.loads(said[4:])["usage"]["completion_tokens"] == 80
        box.wait_for("it is off", lambda: not Path(f"/proc/{box.pid1}").exists())
    with Box(*layers, upper=disk) as box:
        journal = box.journal()  # of both lives: a box has the boot id of its host
    assert "Stopped warmd.service" in journal
    assert "warmd-engine@m.0.service: Deactivated successfully" in journal
    assert "Stopping warmd-engine@m.0.service" not in journal, "the daemon had drained it first"


def test_keys_come_as_a_credential(layers: Sequence[Path]) -> None:
    """The file is root's alone; another one holds from the next restart."""
    with a_machine(layers) as box:
        box.write("/etc/warmd/api-keys", _line("alice", "one"), 0o600)
        box.write("/etc/systemd/system/warmd.service.d/keys.conf", CREDENTIAL)
        box.write("/etc/warmd/warmd.toml", KEYS)
        box.run("systemctl", "daemon-reload")
        box.run("systemctl", "start", "warmd")
        wait_until_hot(box)
        assert ask(box)[0] == 401
        assert ask(box, 4, "one")[0] == 200
        assert box.run("cat", "/etc/warmd/api-keys", user="warmd", check=False).returncode
        read = ("cat", "/run/credentials/warmd.service/api-keys")
        assert box.run(*read, user="nobody", check=False).returncode
        assert box.run(*read, user="warmd-engine", check=False).returncode
        hot = engine(box)

        box.write("/etc/warmd/api-keys", _line("alice", "two"), 0o600)
        box.run("systemctl", "reload", "warmd")
        box.run("systemctl", "restart", "warmd")
        wait_until_hot(box)
        assert ask(box, 4, "one")[0] == 401
        assert ask(box, 4, "two")[0] == 200
        assert engine(box) == hot


def test_without_polkits_rule_log_and_status_say_what_to_do(layers: Sequence[Path]) -> None:
    with a_machine(layers) as box:
        rule = box.path(RULE).read_text()
        box.path(RULE).unlink()
        box.run("systemctl", "start", "warmd")
        box.wait_for("it is told", lambda: RULE in box.run("warmctl", "status").stdout)
        assert RULE in box.run("warmctl", "explain", "m").stdout
        assert RULE in box.journal("-u", "warmd", "-p", "warning")
        box.write(RULE, rule)
        box.run("systemctl", "restart", "polkit")
        assert ask(box)[0] == 200


def test_its_units_are_sound_and_shut_in(layers: Sequence[Path]) -> None:
    with a_machine(layers) as box:
        listed = box.run("dpkg", "--listfiles", "warmd").stdout.splitlines()
        units = [each for each in listed if re.search(r"/systemd/system/.*\.[a-z]+$", each)]
        assert len(units) == 8, units
        checked = box.run("systemd-analyze", "verify", "--man=no", *units)
        assert checked.stdout + checked.stderr == ""
        for unit, most in (("warmd", 1.5), ("warmd-stage", 1.5), ("warmd-engine@m.0", 2.0)):
            told = box.run("systemd-analyze", "security", f"{unit}.service").stdout
            level = float(re.findall(r"Overall exposure level.*: ([0-9.]+)", told)[0])
            print(f"{unit}: {level}")
            assert level <= most, told


def _line(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n"


def _content(piece: Any) -> str:
    return "".join(each["delta"].get("content") or "" for each in piece["choices"])


def _status(box: Box) -> Any:
    return json.loads(box.run("warmctl", "status", "--json").stdout)
