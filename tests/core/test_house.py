"""The rules of the house, held by tools: who may import whom, types, lint, format, names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

TOOLS = {
    "imports": ["lint-imports", "--no-cache"],
    "types": ["mypy"],
    "lint": ["ruff", "check", "--quiet"],
    "format": ["ruff", "format", "--check", "--quiet"],
}


@pytest.mark.parametrize("rule", TOOLS)
def test_the_house_keeps_its_rules(rule: str) -> None:
    command, *args = TOOLS[rule]
    done = subprocess.run(
        [BIN / command, *args], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_hold_one_idea_and_say_which() -> None:
    for file in (ROOT / "warmd").rglob("*.py"):
        text = file.read_text()
        assert text.startswith('"""'), f"{file}: a module says what it is"
        assert text.count("\n") <= 450, f"{file}: more than one idea?"
        assert file.stem not in {"utils", "util", "helpers", "helper", "common", "manager", "misc"}


def test_the_daemon_never_imports_the_engine_nor_the_operators_tool() -> None:
    probe = "import sys, warmd.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    # What speaks D-Bus takes memory, and only a daemon whose engines systemd runs needs it.
    assert not loaded & {"torch", "vllm", "transformers", "rich", "dbus_fast"}
    assert not any(name.startswith("warmd.cli") for name in done.stdout.split())
