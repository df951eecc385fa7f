"""How short memory is, and what may have pushed pages out of it.

A part of the stage keeper's program: see `program.py`.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `typing` would cost a megabyte in every process
if TYPE_CHECKING:
    from collections.abc import Iterator

PAUSE_AT = 20.0
RESUME_BELOW = 10.0
"""Per cent of the last 10 s in which something waited for memory (`some avg10`, psi in the kernel's
documentation): from there on staging pauses, and below here it goes on."""

SYSTEM = "/proc/pressure/memory"
TRIGGER = b"some 150000 2000000\0"
"""150 ms of waiting in 2 s: windows of multiples of 2 s need no privilege."""

_CGROUPS = "/sys/fs/cgroup"


def some_avg10(text: str) -> float | None:
    """Return the share, in per cent, that a file of PSI tells; None where it tells none."""
    for line in text.splitlines():
        kind, *fields = line.split()
        if kind == "some":
            for field in fields:
                name, _, value = field.partition("=")
                if name == "avg10":
                    return _number(value)
    return None


def own_folders(text: str) -> tuple[list[str], list[str]]:
    """Return the folders of the own cgroup and of all above it, of /proc/self/cgroup.

    Those of v2, which may stand beside v1 (cgroups(7)), and those of v1's memory; the own first.
    """
    unified: list[str] = []
    memory: list[str] = []
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            unified = [*_upwards(_CGROUPS, path), *_upwards(_CGROUPS + "/unified", path)]
        elif "memory" in controllers.split(","):
            memory = list(_upwards(_CGROUPS + "/memory", path))
    return unified, memory


def _upwards(root: str, path: str) -> Iterator[str]:
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts), -1, -1):
        yield "/".join([root, *parts[:depth]])


def limit_met(events: str) -> int:
    """Return how often a unit met its limits, from memory.events.local of cgroup v2."""
    counts = dict(line.split(maxsplit=1) for line in events.splitlines() if " " in line)
    return sum(int(counts.get(name, "0")) for name in ("high", "max"))


class Evidence:
    """What is known at one moment; None where it can't be."""

    __slots__ = ("available", "hits", "pressure")

    def __init__(self, hits: int | None, pressure: float | None, available: int | None) -> None:
        """`hits`: times that the unit met its limit; `pressure`: per cent; `available`: bytes."""
        self.hits = hits
        self.pressure = pressure
        self.available = available

    def why(self, before: Evidence) -> str:
        """Say what may have pushed pages out since `before`: the end of a sentence."""
        left = "" if self.available is None else f" with {amount(self.available)} available"
        if self.hits is not None and before.hits is not None and self.hits > before.hits:
            return (
                "the memory limit of warmd's unit, or of a slice above it, was met "
                f"{self.hits - before.hits} times; raise MemoryMax= and MemoryHigh=, or lower "
                "[ram] staging"
            )
        if self.pressure is not None and self.pressure >= RESUME_BELOW:
            return (
                f"memory is short: something waited for it {self.pressure:.0f} % of the last "
                f"10 s{left}"
            )
        return (
            f"nothing that can be seen from here pressed{left}: look for drop_caches, a memory "
            "balloon or a proactive reclaimer (DAMON, senpai)"
        )


class Watch:
    """Reads the files that tell it, those of the own cgroups where they are to be seen."""

    def __init__(self) -> None:
        unified, memory = own_folders(_text("/proc/self/cgroup"))
        self._pressures = [SYSTEM, *(f"{group}/memory.pressure" for group in unified)]
        self._events = [f"{group}/memory.events.local" for group in unified]
        self._failures = [f"{group}/memory.failcnt" for group in memory]

    def pressure(self) -> float | None:
        """Return the highest of the host's and the own cgroups'."""
        found = [some_avg10(_text(path)) for path in self._pressures]
        return max((share for share in found if share is not None), default=None)

    def evidence(self) -> Evidence:
        """Look now."""
        return Evidence(self._hits(), self.pressure(), available(_text("/proc/meminfo")))

    def _hits(self) -> int | None:
        """How often the own limits were met, or those of a group above."""
        hits = [limit_met(events) for path in self._events if (events := _text(path))]
        hits += [int(count) for path in self._failures if (count := _text(path).strip()).isdigit()]
        return sum(hits) if hits else None


def available(meminfo: str) -> int | None:
    """Return MemAvailable in bytes, proc(5)."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def amount(size: float) -> str:
    """Say so many bytes in words."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def open_trigger() -> int | None:
    """Return a descriptor that gets POLLPRI when memory gets short; None without PSI."""
    try:
        fd = os.open(SYSTEM, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        os.write(fd, TRIGGER)
    except OSError:
        os.close(fd)
        return None
    return fd


def _text(path: str) -> str:
    try:
        with open(path) as file:  # noqa: PTH123 - pathlib is left out here
            return file.read()
    except (OSError, ValueError):
        return ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
