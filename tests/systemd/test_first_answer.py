"""README "Install" to the letter: from a bare machine to the first answer of the real vLLM.

The commands are the README's own, typed by somebody who may use sudo; the model is a tiny one. The
environment of the engine comes from where pip on this machine gets its packages, and takes 5 GB of
disk until the end.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import package
import pytest
from box import CACHE, ROOT, Box, Share, base

RELEASE = "bookworm"  # PyTorch's build for the CPU isn't kept everywhere for every Python
PERSON = "ada"
MODEL = "qwen3-32b"
ENGINE = f"warmd-engine@{MODEL}.0.service"
WEIGHTS = "/srv/models/Qwen3-32B"
INSTALL = "/usr/lib/warmd/install-engine"
PYTHON = "/opt/warmd/engine/bin/python"
DOWNLOADS = "/mnt/pip-cache"
MAKE_MODEL = "/mnt/make-tiny-model"
PIP_S, ANSWER_S = 3600.0, 900.0  # on a slow network; on two busy cores, compiling
WHAT_MATTERS = {"imports", "weights", "compile", "kv-cache", "first-answer"}


@pytest.fixture(scope="module")
def machine() -> Iterator[Box]:
    """The package is installed, with what it recommends; nothing is configured."""
    (CACHE / "pip").mkdir(parents=True, exist_ok=True)
    settings, places = pip_of_this_machine()
    shares = [
        *package.shares(RELEASE),
        *places,
        Share(CACHE / "pip", DOWNLOADS, writable=True),
        Share(ROOT / "scripts" / "make-tiny-model", MAKE_MODEL),
    ]
    disk = Path(tempfile.mkdtemp(prefix="first-answer-", dir=CACHE))  # /tmp may be RAM
    try:
        with Box(base(RELEASE), upper=disk / "upper", shares=shares) as box:
            deb = f"{package.DIST}/{package.built(RELEASE).name}"
            package.apt(box, "install", deb, "curl", "sudo", recommends=True)
            box.write("/etc/pip.conf", settings)
            box.run("useradd", "--create-home", "--shell", "/bin/bash", PERSON)
            box.write(f"/etc/sudoers.d/{PERSON}", f"{PERSON} ALL=(ALL) NOPASSWD: ALL\n", 0o440)
            yield box
    finally:
        shutil.rmtree(disk)


def test_why_no_environment_can_be_made(machine: Box) -> None:
    machine.run("mkdir", "/opt/warmd")
    machine.run("mount", "-t", "tmpfs", "-o", "size=64m", "small", "/opt/warmd")
    said = refused(machine)
    assert re.search(r"needs about 6 GB, and /opt/warmd has 0 GB left: make room", said), said
    machine.run("umount", "/opt/warmd")
    said = refused(machine)
    assert "no package index answers: check the network" in said
    # Half an environment would be several GB that nobody can use.
    assert list(machine.path("/opt/warmd").iterdir()) == []


def test_from_the_package_to_the_first_answer(machine: Box) -> None:
    answers = "".join(do(machine, command) for command in commands())
    assert content(answers)
    assert machine.shows(ENGINE, "User") == "warmd-engine"
    status = json.loads(machine.run("warmctl", "status", "--json", user=PERSON).stdout)
    stages = status["models"][MODEL]["replicas"][0]["last_start"]
    print({name: round(seconds, 1) for name, seconds in stages.items()})
    assert stages.keys() >= WHAT_MATTERS
    assert min(stages["imports"], stages["compile"]) > 0.5, "not told from the engine's journal"
    said = machine.run("warmctl", "history", MODEL, user=PERSON).stdout
    assert re.search(r"staged -> hot in .*: 1 request waits for it", said), said

    # The engine is another user's, so what it holds is told by RSS: more than PSS, not absurd.
    (card,) = status["cards"]
    assert 0.5 * 2**30 < card["engines"][0]["held"] < card["engines"][0]["bytes"]
    assert card["mismatches"] == []
    warned = machine.run("journalctl", "-u", "warmd", "--priority=warning", "-o", "cat").stdout
    assert [line for line in warned.splitlines() if "access times" not in line] == []


def test_a_restart_leaves_the_engine_and_what_it_compiled_is_staged(machine: Box) -> None:
    engine = machine.shows(ENGINE, "MainPID")
    assert engine != "0"
    machine.run("systemctl", "restart", "warmd")
    machine.wait_for("taken over", lambda: "1 hot" in machine.shows("warmd", "StatusText"))
    assert content(do(machine, commands()[-1]))
    assert machine.shows(ENGINE, "MainPID") == engine
    assert "hot: taken over, as an earlier warmd left it" in machine.journal("-u", "warmd")

    # PyTorch lets nobody else read what it compiled; the daemon brings it into RAM all the same.
    machine.run("warmctl", "set", MODEL, "staged")
    machine.wait_for("what it compiled is in RAM", lambda: is_staged(machine), timeout_s=120.0)


def refused(box: Box) -> str:
    """Run install-engine where no network is; return the sentence that it ends with."""
    alone = {"PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "1"}
    done = box.run(INSTALL, env=alone, check=False, timeout_s=600)
    assert done.returncode == 1, done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def is_staged(box: Box) -> bool:
    """Whether weights and what was compiled are held in RAM, all of them."""
    model = json.loads(box.run("warmctl", "status", "--json").stdout)["models"][MODEL]
    whole = {each["kind"] for each in model["staged"] if each["held"] and not each["partial"]}
    return {"weights", "compile-cache"} <= whole


def content(answer: str) -> str:
    """Return what the model said."""
    said: str = json.loads(answer)["choices"][0]["message"]["content"]
    return said


# The README


def install_section() -> str:
    return (ROOT / "README.md").read_text().split("\n## Install\n")[1].split("\n## ")[0]


def commands() -> list[str]:
    """What is to be typed once the package is installed."""
    blocks = re.findall(r"```console\n(.*?)```", install_section(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return typed[typed.index(f"sudo {INSTALL}") :]


def do(box: Box, command: str) -> str:
    """Type one command; return what curl got."""
    print("$", command)
    match command.split():
        case ["sudo", program] if program == INSTALL:
            said = typed(box, command, network=True, timeout_s=PIP_S)
            hint = said.splitlines()[-1]
            assert hint == f'python = "{PYTHON}"', said
            assert said.splitlines()[-3:] == documented(hint), said
            # The README's model is too large for this machine, and for its network.
            box.run(PYTHON, MAKE_MODEL, WEIGHTS, env={"HOME": "/tmp"}, timeout_s=600)
        case ["sudoedit", "/etc/warmd/warmd.toml" as file]:
            as_shipped = box.path(file).read_text()
            box.write(file, as_shipped.replace("[engine]\n", f'[engine]\npython = "{PYTHON}"\n'))
        case ["sudoedit", file]:
            (toml,) = re.findall(r"```toml\n(.*?)```", install_section(), re.DOTALL)
            assert tomllib.loads(toml)["models"][MODEL]["weights"] == WEIGHTS
            box.write(file, toml)
        case ["curl", *_]:
            return typed(box, command.replace("curl ", "curl --silent --show-error ", 1))
        case _:
            typed(box, command)
    return ""


def documented(hint: str) -> list[str]:
    """Return that line of the README with the two before it."""
    lines = install_section().splitlines()
    at = lines.index(hint)
    return lines[at - 2 : at + 1]


def typed(box: Box, command: str, *, network: bool = False, timeout_s: float = ANSWER_S) -> str:
    """Have `PERSON` type it into a shell that was logged in to just now."""
    shell = ("bash", "-euo", "pipefail", "-c", command)
    env = {"USER": PERSON, "HOME": f"/home/{PERSON}"}
    argv = ("env", *(f"{name}={value}" for name, value in env.items()), *shell)
    return box.run(*argv, user=PERSON, network=network, timeout_s=timeout_s).stdout


# pip


def pip_of_this_machine() -> tuple[str, list[Share]]:
    """Return its settings as an /etc/pip.conf for the box, and the folders and files they name."""
    said = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
    found = re.findall(r"^(global|install|:env:)\.([\w-]+)=('.*'|\".*\")$", said, re.MULTILINE)
    # The environment has the last word, as it has with pip.
    found.sort(key=lambda each: ("global", "install", ":env:").index(each[0]))
    settings = {name: " ".join(ast.literal_eval(value).split()) for _, name, value in found}
    trusted = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    if trusted:
        settings.setdefault("cert", trusted)
    places = set()
    for word in " ".join(settings.values()).split():
        # An index kept in a folder names files that lie beside it.
        place = Path(word.removeprefix("file://"))
        place = place.parent if word.startswith("file://") else place
        if place.is_absolute() and place.exists():
            places.add(place)
    settings["cache-dir"] = DOWNLOADS
    lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
    return f"[global]\n{lines}", [Share(each.resolve(), str(each)) for each in sorted(places)]
