"""Copies of files in a tmpfs: warmd's beside cp's, and by how much the page cache grows with them.

The pages of a tmpfs count in it as well, so that it grows by 1.0 of the bytes at least.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
from bench_rig import BenchError, a_folder
from children import Way, command, cpu_of_children, taken
from disk_files import forget
from report import Table, Value

from warmd.ladder import Place
from warmd.spoken import count
from warmd.staging import Keeper, Pace, Request, StagingError

_OPTIONS = "huge=always"


@dataclass(frozen=True)
class _Copied:
    """Seconds until the copies are there, and of CPU until they are gone again."""

    seconds: float
    cpu_s: float
    growth: float  # of the page cache, in bytes a byte that was copied


_Copy = Callable[[Sequence[Path], Path, int], _Copied]


def tmpfs_table(files: Sequence[Path], limits: Mapping[str, Way], end: float) -> Table:
    """Copy `files` each way until `end` (monotonic), once at least; `limits` read at the limit.

    Raises `BenchError` where there is no RAM for it, or no right to mount.
    """
    total = sum(file.stat().st_size for file in files)
    if (available := psutil.virtual_memory().available) < 3 * total:
        raise BenchError(
            f"{available / 1e9:.1f} GB of RAM are available, and {3 * total / 1e9:.1f} GB needed"
        )
    copies: dict[str, _Copy] = {"warmd, stage = tmpfs": _warmd, f"cp, {_OPTIONS}": _cp}
    took: dict[str, list[_Copied]] = {name: [] for name in copies}
    limit: list[float] = []
    longest = 0.0
    while not limit or time.monotonic() + longest < end:
        began = time.monotonic()
        fastest = float("inf")
        for way in limits.values():
            forget(files)
            fastest = min(fastest, taken(way, files).seconds)
        limit.append(fastest)
        for name, copy in copies.items():
            forget(files)
            with a_folder() as folder:
                _touch(folder, total)
                took[name].append(copy(files, folder, total))
        longest = max(longest, time.monotonic() - began)
    gb = total / 1e9
    rows: dict[str, Sequence[Value]] = {
        name: (
            median(gb / one.seconds for one in each),
            median(best / one.seconds for best, one in zip(limit, each, strict=True)),
            median(one.cpu_s / gb for one in each),
            median(one.growth for one in each),
        )
        for name, each in took.items()
    }
    notes = (
        f"{count(len(limit), 'round')} of {gb:.1f} GB; medians, ratios within a round",
        "CPU until the copies are gone again; a tmpfs's own pages are 1.0 of the growth",
        "that much memory is touched before each: a virtual machine's host may have to give it",
    )
    columns = ("GB/s", "of the limit", "CPU s a GB", "page cache grows by")
    return Table("staging: into a tmpfs", columns, rows, notes)


def _warmd(files: Sequence[Path], folder: Path, total: int) -> _Copied:
    async def hold() -> tuple[float, float]:
        keeper = Keeper(folder)
        stage = folder / "stage" / "bench"
        request = Request(
            tuple(files), total, place=Place.TMPFS, folder=stage, root=files[0].parent
        )
        try:
            cached, began = _cached(), time.monotonic()
            holding = await keeper.hold("bench", request, Pace(urgent=True), lambda _: None)
            seconds, growth = time.monotonic() - began, (_cached() - cached) / total
            await holding.release()
        except StagingError as error:
            raise BenchError(str(error)) from None
        finally:
            await keeper.close(leave=False)
        return seconds, growth

    used = cpu_of_children()
    seconds, growth = asyncio.run(hold())
    return _Copied(seconds, cpu_of_children() - used, growth)


def _touch(folder: Path, total: int) -> None:
    """Take as much memory as the copies will, and give it back to the kernel."""
    options = f"size={total + (64 << 20)},{_OPTIONS}"
    command(["mount", "-t", "tmpfs", "-o", options, "warmd-bench"])((folder,))
    try:
        with (folder / "touched").open("wb") as file:
            zeros = bytes(4 << 20)
            for _ in range(-(-total // len(zeros))):
                file.write(zeros)
    finally:
        with suppress(subprocess.SubprocessError):
            command(["umount"])((folder,))


def _cp(files: Sequence[Path], folder: Path, total: int) -> _Copied:
    options = f"size={total + (64 << 20)},{_OPTIONS}"
    command(["mount", "-t", "tmpfs", "-o", options, "warmd-bench"])((folder,))
    try:
        used, cached, began = cpu_of_children(), _cached(), time.monotonic()
        command(["cp"])((*files, folder))
        seconds, growth = time.monotonic() - began, (_cached() - cached) / total
        command(["rm"])(tuple(folder / file.name for file in files))
        return _Copied(seconds, cpu_of_children() - used, growth)
    finally:
        with suppress(subprocess.SubprocessError):
            command(["umount"])((folder,))


def _cached() -> int:
    """Bytes of the page cache, those of every tmpfs among them."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Cached:"))
