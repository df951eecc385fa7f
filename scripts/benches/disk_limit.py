"""The disk's own limit: the best of a few ways to read files in their order past the page cache.

By fio where there is one, see `scripts/debian-tools`, else by our own reader, in the same patterns.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from bench_rig import HERE, BenchError
from children import Took, Way, command

TOOLS = HERE.parents[1] / ".cache" / "tools" / "bin"
# Engine, block, in flight, jobs. Of 39 settings (libaio, io_uring and psync, 1 to 16 MiB, 1 to 32
# in flight, 1 and 4 jobs) the first three were ahead on a virtual disk; the last is for NVMe.
_FIO = (
    ("io_uring", "4M", 2, 1),
    ("libaio", "1M", 8, 1),
    ("psync", "1M", 1, 4),
    ("libaio", "4M", 32, 4),
)
_OWN = ((4, 4), (1, 8), (1, 16))
READER = [sys.executable, "-I", "-S", str(HERE / "reader.py")]


def tool(name: str) -> str | None:
    """Return where a tool to compare with is: on PATH, or fetched; None where it is missing."""
    return shutil.which(name) or shutil.which(name, path=f"{TOOLS}:/usr/sbin:/sbin")


def limits() -> dict[str, Way]:
    """Return the ways, by names for people."""
    if (fio := tool("fio")) is None:
        return {
            f"O_DIRECT, our own reader, {mib} MiB x {depth}": command(
                [*READER, f"direct:{depth}:{mib << 20}"]
            )
            for mib, depth in _OWN
        }
    return {
        f"fio, {engine}, {size} x {depth}, {jobs} {'jobs' if jobs > 1 else 'job'}": _fio(
            fio, engine, size, depth, jobs
        )
        for engine, size, depth, jobs in _FIO
        if _works(fio, engine)
    }


def _works(fio: str, engine: str) -> bool:
    """Whether the kernel lets fio read that way: many a container may not use io_uring."""
    argv = [fio, "--name=try", "--rw=read", "--readonly", f"--ioengine={engine}", "--size=4k"]
    done = subprocess.run([*argv, f"--filename={fio}"], capture_output=True, check=False)
    return done.returncode == 0


def best(took: Mapping[str, Sequence[Took]], names: Sequence[str]) -> str:
    """Return which of `names` is the fastest, by the median."""
    return min(names, key=lambda name: median(one.seconds for one in took[name]))


def missing() -> list[str]:
    """Say what isn't there to compare with, and how to come by it: nothing, or one sentence."""
    absent = [name for name in ("fio", "vmtouch") if tool(name) is None]
    if not absent:
        return []
    names = ", ".join(absent)
    return [f"not compared, as missing here: {names}; scripts/debian-tools fetches them"]


def _fio(fio: str, engine: str, size: str, depth: int, jobs: int) -> Way:
    """As `fio` reads, by its own clock: the third of a second of its start isn't the disk's."""
    argv = [
        *(fio, "--rw=read", "--direct=1", "--readonly", "--output-format=json", "--thread"),
        *("--group_reporting", f"--ioengine={engine}", f"--bs={size}", f"--iodepth={depth}"),
    ]

    def way(files: Sequence[Path]) -> float:
        names = [str(file).replace(":", "\\:") for file in files]
        work = ["--name=all", "--file_service_type=sequential", f"--filename={':'.join(names)}"]
        if jobs > 1:  # each its own files
            parts = [names[first::jobs] for first in range(min(jobs, len(names)))]
            work = [word for part in parts for word in ("--name=part", *_in_order(part))]
        done = subprocess.run([*argv, *work], capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"fio failed: {done.stderr.strip()[-500:]}")
        read = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["read"]
        if read["io_bytes"] != sum(file.stat().st_size for file in files):
            raise BenchError(f"fio read {read['io_bytes']} bytes, which isn't all")
        return float(read["runtime"]) / 1000

    return way


def _in_order(names: Sequence[str]) -> Sequence[str]:
    return "--file_service_type=sequential", f"--filename={':'.join(names)}"
