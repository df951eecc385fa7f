"""How many bytes of files are in RAM, by a way that is known to tell the truth.

A part of the stage keeper's program: see `program.py`.
"""

from __future__ import annotations

import ctypes
import os

from .mapping import MAP_SHARED, PAGE, PROT_READ, FileError, HeldFile, HoldError, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable

SYS_CACHESTAT = 451  # Linux 6.5

libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


class UnprovedError(HoldError):
    """Nothing on this machine can tell whether the files are resident."""


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted")
    )


def cachestat(fd: int, length: int, offset: int = 0) -> int | None:
    """Bytes of a range that the page cache holds; None where the call isn't allowed."""
    counts = _Counts()
    where = _Range(offset, length)
    if libc.syscall(SYS_CACHESTAT, fd, ctypes.byref(where), ctypes.byref(counts), 0):
        return None
    return min(int(counts.cache) * PAGE, length)


def mincore(address: int, length: int) -> int | None:
    """Bytes of a mapping that are in RAM; only to be believed where the file is ours."""
    pages = -(-length // PAGE)
    vector = ctypes.create_string_buffer(pages)
    if libc.mincore(address, length, vector):
        return None
    return min(vector.raw.count(1) * PAGE, length)


def mapped_now() -> dict[int, int]:
    """Bytes present in this process's own page tables, by the start of the mapping.

    What is mapped is resident, whoever owns the file, so it proves what mincore may not; pages
    that are in the page cache but not mapped here are missing from it (smaps in proc(5)).
    """
    present: dict[int, int] = {}
    start = 0
    with open("/proc/self/smaps", "rb") as lines:  # noqa: PTH123 - pathlib is left out here
        for line in lines:
            field, _, rest = line.partition(b" ")
            if b"-" in field:
                start = int(field.partition(b"-")[0], 16)
            elif field == b"Rss:":
                present[start] = int(rest.split()[0]) * 1024
    return present


class Measure:
    """Counts resident bytes, by the cheapest way that is known to tell the truth here."""

    def __init__(self) -> None:
        # A file of known state that is ours: one page written, one hole. A sandbox may answer
        # these calls with nonsense.
        fd = os.memfd_create("known-state", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, 2 * PAGE)
            os.pwrite(fd, b"x", 0)
            self.cachestat_works = cachestat(fd, 2 * PAGE) == PAGE
            address = libc.mmap(None, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 0)
            self.mincore_works = mincore(address, 2 * PAGE) == PAGE
            libc.munmap(address, 2 * PAGE)
        finally:
            os.close(fd)
        self.by = ""

    def resident(self, files: Iterable[HeldFile], failing: Container[HeldFile] = ()) -> int:
        """Bytes of `files` in RAM; raises `UnprovedError` where no way to know is left.

        Of files that are `failing` to be read, cachestat counts the pages without content too.
        """
        ways: set[str] = set()
        total = 0
        unsure: list[HeldFile] = []
        for file in files:
            if file not in failing and (found := self._counted(file)):
                ways.add("cachestat")
                total += found
                continue
            # Zero may be true, and it is what overlayfs answers for every file.
            counts = [
                mincore(segment.address, segment.length)
                for segment in file.segments
                if segment.address is not None and self.mincore_works and file.is_ours()
            ]
            known = [count for count in counts if count is not None]
            if len(known) == len(file.segments):
                ways.add("mincore")
                total += sum(known)
            else:
                unsure.append(file)
        if unsure:
            ways.add("page tables")
            total += self._mapped(unsure)
        self.by = ", ".join(sorted(ways))
        return total

    def _counted(self, file: HeldFile) -> int | None:
        if not self.cachestat_works:
            return None
        try:
            fd = file.reopen()
        except (OSError, FileError):
            return None  # it changed this moment: the mapping is what is held
        try:
            return cachestat(fd, file.size)
        finally:
            os.close(fd)

    def _mapped(self, files: list[HeldFile]) -> int:
        try:
            present = mapped_now()
        except (OSError, ValueError, IndexError) as error:
            raise UnprovedError(
                f"{files[0].path}: nothing here tells whether it is in RAM (cachestat and mincore "
                f"don't answer for a file of user {files[0].status.st_uid}, and /proc/self/smaps "
                f"can't be used: {error})"
            ) from None
        return sum(
            min(present.get(segment.address or 0, 0), segment.length)
            for file in files
            for segment in file.segments
        )
