"""What children of ours take: time, and CPU."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_rig import BenchError

Way = Callable[[Sequence[Path]], None]
"""Brings files somewhere, by children that have ended when it returns."""


@dataclass(frozen=True)
class Took:
    """What one way took for all files: seconds of time, and of CPU of its children."""

    seconds: float
    cpu_s: float


def taken(way: Way, files: Sequence[Path]) -> Took:
    """Go one way and measure it."""
    used, began = cpu_of_children(), time.monotonic()
    way(files)
    seconds = time.monotonic() - began
    return Took(seconds, cpu_of_children() - used)


def cpu_of_children() -> float:
    """Seconds of CPU of all children that have ended, user and system."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command(argv: Sequence[str]) -> Way:
    """Return the way of a program that gets the files as its last arguments."""

    def way(files: Sequence[Path]) -> None:
        done = subprocess.run(
            [*argv, *map(str, files)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"{argv[0]} failed: {done.stderr.strip()[-500:]}")

    return way
