"""The tmpfs that holds copies of models' files: found, mounted, made larger, given back.

A part of the staging program: see `program.py`. mount(2), umount(2), tmpfs(5).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from contextlib import contextmanager, suppress

from .manifest import is_safe
from .mapping import HoldError, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = "warmd-stage"
"""The mount's name in /proc/self/mountinfo: by it the next keeper knows a killed one's."""

MIB = 1 << 20
HUGE = 2 * MIB
_MS_NOSUID, _MS_NODEV, _MS_REMOUNT = 2, 4, 32
_MNT_DETACH = 2
_WAYS = ("huge=always,noswap", "huge=always", "huge=within_size", "noswap", "")
"""From the best on: noswap is of Linux 6.4, and a kernel may be built without huge pages."""

libc.mount.argtypes = [*(ctypes.c_char_p,) * 3, ctypes.c_ulong, ctypes.c_char_p]
libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]


class Tmpfs:
    """A folder on a tmpfs. `is_ours`: the keepers' own mount; `huge`: its pages are huge ones."""

    def __init__(self, path: str, *, is_ours: bool, huge: bool) -> None:
        self.path = path
        self.is_ours = is_ours
        self.huge = huge

    def takes(self, size: int) -> int:
        """Bytes that a file of `size` may take: a mapping's last page is a whole one."""
        page = HUGE if self.huge else os.sysconf("SC_PAGESIZE")
        return -(-size // page) * page

    def make_room(self, needed: int) -> None:
        """See that `needed` more bytes fit, raise the mount's size where it is ours.

        Hold `alone` meanwhile. Raises `HoldError`, which says how much is missing.
        """
        status = os.statvfs(self.path)
        free = status.f_bavail * status.f_frsize - _promised(self.path)
        if status.f_blocks == 0 or needed <= free:  # no blocks: it has no limit
            return
        size = -(-(status.f_blocks * status.f_frsize + needed - free) // HUGE) * HUGE
        if self.is_ours and not _mount(self.path, f"size={size}", _MS_REMOUNT):
            return
        raise full(self.path, needed - free, size)


def words_of(path: str) -> str:
    """Say what kind of a tmpfs `path` is on, for people."""
    return "tmpfs" if _is_huge(_mount_of(path)[2]) else "tmpfs with small pages"


def full(path: str, missing: int, size: int) -> HoldError:
    """Say that the tmpfs at `path` is too small by `missing` bytes and needs `size`."""
    return HoldError(
        f"{path}: {-(-missing // MIB)} MiB are missing on this tmpfs; give it more with "
        f"`mount -o remount,size={-(-size // MIB)}m {_mount_point(path)}`, or set "
        '`stage = "page-cache"`'
    )


def ensure_tmpfs(path: str, needed: int) -> Tmpfs:
    """Return the tmpfs at `path`; mount one with huge pages for `needed` bytes where none is.

    Without the right to mount a folder will do that lies on a tmpfs already. Raises `HoldError`.
    """
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)  # engines may run as another user
    except OSError as error:
        why = "it is no folder" if error.errno == errno.EEXIST else error.strerror
        raise HoldError(
            f"{path}: can't be made a folder for copies ({why}); set staging.tmpfs to a folder, "
            "or to one that the daemon's user can make"
        ) from None
    if not is_safe(path):
        raise HoldError(
            f"{path}: others may change what is in it, so it holds no copies; make it a folder "
            "of the daemon's user with mode 0755, or set staging.tmpfs to another one"
        )
    with alone(path):
        if (found := _found(path)) is not None:
            return found
        size = -(-max(needed, HUGE) // HUGE) * HUGE
        kind, _, options = _mount_of(path)
        taken = bool(os.listdir(path))
        if taken and kind != "tmpfs":
            raise HoldError(
                f"{path}: isn't empty, and a tmpfs would hide what is in it; set staging.tmpfs to "
                "a folder of its own"
            )
        number = 0
        for way in () if taken else _WAYS:  # never over what somebody has in there
            number = _mount(path, ",".join(filter(None, (f"size={size}", "mode=0755", way))))
            if not number and (found := _found(path)) is not None:
                return found
            if number in (errno.EPERM, errno.EACCES):
                break
        if kind == "tmpfs":
            return Tmpfs(path, is_ours=False, huge=_is_huge(options))
    options = f"size={-(-size // MIB)}m,huge=always,nosuid,nodev,mode=0755,uid={os.geteuid()}"
    raise HoldError(
        f"{path}: no tmpfs can be mounted there ({os.strerror(number)}); do it with "
        f"`mount -t tmpfs -o {options} {SOURCE} {path}`, or by this line in /etc/fstab: "
        f"`{SOURCE} {path} tmpfs {options} 0 0`"
    )


def leave_tmpfs(path: str) -> None:
    """Unmount the keepers' own mount where nothing is in it any more."""
    if not os.path.isdir(path):
        return
    with alone(path):
        found = _found(path)
        if found is not None and found.is_ours and not os.listdir(path):
            libc.umount2(os.fsencode(path), _MNT_DETACH)


@contextmanager
def alone(path: str) -> Iterator[None]:
    """Keep other processes of the keeper from mounting and promising room at the same time."""
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _found(path: str) -> Tmpfs | None:
    """The tmpfs that is mounted at `path` itself."""
    if os.stat(path).st_dev == os.stat(os.path.dirname(path)).st_dev:
        return None
    kind, source, options = _mount_of(path)
    if kind != "tmpfs":
        return None
    return Tmpfs(path, is_ours=source == SOURCE, huge=_is_huge(options))


def _mount(path: str, options: str, flags: int = 0) -> int:
    """Call mount(2); 0 or the error's number."""
    flags |= _MS_NOSUID | _MS_NODEV
    done = libc.mount(SOURCE.encode(), os.fsencode(path), b"tmpfs", flags, options.encode())
    return ctypes.get_errno() if done else 0


def _mount_of(path: str) -> tuple[str, str, str]:
    """Kind, source and options of the file system that `path` is on."""
    number = os.stat(path).st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            mine, _, rest = line.partition(" - ")
            if mine.split()[2] == wanted:
                kind, source, options = rest.split()[:3]
                return kind, source, options
    return "", "", ""


def _mount_point(path: str) -> str:
    here = path
    while here != "/" and os.stat(here).st_dev == os.stat(os.path.dirname(here)).st_dev:
        here = os.path.dirname(here)
    return here


def _is_huge(options: str) -> bool:
    return not {"huge=always", "huge=within_size"}.isdisjoint(options.split(","))


def _promised(path: str) -> int:
    """Bytes that drafts below `path` have been promised and haven't taken yet."""
    promised = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                status = os.lstat(os.path.join(folder, name))
                promised += max(0, status.st_size - status.st_blocks * 512)
    return promised
