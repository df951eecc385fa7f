"""Files copied into a tmpfs at the disk's limit, and twice in RAM at no moment.

A part of the staging program: see `program.py`. The disk reads straight into the mapping of the
copy (O_DIRECT, open(2)). Nobody but the kernel writes there: on a full tmpfs a read answers EFAULT
where a store of our own would end the process with SIGBUS.
"""

from __future__ import annotations

import ctypes
import errno
import os

from .mapping import MAP_SHARED, PAGE, PROT_READ, SEGMENT, FileError, HeldFile, HoldError, libc
from .residency import cachestat, mincore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PROT_WRITE = 2
STEP = 4 << 20  # bytes of one read: two huge pages


class FullError(Exception):
    """The tmpfs has no page left."""


class Copy:
    """One file's copy on its way into a tmpfs, `fd` open for reading and writing."""

    def __init__(self, file: HeldFile, fd: int) -> None:
        self.file = file
        self.fd = fd
        self.parts = [
            Part(self, at, min(SEGMENT, file.size - at)) for at in range(0, file.size, SEGMENT)
        ]


class Part:
    """A contiguous part of a file, copied by one thread."""

    def __init__(self, copy: Copy, offset: int, length: int) -> None:
        self.file = copy.file
        self._fd = copy.fd
        self._offset = offset
        self._length = length

    def run(self, advance: Callable[[int], None]) -> None:
        """Copy it. Raises `FullError`; `FileError` where the file changed or can't be read."""
        span = -(-self._length // PAGE) * PAGE
        flags = PROT_READ | PROT_WRITE
        address = libc.mmap(None, span, flags, MAP_SHARED, self._fd, self._offset)
        if address == ctypes.c_void_p(-1).value:
            why = os.strerror(ctypes.get_errno())
            raise HoldError(f"{self.file.path}: its copy can't be mapped ({why})")
        try:
            source = Source(self.file)
            try:
                self._read(
                    source, memoryview((ctypes.c_char * span).from_address(address)), advance
                )
            finally:
                source.close()
        finally:
            libc.munmap(address, span)

    def _read(self, source: Source, view: memoryview, advance: Callable[[int], None]) -> None:
        target = view.cast("B")
        for at in range(0, self._length, STEP):
            length = min(STEP, self._length - at)
            # Whole blocks, as O_DIRECT wants them: of what is beyond the end nothing is read.
            source.read(target[at : at + STEP], self._offset + at, length)
            advance(length)


class Source:
    """A file read by one thread, past the page cache where its file system can."""

    def __init__(self, file: HeldFile) -> None:
        self._file = file
        self._plain = file.reopen()
        self._direct: int | None = None
        try:
            self._direct = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:
            return  # EINVAL: it can't
        if os.fstat(self._direct).st_ino != file.status.st_ino:
            os.close(self._direct)
            self._direct = None

    def read(self, view: memoryview, offset: int, length: int) -> None:
        """Read `length` bytes at `offset` into `view`, which is whole pages."""
        got = 0
        was_resident = self._resident(offset, length)
        while got < length:
            count = self._some(view[got:], offset + got, was_resident=was_resident)
            if not count:
                self._file.check()
                raise FileError(f"{self._file.path}: ended early; download it again")
            got += count
        if got > length:
            self._file.check()
            raise FileError(f"{self._file.path}: was written to")
        if not was_resident and self._direct is None:
            os.posix_fadvise(self._plain, offset, length, os.POSIX_FADV_DONTNEED)

    def _some(self, view: memoryview, offset: int, *, was_resident: bool) -> int:
        # What the page cache has needs no disk; a short read may leave us unaligned.
        direct = self._direct
        try:
            if direct is not None and not was_resident and offset % PAGE == 0:
                try:
                    return os.preadv(direct, [view], offset)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    os.close(direct)
                    self._direct = None
            return os.preadv(self._plain, [view], offset)
        except OSError as error:
            if error.errno in (errno.EFAULT, errno.ENOSPC, errno.ENOMEM):
                raise FullError from None
            self._file.check()
            raise FileError(
                f"{self._file.path}: the disk or file system failed to read it near byte "
                f"{offset} ({error.strerror}); look at the kernel's log"
            ) from None

    def _resident(self, offset: int, length: int) -> bool:
        """Whether the page cache has that range; also where nobody may tell: it is left there."""
        counted = cachestat(self._plain, length, offset)
        if counted is None:
            return self._direct is None
        if counted or not self._file.is_ours():
            return counted >= length
        # Zero may be true, and it is what overlayfs answers for every file.
        address = libc.mmap(None, length, PROT_READ, MAP_SHARED, self._plain, offset)
        if address == ctypes.c_void_p(-1).value:
            return False
        try:
            return (mincore(address, length) or 0) >= length
        finally:
            libc.munmap(address, length)

    def close(self) -> None:
        """Let go of the descriptors."""
        os.close(self._plain)
        if self._direct is not None:
            os.close(self._direct)
