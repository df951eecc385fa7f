"""The follower of the engines' output over a journalctl that comes and goes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from warmd.launch.systemd import journal
from warmd.launch.systemd.journal import Journal

# Stands in for one that may not read (each odd time), and one that could, for longer than a moment.
JOURNALCTL = """#!/bin/sh
echo >>{folder}/runs
test $(($(wc -l <{folder}/runs) % 2)) = 0 && exec sleep 0.3
echo 'No journal files were opened due to insufficient permissions.' >&2
exit 1
"""


async def test_trouble_is_told_again_once_it_was_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "journalctl"
    program.write_text(JOURNALCTL.format(folder=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(journal, "_AGAIN_S", 0.15)
    told: list[str] = []
    twice = asyncio.Event()

    def report(sentence: str) -> None:
        told.append(sentence)
        if len(told) == 2:
            twice.set()

    follower = Journal(report)
    follower.open()
    try:
        async with asyncio.timeout(10):
            await twice.wait()
    finally:
        await follower.close()
    assert told[0] == told[1]
    assert "insufficient permissions" in told[0]
    runs = len((tmp_path / "runs").read_text())
    assert runs == 3, "not told while it lasted, and told as soon as it failed anew"


async def test_trouble_that_lasts_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # there is no journalctl
    monkeypatch.setattr(journal, "_AGAIN_S", 0.02)
    told: list[str] = []
    follower = Journal(told.append)
    follower.open()
    await asyncio.sleep(0.3)
    await follower.close()
    [sentence] = told
    assert "journalctl can't be started" in sentence
