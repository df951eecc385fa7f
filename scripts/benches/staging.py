"""Staging beside other ways to read the same files, against the disk's own limit, in one run.

Each round empties the page cache before each way and takes all ways once, in another order each
time; ratios are taken within a round. CPU is that of all children of a way.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench_rig import HERE, BenchError, a_folder
from children import Took, Way, command, in_turn, ratio, taken
from disk_files import forget, random_files
from disk_limit import READER, best, limits, missing, tool
from report import Table, Value
from staging_tmpfs import tmpfs_table
from warm_memory import MEMORY, warm_memory

from warmd.spoken import count
from warmd.staging import Holding, Keeper, Pace, Request

FILES, SIZE = 4, 768 << 20
_CACHE_SHARE = 0.65
_STARTS = 5
_SPARSE, _SPARSE_BYTES = 60, 100 * 10**9
_RESIDENCY_AIM_MS = 50.0
_OURS = "warmd"
_PROBE = """
import asyncio, json, sys, time
from pathlib import Path
import uvloop
from warmd.aside import aside
from warmd.staging.look import measure

async def beat(late, until):
    last = time.monotonic()
    while last < until():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        late.append((now - last) * 1000 - 1)
        last = now

async def main():
    files = sorted(Path(sys.argv[1]).iterdir())
    quiet, stalls, taken = [], [], []
    end = time.monotonic() + 1
    await beat(quiet, lambda: end)
    running = [True]
    beats = asyncio.create_task(beat(stalls, lambda: float("inf") if running[0] else 0.0))
    for _ in range(50):
        began = time.monotonic()
        found = await aside(lambda: measure(files))
        taken.append((time.monotonic() - began) * 1000)
        await asyncio.sleep(0.02)
    running[0] = False
    await beats
    said = {"quiet": quiet, "stalls": stalls, "taken": taken, "total": found.total, "by": found.by}
    print(json.dumps(said))

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


def run(seconds: float, folder: Path) -> Sequence[Table]:
    """Compare for about `seconds`, with files of 3.2 GB below `folder` that are gone afterwards."""
    with random_files(folder, FILES, SIZE) as files:
        began = time.monotonic()
        tables = [_speeds(files, began + _CACHE_SHARE * seconds)]
        if os.geteuid() == 0:
            tables.append(tmpfs_table(files, limits(), began + seconds))
    return [*tables, _residency(folder)]


def _speeds(files: Sequence[Path], end: float) -> Table:
    limit_ways = limits()
    ways = limit_ways | _others()
    took: dict[str, list[Took]] = {name: [] for name in ways}
    rounds, longest, how = 0, 0.0, ""
    total = sum(file.stat().st_size for file in files)
    with warm_memory(total) as memory:
        while not rounds or time.monotonic() + longest < end:
            began = time.monotonic()
            for name in in_turn(ways, rounds):
                how = forget(files)
                memory.fill()
                took[name].append(taken(ways[name], files))
            rounds += 1
            longest = max(longest, time.monotonic() - began)
    gb = total / 1e9
    limit = best(took, list(limit_ways))
    rows: dict[str, Sequence[Value]] = {}
    for name, each in took.items():
        rows[name] = (
            median(gb / one.seconds for one in each),
            ratio(took[limit], each),
            ratio(took[_OURS], each),
            median(one.cpu_s / gb for one in each),
        )
    notes = [
        f"{count(rounds, 'round')} of {gb:.1f} GB, {len(files)} files; medians, ratios in a round",
        _start_note(files[0].parent, median(one.cpu_s for one in took[_OURS]), gb),
        f"before each way: {how}; what a host below this machine keeps stays",
        "fio and warmd by their own clocks: a daemon's stage keeper runs before an order comes",
        f"the limit is what is fastest by its median: {limit}",
        MEMORY,
        *missing(),
    ]
    if os.geteuid():
        notes.append("a tmpfs was not measured: only root may mount one to compare with")
    columns = ("GB/s", "of the limit", "of warmd", "CPU s a GB")
    return Table("staging: into the page cache", columns, rows, notes)


def _start_note(folder: Path, cpu_s: float, gb: float) -> str:
    """Say what of warmd's CPU a GB is no file's: the stage keeper starts once, for all sets."""
    page = folder / "page"
    page.write_bytes(bytes(4096))
    start = median(taken(_warmd, [page]).cpu_s for _ in range(_STARTS))
    return (
        f"of warmd's CPU, {start:.3f} s is the start of the stage keeper, once for all that it "
        f"holds: {max(0.0, cpu_s - start) / gb:.3f} s a GB without it"
    )


def _others() -> dict[str, Way]:
    ways = {"cat": command(["cat"])}
    if (vmtouch := tool("vmtouch")) is not None:
        ways["vmtouch -t"] = command([vmtouch, "-t", "-q"])
    ways["vLLM's prefetch, the same in our own lines"] = command([*READER, "prefetch"])
    ways[_OURS] = _warmd
    return ways


def _warmd(files: Sequence[Path]) -> float:
    return asyncio.run(_staged(files))


async def _staged(files: Sequence[Path]) -> float:
    """Have a stage keeper hold the files; return the seconds from the order to all of them held.

    A daemon's keeper runs long before the order comes, and fio goes by its own clock as well; its
    start and its end count in the CPU alone.
    """

    async def hold(name: str, held: Sequence[Path]) -> Holding:
        total = sum(file.stat().st_size for file in held)
        request = Request(tuple(held), total)
        return await keeper.hold(name, request, Pace(urgent=True), lambda _: None)

    with a_folder() as run_dir:
        first = run_dir / "first"
        first.write_bytes(bytes(4096))
        keeper = Keeper(run_dir)
        try:
            await hold("first", [first])
            began = time.monotonic()
            holding = await hold("bench", files)
            took = time.monotonic() - began
            if not holding.complete:
                raise BenchError(f"the keeper holds {holding.resident} of {holding.total} bytes")
            await holding.release()
        finally:
            await keeper.close(leave=False)
    return took


def _residency(folder: Path) -> Table:
    """Measure what is in RAM of 100 GB, of which nothing was ever written."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as name:
        for number in range(_SPARSE):
            with (Path(name) / f"part-{number:02}").open("wb") as opened:
                opened.truncate(_SPARSE_BYTES // _SPARSE)
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, name],
            env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise BenchError(f"residency: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout)
    names = {
        "taken": "one measurement, ms",
        "stalls": "the loop is late, ms",
        "quiet": "the loop is late without it, ms",
    }
    rows: dict[str, Sequence[Value]] = {
        name: (
            median(found[key]),
            max(found[key]),
            _RESIDENCY_AIM_MS if key == "taken" else None,
        )
        for key, name in names.items()
    }
    note = f"{len(found['taken'])} measurements in a thread, by {found['by']}; the files are sparse"
    title = f"staging: residency of {found['total'] / 1e9:.0f} GB in {_SPARSE} files"
    return Table(title, ("median", "longest", "aim"), rows, (note,))
