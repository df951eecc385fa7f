"""bash completes warmctl as a person would meet it; a daemon is asked only where one is there."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

COMPLETIONS = Path(__file__).parents[2] / "completions"
ASK = """source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); compopt() { :; }
_"$1"; printf '%s\\n' "${COMPREPLY[@]}" """


@pytest.fixture
def socket_path(tmp_path: Path) -> Iterator[Path]:
    """A control socket, and a warmctl that answers there as the daemon of two models would."""
    (tmp_path / "warmctl").write_text(
        "#!/bin/sh\n"
        f'[ "$*" = "--socket {tmp_path}/control.sock status --json" ] || exit 2\n'
        'echo \'{"models": {"qwen3-32b": {}, "llama-8b": {}}}\'\n'
    )
    (tmp_path / "warmctl").chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        yield tmp_path / "control.sock"


def completed(*words: str, programs: Path) -> list[str]:
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "--norc", "-uc", ASK, "bash", str(COMPLETIONS / words[0]), *words],
        env={"PATH": f"{programs}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        cwd=programs,
    )
    assert not done.stderr
    return sorted(done.stdout.split())


def test_commands_options_and_models_are_offered(socket_path: Path) -> None:
    def offered(*words: str) -> list[str]:
        return completed("warmctl", *words, programs=socket_path.parent)

    there = ("--socket", str(socket_path))
    assert offered("re") == ["reload", "report", "residency"]
    assert offered("--") == ["--help", "--socket", "--version"]
    assert offered("status", "--w") == ["--watch"]
    assert offered(*there, "explain", "") == ["llama-8b", "qwen3-32b"]
    assert offered(*there, "set", "--for", "2h", "qw") == ["qwen3-32b"]
    assert offered(*there, "set", "qwen3-32b", "a") == ["asleep", "auto"]
    assert offered(*there, "report", "--json", "qwen3-32b", "l") == ["llama-8b"]
    assert offered("gpu", "") == ["forget", "return"]
    assert offered("key", "") == ["add", "list", "remove"]
    assert offered("nonsense", "") == []
    assert completed("warmd", "run", "--", programs=socket_path.parent) == [
        "--config",
        "--help",
        "--systemd",
    ]


def test_where_no_daemon_is_no_model_is_offered_and_nobody_asked(tmp_path: Path) -> None:
    (tmp_path / "warmctl").write_text("#!/bin/sh\ntouch asked\n")
    (tmp_path / "warmctl").chmod(0o755)
    there = ("--socket", str(tmp_path / "none.sock"))
    assert completed("warmctl", *there, "explain", "", programs=tmp_path) == []
    assert not (tmp_path / "asked").exists()
