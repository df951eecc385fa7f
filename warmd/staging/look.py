"""How much of some files is in RAM now, for who doesn't hold them. Waits for disks and mounts."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from warmd.regular_file import open_regular
from warmd.staging.holder.mapping import MAP_SHARED, PAGE, PROT_READ, libc
from warmd.staging.holder.residency import Measure, cachestat, mincore


@dataclass(frozen=True)
class Measured:
    """Bytes of some files, and how many of them are in RAM; None where that can't be known.

    `by`: the calls that told, `trouble`: why nobody can tell, with the remedy.
    """

    total: int = 0
    resident: int | None = 0
    by: str = ""
    trouble: str | None = None


def measure(files: Iterable[Path]) -> Measured:
    """Ask the kernel, file by file: by cachestat(2), by mincore(2) where that is no answer.

    Whoever neither owns a file nor may write it gets no answer of the first and a wrong one of the
    second, so for such a file nobody can tell.
    """
    look = _Look()
    total, resident, ways = 0, 0, set()
    trouble: str | None = None
    for path in files:
        try:
            file = open_regular(path)
        except OSError as error:
            trouble = trouble or f"{path}: can't be opened ({error.strerror}): put it back"
            continue
        try:
            with file:
                status = os.fstat(file.fileno())
                total += status.st_size
                found = look.at(path, file.fileno(), status)
        except OSError as error:
            trouble = trouble or f"{path}: can't be looked at ({error.strerror})"
            continue
        if found is None:
            trouble = trouble or (
                f"{path}: belongs to user {status.st_uid}, and the kernel tells nobody else what "
                "of it is in RAM: let warmd's user own or write it, or give it CAP_FOWNER"
            )
            continue
        way, bytes_ = found
        ways.add(way)
        resident += bytes_
    return Measured(total, None if trouble else resident, ", ".join(sorted(ways)), trouble)


class _Look:
    def __init__(self) -> None:
        self._tests = Measure()
        self._truthful: dict[int, bool] = {}  # by device: a page just read counts for cachestat

    def at(self, path: Path, fd: int, status: os.stat_result) -> tuple[str, int] | None:
        """Return by which call, and how many bytes; None where nobody can tell."""
        size = status.st_size
        if not size:
            return "cachestat", 0
        if self._tests.cachestat_works:
            found = cachestat(fd, size)
            if found or (found == 0 and self._may_be_zero(fd, status)):
                return "cachestat", found
        ours = status.st_uid == os.geteuid() or os.access(path, os.W_OK, effective_ids=True)
        if not (ours and self._tests.mincore_works):
            return None
        counted = _mapped(fd, size)
        return None if counted is None else ("mincore", counted)

    def _may_be_zero(self, fd: int, status: os.stat_result) -> bool:
        """Whether a zero can be believed: overlayfs answers it for every file.

        A page is read there, once for each file system: it must count then.
        """
        known = self._truthful.get(status.st_dev)
        if known is None:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # this page, and none ahead
            os.pread(fd, 1, 0)
            known = self._truthful[status.st_dev] = bool(cachestat(fd, min(PAGE, status.st_size)))
        return known


def _mapped(fd: int, size: int) -> int | None:
    """Ask mincore(2) of a mapping that brings nothing in."""
    address = libc.mmap(None, size, PROT_READ, MAP_SHARED, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        return None
    try:
        step = 1 << 30  # a byte a page: 256 KiB at a time
        counts = [mincore(address + at, min(step, size - at)) for at in range(0, size, step)]
    finally:
        libc.munmap(address, size)
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
