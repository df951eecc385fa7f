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
_SETTLED_S = 60.0  # a younger segment may not be mapped yet
_LEAST = 1 << 30


@dataclass(frozen=True)
class SharedMemory:
    """Sizes in bytes. `leftovers` belong to the user asked for, and no process maps them."""

    total: int
    free: int
    leftovers: tuple[Path, ...]
    left_bytes: int


def look_at_shared_memory(uid: int) -> SharedMemory:
    """Measure it, and find what `uid` left there. Raises `OSError` where there is none."""
    usage = shutil.disk_usage(_FOLDER)
    mapped = shared_memory(list(parents()))
    left: dict[Path, int] = {}
    for pattern in ("psm_*", "sem.mp-*"):
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
    return SharedMemory(usage.total, usage.free, tuple(left), sum(left.values()))


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
        some = " ".join(map(str, facts.leftovers[:5]))
        more = " ..." if len(facts.leftovers) > 5 else ""
        yield warning(
            _SUBJECT,
            f"dead processes left {count(len(facts.leftovers), 'segment')} "
            f"({size(facts.left_bytes)}) in it, which can keep an engine from starting",
            f"where no program of yours uses them: rm {some}{more}",
        )
