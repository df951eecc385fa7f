"""The sweep at a daemon's start kills what bears our marks, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from launch_scene import alive, eventually, launching, shim_of

from warmd.launch import LaunchError, Leftover, leftovers, sweep, tree


@contextmanager
def sleeper(env: dict[str, str] | None = None, stdout: int | None = None) -> Iterator[int]:
    process = subprocess.Popen(["/bin/sleep", "60"], env=env or {}, stdout=stdout)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_only_marked_processes_are_killed(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    alias = tmp_path / "alias"
    alias.symlink_to(run_dir)
    run_dir.mkdir()
    where = {"WARMD_RUN_DIR": str(run_dir)}
    with ExitStack() as stack:
        marked = stack.enter_context(sleeper(where | {"WARMD_ENGINE": "tiny.0"}))
        deaf = stack.enter_context(sleeper(where | {"WARMD_ENGINE": "other.1", "X": "1"}))
        strangers = [
            stack.enter_context(sleeper(env))
            for env in (
                {},
                where,  # an operator's shell may have it
                {"WARMD_ENGINE": "tiny.0"},
                {"WARMD_RUN_DIR": f"{run_dir}2", "WARMD_ENGINE": "tiny.0"},
                {"X": f"WARMD_RUN_DIR={run_dir}", "WARMD_ENGINE": "tiny.0"},
            )
        ]
        assert sweep(run_dir, name="nobody.0") == ()
        assert sweep(run_dir, name="tiny.0") == (Leftover(marked, "tiny.0"),)
        assert alive(deaf)
        assert sweep(alias) == (Leftover(deaf, "other.1"),)
        assert not alive(deaf)
        assert all(alive(pid) for pid in strangers)
        assert sweep(run_dir) == ()


def test_a_process_whose_environment_was_overwritten_is_known_by_its_output(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "engines"
    folder.mkdir()
    with ExitStack() as stack:
        ends = []
        for name in ("tiny.0.out", "notes.txt"):
            os.mkfifo(folder / name)
            ends.append(os.open(folder / name, os.O_RDWR))
            (folder / name).unlink()
            stack.callback(os.close, ends[-1])
        ours = stack.enter_context(sleeper(stdout=ends[0]))
        stranger = stack.enter_context(sleeper(stdout=ends[1]))
        assert sweep(tmp_path) == (Leftover(ours, "tiny.0"),)
        assert alive(stranger)


def test_the_sweep_spares_itself_and_those_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "_engine_of", lambda *_: "tiny.0")
    line = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    everybody = tree.parents()
    monkeypatch.setattr(tree, "parents", lambda: everybody)
    looked_at: list[int] = []

    def refuse(pid: int) -> int:
        looked_at.append(pid)
        raise ProcessLookupError

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert sweep(tmp_path) == ()
    assert looked_at
    assert not line & set(looked_at)


def test_what_will_not_die_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)
    env = {"WARMD_RUN_DIR": str(tmp_path), "WARMD_ENGINE": "tiny.0"}
    with sleeper(env) as pid, pytest.raises(LaunchError, match=rf"{pid} \(tiny\.0\)"):
        sweep(tmp_path, within_s=0.2)


async def test_what_outlived_daemon_shim_and_forkserver_is_found(tmp_path: Path) -> None:
    """An orphan in a session of its own, as an engine core whose whole line was SIGKILLed."""
    async with launching(tmp_path) as scene:
        engine = await scene.start("/bin/sh", "-c", "setsid sleep 600 & echo $!; wait")
        await eventually(lambda: scene.text)
        orphan = int(scene.text[0])
        await eventually(lambda: psutil.Process(orphan).name() == "sleep")
        # Hold back our own answer to the killing, to stand where the next daemon does.
        engine._life.cancel()  # type: ignore[attr-defined]
        shim = shim_of(engine)
        psutil.Process(shim).suspend()
        os.kill(scene.forkserver, 9)
        os.kill(shim, 9)
        await eventually(lambda: not alive(engine.pid))
        assert alive(orphan)
        assert sweep(tmp_path / "run") == (Leftover(orphan, "tiny.0"),)
        assert not alive(orphan)
