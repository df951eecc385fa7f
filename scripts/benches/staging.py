"""Staging beside other ways to read the same files, against the disk's own limit, in one run.

Each round empties the page cache before each way and takes all ways once, from another one on each
time; ratios are taken within a round. CPU is that of all children of a way.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench_rig import HERE, BenchError, a_folder
from children import Took, Way, command, taken
from disk_files import forget, random_files
from report import Table, Value
from staging_tmpfs import tmpfs_table

from warmd.spoken import count

FILES, SIZE = 4, 768 << 20
_DIRECT = ((4, 4), (1, 8), (1, 16))
_FIO = (("1M", 32), ("4M", 16))
_CACHE_SHARE = 0.65
_SPARSE, _SPARSE_BYTES = 60, 100 * 10**9
_RESIDENCY_AIM_MS = 50.0
_READER = [sys.executable, "-I", "-S", str(HERE / "reader.py")]
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
            tables.append(tmpfs_table(files, _limits(), began + seconds))
    return [*tables, _residency(folder)]


def _speeds(files: Sequence[Path], end: float) -> Table:
    ways = _ways()
    limits = _limits()
    took: dict[str, list[Took]] = {name: [] for name in ways}
    rounds, longest, how = 0, 0.0, ""
    while not rounds or time.monotonic() + longest < end:
        began = time.monotonic()
        order = list(ways)
        for name in order[rounds % len(order) :] + order[: rounds % len(order)]:
            how = forget(files)
            took[name].append(taken(ways[name], files))
        rounds += 1
        longest = max(longest, time.monotonic() - began)
    gb = sum(file.stat().st_size for file in files) / 1e9
    limit = [min(took[name][n].seconds for name in limits) for n in range(rounds)]
    rows: dict[str, Sequence[Value]] = {}
    for name, each in took.items():
        rows[name] = (
            median(gb / one.seconds for one in each),
            median(best / one.seconds for best, one in zip(limit, each, strict=True)),
            median(one.cpu_s / gb for one in each),
        )
    missing = [tool for tool in ("fio", "vmtouch") if shutil.which(tool) is None]
    notes = [
        f"{count(rounds, 'round')} of {gb:.1f} GB, {len(files)} files; medians, ratios in a round",
        f"before each way: {how}",
        "the limit is the best O_DIRECT row of each round",
    ]
    if os.geteuid():
        notes.append("a tmpfs was not measured: only root may mount one to compare with")
    if missing:
        notes.append(f"not installed, so not compared: {', '.join(missing)}")
    return Table(
        "staging: into the page cache", ("GB/s", "of the limit", "CPU s a GB"), rows, notes
    )


def _limits() -> dict[str, Way]:
    if shutil.which("fio"):
        return {f"O_DIRECT, fio, {size} x {depth}": _fio(size, depth) for size, depth in _FIO}
    return {
        f"O_DIRECT, our own reader, {mib} MiB x {depth}": command(
            [*_READER, f"direct:{depth}:{mib << 20}"]
        )
        for mib, depth in _DIRECT
    }


def _ways() -> dict[str, Way]:
    ways = _limits()
    ways["cat"] = command(["cat"])
    if shutil.which("vmtouch"):
        ways["vmtouch -t"] = command(["vmtouch", "-t", "-q"])
    ways["vLLM's prefetch, the same in our own lines"] = command([*_READER, "prefetch"])
    ways["warmd"] = _warmd
    return ways


def _fio(size: str, depth: int) -> Way:
    """As `fio` reads: its own start, some 0.3 s, is a part of what is measured."""
    options = [
        *("--name=read", "--rw=read", "--direct=1", "--readonly", "--output-format=terse"),
        *(
            f"--bs={size}",
            f"--iodepth={depth}",
            "--ioengine=libaio",
            "--file_service_type=sequential",
        ),
    ]

    def way(files: Sequence[Path]) -> None:
        names = ":".join(str(file).replace(":", "\\:") for file in files)
        command(["fio", *options, f"--filename={names}"])(())

    return way


def _warmd(files: Sequence[Path]) -> None:
    asyncio.run(_staged(files))


async def _staged(files: Sequence[Path]) -> None:
    """Start a stage keeper, have it hold the files, and end it: all of that is measured."""
    from warmd.staging import Keeper, Pace, Request

    total = sum(file.stat().st_size for file in files)
    with a_folder() as run_dir:
        keeper = Keeper(run_dir)
        try:
            request = Request(tuple(files), total)
            holding = await keeper.hold("bench", request, Pace(urgent=True), lambda _: None)
            await holding.release()
        finally:
            await keeper.close(leave=False)


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
