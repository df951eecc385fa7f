"""Files of weights, the page cache as a test of its own sees it, and a stage keeper."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from warmd.staging import (
    FileSet,
    Holding,
    Keeper,
    Pace,
    Request,
    StagingProgress,
    weight_files,
)
from warmd.staging.holder import program as keeper_program

MIB = 1 << 20
OnProgress = Callable[[StagingProgress], None]
libc = ctypes.CDLL(None, use_errno=True)


def resident(path: Path) -> int:
    """Measure by the test's own mincore(2), on a mapping of its own that touches nothing."""
    size = path.stat().st_size
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view,
    ):
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


async def until(met: Callable[[], bool], patience: float = 10) -> None:
    deadline = time.monotonic() + patience
    while not met():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def some_weights(folder: Path) -> FileSet:
    """Two files of 13 MiB in all, on disk alone."""
    folder.mkdir(exist_ok=True)
    for name, size in [("a.safetensors", 8 * MIB), ("b.safetensors", 5 * MIB + 4097)]:
        (folder / name).write_bytes(os.urandom(size))
    found = weight_files(folder)  # which looks at their headers
    for file in found.files:
        evict(file)
    if sum(map(resident, found.files)):
        pytest.skip(f"{folder} is on a file system that can't evict (tmpfs): set --basetemp")
    return found


def keeper_python(folder: Path, line: str) -> Path:
    """A Python that runs the keeper's program with something of it set otherwise."""
    python = folder / "python"
    program = Path(keeper_program.__file__)
    python.write_text(
        f"#!/bin/sh\nexec {sys.executable} -I -S -c '"
        'import sys, types; sys.modules["holder"] = types.ModuleType("holder"); '
        f'sys.modules["holder"].__path__ = ["{program.parent}"]; '
        f"from holder import child, program; {line}; sys.exit(program.main())'\n"
    )
    python.chmod(0o755)
    return python


def the_program(held: Holding) -> psutil.Process:
    """The stage keeper above the process that holds a set."""
    program = psutil.Process(held.pid).parent()
    assert program is not None
    assert program.name() == "warmd-stage"
    return program


@asynccontextmanager
async def a_keeper(python: Path | str = sys.executable, **more: Any) -> AsyncIterator[Keeper]:
    folder = tempfile.mkdtemp(prefix="warmd-")  # short: a unix socket lives there
    keeper = Keeper(Path(folder), python, **more)
    try:
        yield keeper
    finally:
        await keeper.close(leave=False)
        shutil.rmtree(folder)


async def hold(
    keeper: Keeper,
    weights: FileSet,
    on_progress: OnProgress = lambda _progress: None,
    key: str = "weights:m",
) -> Holding:
    return await keeper.hold(key, Request(weights.files, weights.total), Pace(), on_progress)


@asynccontextmanager
async def holding(weights: FileSet, interval: float = 30.0) -> AsyncIterator[Holding]:
    async with a_keeper(interval=interval) as keeper:
        yield await hold(keeper, weights)
