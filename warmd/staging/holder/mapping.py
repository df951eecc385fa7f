"""Files mapped into this process: what holds them in the page cache.

A part of the stage keeper's program, which has no packages: the standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

TYPE_CHECKING = False  # `typing` would cost a megabyte in every process
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MADV_HUGEPAGE = 14
MADV_POPULATE_READ = 22  # Linux 5.14, madvise(2)
MAP_SHARED = 0x01
MAP_POPULATE = 0x8000
PROT_READ = 1

PAGE = os.sysconf("SC_PAGESIZE")
WINDOW = 16 << 20  # how much one call populates: the step of progress
SEGMENT = 256 << 20  # contiguous bytes of one thread: taking turns breaks the kernel's read-ahead
BLOCK = 1 << 20  # buffer of the fallback's reads

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.fstatfs.argtypes = [ctypes.c_int, ctypes.c_void_p]

_NETWORK = {  # statfs(2)
    0x6969: "NFS",
    0x0BD00BD0: "Lustre",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB",
    0x65735546: "FUSE",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x01021997: "9P",
    0x47504653: "GPFS",
    0x19830326: "BeeGFS",
}
MAPPINGS = "vm.max_map_count"
_SPARE_MAPPINGS = 1024  # libraries, threads' stacks, what malloc takes
_TO_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # to open a FIFO waits for its writer
_STATFS_BYTES = 256  # more than any architecture's struct


LOCK_REMEDY = (
    "LimitMEMLOCK=infinity in warmd's unit (or memlock in /etc/security/limits.conf) allows it, or "
    'set stage = "page-cache"'
)


class HoldError(Exception):
    """The files can't be brought in or held. The text is one sentence."""


class FileError(HoldError):
    """One file can't be brought in, or is no longer the one that was held; others can."""


class HeldFile:
    """One file by its identity: a file that was replaced or written to is another one.

    `size` is how many of its bytes are held, the first ones; `network` names the file system where
    that is one whose pages must be fetched by plain reads. No descriptor stays open: an engine has
    ten thousand files, and a mapping keeps its file as well.
    """

    def __init__(self, path: str, limit: int | None = None) -> None:
        """Raises `OSError`, and `FileError` where the path leads to no regular file."""
        self.path = path
        fd = os.open(path, _TO_READ)
        try:
            self.status = os.fstat(fd)
            self.network = network_of(fd)
        finally:
            os.close(fd)
        if not stat.S_ISREG(self.status.st_mode):
            raise FileError(f"{path}: is no regular file; put the real file there")
        self.size = self.status.st_size if limit is None else min(limit, self.status.st_size)
        self.segments = [
            Segment(self, at, min(SEGMENT, self.size - at)) for at in range(0, self.size, SEGMENT)
        ]

    def close(self) -> None:
        """Let go of it."""
        for segment in self.segments:
            segment.unmap()

    def check(self) -> None:
        """Raise `FileError` where the path no longer leads to the very file that is held."""
        try:
            now = os.stat(self.path)  # noqa: PTH116 - pathlib would double the process's size
        except OSError as error:
            raise FileError(
                f"{self.path}: was removed or became unreachable ({error.strerror}); "
                "put it back or correct `weights`"
            ) from None
        self._compare(now)

    def reopen(self) -> int:
        """Open the same file once more: the kernel's read-ahead state belongs to the descriptor."""
        fd = os.open(self.path, _TO_READ)
        try:
            self._compare(os.fstat(fd))
        except FileError:
            os.close(fd)
            raise
        return fd

    def _compare(self, now: os.stat_result) -> None:
        was = self.status
        if (now.st_dev, now.st_ino) != (was.st_dev, was.st_ino):
            raise FileError(f"{self.path}: was replaced by another file")
        if now.st_size < was.st_size:
            raise FileError(
                f"{self.path}: was truncated from {was.st_size} to {now.st_size} bytes; "
                "download it again"
            )
        if (now.st_size, now.st_mtime_ns) != (was.st_size, was.st_mtime_ns):
            raise FileError(f"{self.path}: was written to")

    def is_ours(self) -> bool:
        """Whether mincore(2) tells the truth: to others it calls every page resident."""
        return self.status.st_uid == os.geteuid() or os.access(
            self.path, os.W_OK, effective_ids=True
        )


class Segment:
    """A contiguous part of a file; `address` is where it is mapped. Nobody ever reads there: a
    file that got shorter would end the process with SIGBUS, while madvise just answers EFAULT.
    """

    __slots__ = ("address", "file", "length", "locked", "offset")

    def __init__(self, file: HeldFile, offset: int, length: int) -> None:
        self.file = file
        self.offset = offset
        self.length = length
        self.address: int | None = None
        self.locked = False

    def unmap(self) -> None:
        """Let go of it."""
        if self.address is not None:
            libc.munmap(self.address, self.length)
            self.address = None
            self.locked = False

    def lock(self) -> None:
        """Keep what is mapped in RAM whatever happens, mlock(2)."""
        if self.address is None or self.locked:
            return
        if libc.mlock(self.address, self.length):
            number = ctypes.get_errno()
            self.file.check()
            raise HoldError(
                f"{self.file.path}: can't be locked in RAM ({os.strerror(number)}); {LOCK_REMEDY}"
            )
        self.locked = True

    def map(self, fd: int, flags: int = 0) -> int:
        """Map the segment, in place of an older mapping of it; return its address."""
        self.unmap()
        address = libc.mmap(None, self.length, PROT_READ, MAP_SHARED | flags, fd, self.offset)
        if address == ctypes.c_void_p(-1).value:
            number = ctypes.get_errno()
            remedy = f"; raise {MAPPINGS}" if number == errno.ENOMEM else ""
            raise HoldError(f"{self.file.path}: can't be mapped ({os.strerror(number)}){remedy}")
        self.address = int(address)
        return self.address

    def windows(self, step: int) -> Iterator[tuple[int, int]]:
        """Its parts of at most `step` bytes: start within the segment, length."""
        for at in range(0, self.length, step):
            yield at, min(step, self.length - at)


def allowed_mappings() -> int | None:
    """How many files' parts this process may map, sysctl vm.max_map_count; None: unknown."""
    try:
        with open("/proc/sys/vm/max_map_count") as file:  # noqa: PTH123 - pathlib is left out here
            return max(1, int(file.read()) - _SPARE_MAPPINGS)
    except (OSError, ValueError):
        return None


def madvise(address: int, length: int, advice: int) -> int:
    """Call madvise(2); 0 or the error's number."""
    return ctypes.get_errno() if libc.madvise(address, length, advice) else 0


def network_of(fd: int) -> str | None:
    """Name the network file system that an open file is on; None where it is on none."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc.fstatfs(fd, buffer):
        return None
    # f_type, the first word; some architectures sign-extend it.
    return _NETWORK.get(ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF)


def populate(segment: Segment, advance: Callable[[int], None]) -> bool:
    """Bring a segment in through its mapping. False where the kernel or file system can't.

    Raises `FileError` where the file changed, or the disk failed: then all that can be read was;
    `HoldError` where memory is short.
    """
    failed: FileError | None = None
    address = segment.address
    if address is None:
        fd = segment.file.reopen()
        try:
            address = segment.map(fd)  # the mapping keeps the file open
        finally:
            os.close(fd)
        # Large folios: no dependence on read-ahead settings, a tenth of the CPU. Only a hint.
        madvise(address, segment.length, MADV_HUGEPAGE)
    for at, length in segment.windows(WINDOW):
        while number := madvise(address + at, length, MADV_POPULATE_READ):
            if number in (errno.EINTR, errno.EAGAIN):
                continue
            if at == 0 and number in (errno.EINVAL, errno.ENOSYS):
                return False
            segment.file.check()
            if number == errno.ENOMEM:
                raise HoldError(
                    f"{segment.file.path}: no memory was left at byte {segment.offset + at}; "
                    "look for a memory limit on the daemon's unit and for free memory"
                )
            failed = failed or _unreadable(segment, at, number)
            break
        advance(length)
    if failed is not None:
        raise failed
    return True


def read(segment: Segment, advance: Callable[[int], None]) -> None:
    """Bring a segment in by reading it, then map what is there: MAP_POPULATE never faults.

    Raises as `populate` does.
    """
    failed: FileError | None = None
    buffer = memoryview(bytearray(min(BLOCK, segment.length)))
    fd = segment.file.reopen()
    try:
        for at, length in segment.windows(BLOCK):
            got = 0
            while got < length:
                try:
                    count = os.preadv(fd, [buffer[: length - got]], segment.offset + at + got)
                except OSError as error:
                    failed = failed or _unreadable(segment, at + got, error.errno)
                    break
                if not count:
                    segment.file.check()
                    raise FileError(f"{segment.file.path}: ended early; download it again")
                got += count
            advance(length)
        segment.map(fd, MAP_POPULATE)
        if failed is not None:
            raise failed
    finally:
        os.close(fd)


def _unreadable(segment: Segment, at: int, number: int | None) -> FileError:
    return FileError(
        f"{segment.file.path}: the disk or file system failed to read it near byte "
        f"{segment.offset + at} ({os.strerror(number or errno.EIO)}); look at the kernel's log"
    )


def can_populate() -> bool:
    """Whether the kernel knows MADV_POPULATE_READ."""
    fd = os.memfd_create("populate", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, PAGE)
        address = libc.mmap(None, PAGE, PROT_READ, MAP_SHARED, fd, 0)
        known = madvise(address, PAGE, MADV_POPULATE_READ) == 0
        libc.munmap(address, PAGE)
    finally:
        os.close(fd)
    return known
