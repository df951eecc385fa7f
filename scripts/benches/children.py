"""What children of ours take: time, and CPU."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench_rig import BenchError

Way = Callable[[Sequence[Path]], float | None]
"""Brings files somewhere, by children that have ended when it returns.

Returns the seconds that count where these are fewer than it took.
"""


@dataclass(frozen=True)
class Took:
    """What one way took for all files: seconds of time, and of CPU of its children."""

    seconds: float
    cpu_s: float


def taken(way: Way, files: Sequence[Path]) -> Took:
    """Go one way and measure it."""
    used, began = cpu_of_children(), time.monotonic()
    counted = way(files)
    seconds = time.monotonic() - began
    return Took(seconds if counted is None else counted, cpu_of_children() - used)


def in_turn(names: Iterable[str], number: int) -> list[str]:
    """Return the order of one round: from another one on each time, and backwards every other.

    So nobody profits always from what the one before left behind, in the host's cache as well.
    """
    order = list(names)
    at = number % len(order)
    order = order[at:] + order[:at]
    return order[::-1] if number % 2 else order


def ratio(limit: Sequence[Took], each: Sequence[Took]) -> float:
    """Return how fast `each` was, beside the limit of the same round: the median of all rounds."""
    return median(its.seconds / one.seconds for its, one in zip(limit, each, strict=True))


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
