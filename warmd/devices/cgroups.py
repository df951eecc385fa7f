"""The memory limits of a process's control groups, v1 and v2, and what they leave to it.

A limit of any group above counts as well. Page cache that a group was charged for is reclaimed
before anything is refused, so it counts as available; what is locked, or in a tmpfs, doesn't.
See cgroups(7), and in the kernel's documentation cgroup-v2 and cgroup-v1/memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED_V1 = 1 << 60  # v1 writes a number where there is no limit
_RECLAIMABLE = ("active_file", "inactive_file")


@dataclass(frozen=True)
class MemoryLimit:
    """What one group may use of RAM, in bytes; `key` is the file that says so.

    `available`: what can still be had below the limit.
    """

    key: Path
    limit: int
    available: int


def memory_limits(pid: int | None = None, proc: Path = Path("/proc")) -> tuple[MemoryLimit, ...]:
    """Return the limits that hold for a process (None: this one), the tightest first.

    Blocks for a moment: files of the kernel are read, and of groups with a limit their counters.
    """
    try:
        text = (proc / str(pid or "self") / "cgroup").read_text()
    except OSError:
        return ()
    return tuple(sorted(limits_of(text, _ROOT), key=lambda each: each.available))


def limits_of(text: str, root: Path) -> Iterator[MemoryLimit]:
    """Yield the limits of the groups that `text` names, a /proc/PID/cgroup, below `root`."""
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            yield from _v2(root, path)
            yield from _v2(root / "unified", path)  # where v1 stands beside it
        elif "memory" in controllers.split(","):
            yield from _v1(root / "memory", path)


def _v2(root: Path, path: str) -> Iterator[MemoryLimit]:
    for group in _groups(root, path):
        for name in ("memory.max", "memory.high"):  # beyond the second everything is slowed down
            limit = _number(group / name)
            if limit is not None:
                used = _number(group / "memory.current") or 0
                unclaimed = used - _reclaimable(group, "")
                yield MemoryLimit(group / name, limit, max(0, limit - unclaimed))


def _v1(root: Path, path: str) -> Iterator[MemoryLimit]:
    for group in _groups(root, path):
        file = group / "memory.limit_in_bytes"
        limit = _number(file)
        if limit is not None and limit < _UNLIMITED_V1:
            used = _number(group / "memory.usage_in_bytes") or 0
            unclaimed = used - _reclaimable(group, "total_")
            yield MemoryLimit(file, limit, max(0, limit - unclaimed))


def _groups(root: Path, path: str) -> Iterator[Path]:
    """Yield a group and all above it; in a container its own group is the root (cgroups(7))."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:
        parts = []  # outside of the namespace: only what is mounted here can be seen
    for depth in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:depth])


def _reclaimable(group: Path, prefix: str) -> int:
    names = {prefix + name for name in _RECLAIMABLE}
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    pairs = (line.split() for line in lines)
    return sum(int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] in names)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None
