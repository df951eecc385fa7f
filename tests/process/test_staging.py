"""Real files, the real page cache, real holding processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from staging_rig import (
    MIB,
    a_keeper,
    alive,
    evict,
    hold,
    holding,
    resident,
    some_weights,
    take_away,
    the_program,
    until,
)

from warmd.devices import host_memory
from warmd.staging import FileSet, StagingError, StagingProgress

ROOT = Path(sys.modules["warmd"].__path__[0]).parent


@pytest.fixture
def weights(tmp_path: Path) -> FileSet:
    return some_weights(tmp_path)


async def test_staged_means_measured_and_held(weights: FileSet) -> None:
    seen: list[StagingProgress] = []
    async with a_keeper() as keeper:
        held = await hold(keeper, weights, seen.append)
        assert sum(map(resident, weights.files)) == weights.total == held.total == held.resident
        assert seen[-1] == StagingProgress(weights.total, weights.total, weights.total)
        assert [step.done for step in seen] == sorted(step.done for step in seen)

        for file in weights.files:
            evict(file)  # the mapping keeps what nobody held would lose here
        assert sum(map(resident, weights.files)) == weights.total

        process = psutil.Process(held.pid)
        program = the_program(held)
        assert os.getsid(held.pid) == program.pid != os.getsid(0)
        assert process.memory_info().shared >= weights.total  # page cache, counted there
        private = process.memory_full_info().uss - weights.total
        assert private < 6 * MIB
        assert program.memory_full_info().uss < 6 * MIB
        await held.release()
        await held.release()
        assert not psutil.pid_exists(held.pid)
        for file in weights.files:
            evict(file)
        assert sum(map(resident, weights.files)) == 0
    assert not program.is_running()


async def test_a_holder_that_does_not_listen_is_released_too(weights: FileSet) -> None:
    async with holding(weights) as held:
        os.kill(held.pid, signal.SIGSTOP)
        await asyncio.wait_for(held.release(), 5)
        assert not psutil.pid_exists(held.pid)


async def test_what_is_evicted_comes_back(weights: FileSet) -> None:
    async with holding(weights, interval=0.05) as held:
        os.kill(held.pid, signal.SIGSTOP)  # or it would see the write between its two steps
        take_away(weights.files[0])
        assert resident(weights.files[0]) == 0
        os.kill(held.pid, signal.SIGCONT)
        await until(lambda: resident(weights.files[0]) == 8 * MIB)
        assert alive(held.pid)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
async def test_the_holders_death_is_told(weights: FileSet, ending: signal.Signals) -> None:
    async with holding(weights) as held:
        os.kill(held.pid, ending)
        sentence = await asyncio.wait_for(held.lost(), 10)
        assert f"m: process {held.pid}" in sentence
        assert f"was killed by {ending.name}" in sentence
        assert sentence.endswith("; it is tried again in 30 s")
        assert await held.lost() == sentence
        assert held.resident == 0


async def test_staging_refuses_with_a_sentence(weights: FileSet, tmp_path: Path) -> None:
    grown = FileSet(weights.files, weights.total - 1)
    gone = FileSet((tmp_path / "gone",), 1)
    async with a_keeper() as keeper:
        with pytest.raises(StagingError, match="changed while they were staged"):
            await hold(keeper, grown)
        with pytest.raises(StagingError, match=r"gone: can't be read \(No such file"):
            await hold(keeper, gone)
    async with a_keeper("/no/python") as keeper:
        with pytest.raises(StagingError, match="can't be started with /no/python"):
            await hold(keeper, weights)
    async with a_keeper("/bin/false") as keeper:
        with pytest.raises(StagingError, match=r"process \d+.* exited with status 1"):
            await hold(keeper, weights)


def processes() -> set[str]:
    below = psutil.Process().children(recursive=True)
    return {p.name() for p in below if p.status() != psutil.STATUS_ZOMBIE}


async def test_a_cancelled_staging_leaves_no_process(weights: FileSet) -> None:
    async with a_keeper() as keeper:
        task = asyncio.create_task(hold(keeper, weights))
        await until(lambda: "warmd-held" in processes())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "warmd-held" not in processes()


@pytest.mark.parametrize("trouble", [LookupError, asyncio.CancelledError])
async def test_trouble_in_the_middle_ends_the_process(
    weights: FileSet, trouble: type[BaseException]
) -> None:
    def fail(_progress: StagingProgress) -> None:
        raise trouble

    async with a_keeper() as keeper:
        with pytest.raises(trouble):
            await hold(keeper, weights, fail)
        assert "warmd-held" not in processes()


def request(files: list[str], enough: float = 0.99) -> dict[str, object]:
    return {"files": files, "enough": enough, "interval": 0.05}


CHILD = """
import json, os, sys
from warmd.staging.holder import child
if sys.argv[2] == "nobody" and os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
sys.exit(child.hold(json.loads(sys.argv[1])))
"""


def run_alone(
    asked: dict[str, object], end_at: str = "resident", user: str = "ourselves"
) -> list[dict[str, object]]:
    """Run the process that holds a set; let its stdin end once it has said `end_at`."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(asked), user],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        seen: list[dict[str, object]] = []
        while text := process.stdout.readline():
            seen.append(json.loads(text))
            if end_at in seen[-1]:
                process.stdin.close()
                process.stdin = None
                break
        assert process.wait(10) == ("error" in seen[-1])
    return seen


def test_the_holder_ends_with_its_keeper(weights: FileSet) -> None:
    seen = run_alone(request([str(file) for file in weights.files]))
    ways = ("cachestat", "mincore")  # mincore: overlayfs, kernel < 6.5
    assert seen[-1].pop("by") in ways
    assert seen[-1] == {"resident": weights.total, "total": weights.total, "network": None}


def test_too_little_resident_is_an_error_with_the_measured_share(weights: FileSet) -> None:
    seen = run_alone(request([str(weights.files[0])], enough=1.5), end_at="error")
    assert "only 100.0 % of the files stay in RAM" in str(seen[-1]["error"])


def test_a_file_of_somebody_else_is_proved_by_the_page_tables() -> None:
    """mincore would call every page of it resident, so it must not be asked."""
    shell = Path("/bin/bash").resolve()
    seen = run_alone(request([str(shell)]), user="nobody")
    size = shell.stat().st_size
    measured = {"resident": size, "total": size, "by": "page tables", "network": None}
    assert seen[-1] == measured


def test_an_unreadable_file_is_an_error_line(tmp_path: Path) -> None:
    secret = tmp_path / "a.safetensors"
    secret.write_bytes(b"x")
    secret.chmod(0)
    (line,) = run_alone(request([str(secret)]), user="nobody")
    assert line == {
        "error": f"{secret}: can't be read (Permission denied); let the daemon's user read it"
    }


def test_host_memory_is_the_kernels() -> None:
    memory = host_memory()
    assert 0 < memory.available < memory.total
    assert memory.total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
