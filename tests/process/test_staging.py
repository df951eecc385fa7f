"""Real files, the real page cache, real holding processes."""

from __future__ import annotations

import asyncio
import ctypes
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from warmd.devices import host_memory
from warmd.staging import (
    Holding,
    Keeper,
    Pace,
    Request,
    StagingError,
    StagingProgress,
    WeightFiles,
    weight_files,
)

MIB = 1 << 20
OnProgress = Callable[[StagingProgress], None]
ROOT = Path(sys.modules["warmd"].__path__[0]).parent
libc = ctypes.CDLL(None, use_errno=True)


def resident(path: Path) -> int:
    """Measure by the test's own mincore(2), on a mapping of its own that touches nothing."""
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        anchor = ctypes.c_char.from_buffer(view)
        vector = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
        assert libc.mincore(ctypes.c_void_p(ctypes.addressof(anchor)), size, vector) == 0
        del anchor
    return min(sum(byte & 1 for byte in vector.raw) * mmap.PAGESIZE, size)


def evict(path: Path) -> None:
    """Drop a file's pages, which works while nobody maps them."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def take_away(path: Path) -> None:
    """Drop pages that a process maps: a direct write of the same bytes invalidates them."""
    status = path.stat()
    with mmap.mmap(-1, status.st_size) as buffer:
        buffer[:] = path.read_bytes()
        descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
        try:
            assert os.pwrite(descriptor, buffer, 0) == status.st_size
        finally:
            os.close(descriptor)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


async def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not met():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def weights(tmp_path: Path) -> WeightFiles:
    for name, size in [("a.safetensors", 8 * MIB), ("b.safetensors", 5 * MIB + 4097)]:
        (tmp_path / name).write_bytes(os.urandom(size))
        evict(tmp_path / name)
    found = weight_files(tmp_path)
    if sum(map(resident, found.files)):
        pytest.skip(f"{tmp_path} is on a file system that can't evict (tmpfs): set --basetemp")
    return found


@asynccontextmanager
async def a_keeper(
    python: Path | str = sys.executable, interval: float = 30.0
) -> AsyncIterator[Keeper]:
    folder = tempfile.mkdtemp(prefix="warmd-")  # short: a unix socket lives there
    keeper = Keeper(Path(folder), python, interval=interval)
    try:
        yield keeper
    finally:
        await keeper.close(leave=False)
        shutil.rmtree(folder)


async def hold(
    keeper: Keeper, weights: WeightFiles, on_progress: OnProgress = lambda _progress: None
) -> Holding:
    return await keeper.hold(
        "weights:m", Request(weights.files, weights.total), Pace(), on_progress
    )


@asynccontextmanager
async def holding(weights: WeightFiles, interval: float = 30.0) -> AsyncIterator[Holding]:
    async with a_keeper(interval=interval) as keeper:
        yield await hold(keeper, weights)


async def test_staged_means_measured_and_held(weights: WeightFiles) -> None:
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
        program = process.parent()
        assert program is not None
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


async def test_a_holder_that_does_not_listen_is_released_too(weights: WeightFiles) -> None:
    async with holding(weights) as held:
        os.kill(held.pid, signal.SIGSTOP)
        await asyncio.wait_for(held.release(), 5)
        assert not psutil.pid_exists(held.pid)


async def test_what_is_evicted_comes_back(weights: WeightFiles) -> None:
    async with holding(weights, interval=0.05) as held:
        os.kill(held.pid, signal.SIGSTOP)  # or it would see the write between its two steps
        take_away(weights.files[0])
        assert resident(weights.files[0]) == 0
        os.kill(held.pid, signal.SIGCONT)
        await until(lambda: resident(weights.files[0]) == 8 * MIB)
        assert alive(held.pid)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
async def test_the_holders_death_is_told(weights: WeightFiles, ending: signal.Signals) -> None:
    async with holding(weights) as held:
        os.kill(held.pid, ending)
        sentence = await asyncio.wait_for(held.lost(), 10)
        assert f"m: process {held.pid}" in sentence
        assert f"was killed by {ending.name}" in sentence
        assert await held.lost() == sentence
        assert held.resident == 0


def truncate(file: Path) -> None:
    os.truncate(file, MIB)


def replace(file: Path) -> None:
    (file.parent / "new").write_bytes(file.read_bytes())
    (file.parent / "new").replace(file)


def rewrite(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncate, "was truncated from 8388608 to 1048576 bytes"),
        (replace, "was replaced by another file"),
        (rewrite, "was (written to|truncated)"),
        (Path.unlink, "was removed"),
    ],
)
async def test_a_file_that_changes_while_held_is_told(
    weights: WeightFiles, change: Callable[[Path], None], words: str
) -> None:
    async with holding(weights, interval=0.05) as held:
        change(weights.files[0])
        sentence = await asyncio.wait_for(held.lost(), 10)
        with pytest.raises(StagingError, match=words):
            raise StagingError(sentence)
        assert str(weights.files[0]) in sentence
        assert not alive(held.pid)


async def test_staging_refuses_with_a_sentence(weights: WeightFiles, tmp_path: Path) -> None:
    grown = WeightFiles(weights.files, weights.total - 1)
    gone = WeightFiles((tmp_path / "gone",), 1)
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


async def test_a_cancelled_staging_leaves_no_process(weights: WeightFiles) -> None:
    async with a_keeper() as keeper:
        task = asyncio.create_task(hold(keeper, weights))
        await until(lambda: "warmd-held" in processes())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "warmd-held" not in processes()


@pytest.mark.parametrize("trouble", [LookupError, asyncio.CancelledError])
async def test_trouble_in_the_middle_ends_the_process(
    weights: WeightFiles, trouble: type[BaseException]
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


def test_the_holder_ends_with_its_keeper(weights: WeightFiles) -> None:
    seen = run_alone(request([str(file) for file in weights.files]))
    assert seen[-1] == {"resident": weights.total, "total": weights.total, "by": "cachestat"} | (
        {"by": seen[-1]["by"]} if seen[-1]["by"] == "mincore" else {}  # overlayfs, kernel < 6.5
    )


def test_too_little_resident_is_an_error_with_the_measured_share(weights: WeightFiles) -> None:
    seen = run_alone(request([str(weights.files[0])], enough=1.5), end_at="error")
    assert "only 100.0 % of the weights stay in RAM" in str(seen[-1]["error"])


def test_a_file_of_somebody_else_is_proved_by_the_page_tables() -> None:
    """mincore would call every page of it resident, so it must not be asked."""
    shell = Path("/bin/bash").resolve()
    seen = run_alone(request([str(shell)]), user="nobody")
    size = shell.stat().st_size
    assert seen[-1] == {"resident": size, "total": size, "by": "page tables"}


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
