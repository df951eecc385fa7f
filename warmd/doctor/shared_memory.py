"""Shared memory: room for the engines' workers, and what dead ones left there (vllm#54002)."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from warmd.doctor.finding import Finding, ok, problem, warning
from warmd.launch.tree import parents, shared_memory
from warmd.spoken import count, size

_SUBJECT = "shared memory"
_FOLDER = Path("/dev/shm")  # noqa: S108  where shm_open(3) makes segments
_PATTERNS = ("psm_*", "sem.mp-*")
_SETTLED_S = 60.0  # a younger segment may not be mapped yet
_LEAST = 1 << 30


@dataclass(frozen=True)
class SharedMemory:
    """Sizes in bytes. `leftovers` belong to the user `uid`, and no process maps them."""

    total: int
    free: int
    leftovers: tuple[Path, ...]
    left_bytes: int
    uid: int


def look_at_shared_memory(uid: int) -> SharedMemory:
    """Measure it, and find what `uid` left there. Raises `OSError` where there is none."""
    usage = shutil.disk_usage(_FOLDER)
    mapped = shared_memory(list(parents()))
    left: dict[Path, int] = {}
    for pattern in _PATTERNS:
        for path in sorted(_FOLDER.glob(pattern)):
            try:
                status = path.lstat()
            except OSError:
                continue
            settled = time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED_S
            if status.st_uid == uid and settled and str(path) not in mapped:
                left[path] = status.st_blocks * 512
    if os.geteuid() not in (0, uid):
        left = {}  # that user's maps are closed to us: nothing is proved
    return SharedMemory(usage.total, usage.free, tuple(left), sum(left.values()), uid)


def judge_shared_memory(facts: SharedMemory) -> Iterator[Finding]:
    """Judge what was measured."""
    if facts.free < _LEAST:
        yield (problem if facts.free < _LEAST // 8 else warning)(
            _SUBJECT,
            f"it has {size(facts.free)} of {size(facts.total)} free, and the workers of an engine "
            "talk through it",
            "sudo mount -o remount,size=50% /dev/shm (in a container: --ipc=host or --shm-size)",
        )
    else:
        yield ok(_SUBJECT, f"{size(facts.free)} of {size(facts.total)} free")
    if facts.leftovers:
        yield warning(
            _SUBJECT,
            f"dead processes left {count(len(facts.leftovers), 'segment')} "
            f"({size(facts.left_bytes)}) in it, which can keep an engine from starting",
            f"this removes what no process maps by then:\n{removal(_FOLDER, facts.uid)}",
        )


def removal(folder: Path, uid: int) -> str:
    """Return the command that removes what `uid` left in `folder`, however much it is.

    It looks again itself who maps what, for it may be run long after; by inode, for the maker of a
    semaphore has it mapped by another name.
    """
    names = " -o ".join(f"-name '{pattern}'" for pattern in _PATTERNS)
    is_mapped = f'grep -qs " $(stat -c %i "$0") *{folder}/" /proc/[0-9]*/maps'
    return (
        f"sudo find {folder} -maxdepth 1 -uid {uid} -mmin +1 \\( {names} \\) "
        f"! -exec sh -c '{is_mapped}' {{}} \\; -delete"
    )
