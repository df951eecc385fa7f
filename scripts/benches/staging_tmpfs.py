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
from children import Took, Way, command, cpu_of_children, in_turn, ratio, taken
from disk_files import forget
from disk_limit import best
from report import Table, Value
from warm_memory import MEMORY, cached, warm_memory

from warmd.ladder import Place
from warmd.spoken import count
from warmd.staging import Keeper, Pace, Request, StagingError

_OPTIONS = "huge=always"
_CP_TAKES = 2  # bytes of RAM a byte: it leaves what it read in the page cache


@dataclass(frozen=True)
class _Copied:
    """Seconds until the copies are there, and of CPU until they are gone again."""

    took: Took
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
    cp = f"cp, {_OPTIONS}"
    copies: dict[str, _Copy] = {"warmd, stage = tmpfs": _warmd, cp: _cp}
    took: dict[str, list[Took]] = {name: [] for name in (*limits, *copies)}
    growth: dict[str, list[float]] = {name: [] for name in copies}
    rounds, longest = 0, 0.0
    with warm_memory(_CP_TAKES * total) as memory:
        while not rounds or time.monotonic() + longest < end:
            began = time.monotonic()
            for name in in_turn(took, rounds):
                forget(files)
                memory.fill(1.0 if name == cp else 1 / _CP_TAKES)
                if name in limits:
                    took[name].append(taken(limits[name], files))
                    continue
                with a_folder() as folder:
                    copied = copies[name](files, folder, total)
                took[name].append(copied.took)
                growth[name].append(copied.growth)
            rounds += 1
            longest = max(longest, time.monotonic() - began)
    gb = total / 1e9
    limit = best(took, list(limits))
    rows: dict[str, Sequence[Value]] = {
        name: (
            median(gb / one.seconds for one in each),
            ratio(took[limit], each),
            median(one.cpu_s / gb for one in each),
            median(growth[name]) if name in growth else None,
        )
        for name, each in took.items()
    }
    notes = (
        f"{count(rounds, 'round')} of {gb:.1f} GB; medians, ratios in a round, to {limit}",
        "CPU until the copies are gone again; a tmpfs's own pages are 1.0 of the growth",
        MEMORY,
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
            before, began = cached(), time.monotonic()
            holding = await keeper.hold("bench", request, Pace(urgent=True), lambda _: None)
            seconds, growth = time.monotonic() - began, (cached() - before) / total
            await holding.release()
        except StagingError as error:
            raise BenchError(str(error)) from None
        finally:
            await keeper.close(leave=False)
        return seconds, growth

    used = cpu_of_children()
    seconds, growth = asyncio.run(hold())
    return _Copied(Took(seconds, cpu_of_children() - used), growth)


def _cp(files: Sequence[Path], folder: Path, total: int) -> _Copied:
    options = f"size={total + (64 << 20)},{_OPTIONS}"
    command(["mount", "-t", "tmpfs", "-o", options, "warmd-bench"])((folder,))
    try:
        used, before, began = cpu_of_children(), cached(), time.monotonic()
        command(["cp"])((*files, folder))
        seconds, growth = time.monotonic() - began, (cached() - before) / total
        command(["rm"])(tuple(folder / file.name for file in files))
        return _Copied(Took(seconds, cpu_of_children() - used), growth)
    finally:
        with suppress(subprocess.SubprocessError):
            command(["umount"])((folder,))
