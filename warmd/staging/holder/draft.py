"""Copies of a model's files in a tmpfs: a draft until they are whole, published by one rename.

A part of the staging program: see `program.py`. What isn't copied is linked to where it was, so
that the published folder serves the engine like the original.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import time

from .copying import Copy, Source
from .manifest import DRAFT, are_copies, identity, is_published, write_manifest
from .mapping import PAGE, HeldFile, HoldError, libc
from .tmpfs import MIB, alone, ensure_tmpfs, full, leave_tmpfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .tmpfs import Tmpfs

_DYING_S = 5.0  # a killed process ends when its read does
_LOOKS_APART_S = 0.02
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # rename(2)
_HEADER_MOST = 100_000_000  # bytes, by the format's own rule

libc.renameat2.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
]


class Draft:
    """The copies of `files` before they are published as `folder`.

    `root`: the folder below which the files' names are kept; None: their last parts are.
    A draft is locked while its process lives: one that isn't is the rest of a killed one.
    """

    def __init__(self, folder: str, root: str | None, files: list[HeldFile]) -> None:
        self.folder = folder
        self.copies: list[Copy] = []
        self._root = root
        self._files = files
        paths = paths_below(folder, root, [file.path for file in files])
        self._names = [os.path.relpath(path, folder) for path in paths]
        self._path = _draft_of(folder)
        self._lock = -1
        self._tmpfs: Tmpfs | None = None

    def begin(self) -> None:
        """Make the folder with empty copies. Raises `HoldError`, as where there is no room."""
        mount = os.path.dirname(self.folder)
        self._see_that_the_place_is_ours()
        # One page more, for the manifest: files may fill theirs to the last byte.
        huge = sum(-(-size // (2 * MIB)) * 2 * MIB for size in (1, *(f.size for f in self._files)))
        self._tmpfs = tmpfs = ensure_tmpfs(mount, huge)
        self._await_predecessor(mount)
        with alone(mount):
            _sweep(mount)
            tmpfs.make_room(sum(map(tmpfs.takes, (1, *(file.size for file in self._files)))))
            os.mkdir(self._path, 0o755)
            self._lock = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for file, name in zip(self._files, self._names, strict=True):
                path = os.path.join(self._path, name)
                os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                self.copies.append(Copy(file, fd))
                os.ftruncate(fd, file.size)  # it reserves nothing, but says what is to come
        if self._root is not None:
            _link_the_rest(self._root, self._path)

    def _await_predecessor(self, mount: str) -> None:
        """Give a killed process that worked on the same folder a moment to be gone."""
        ours = f"{DRAFT}{os.path.basename(self.folder)}."
        until = time.monotonic() + _DYING_S
        while time.monotonic() < until:
            with alone(mount):
                _sweep(mount)
                others = [n for n in os.listdir(mount) if n.startswith(ours)]
            if not any(name.removeprefix(ours).isdigit() for name in others):
                return
            time.sleep(_LOOKS_APART_S)

    def _see_that_the_place_is_ours(self) -> None:
        if os.path.lexists(self.folder) and not is_published(self.folder):
            raise HoldError(
                f"{self.folder}: something else is there, and no copy takes its place; move it "
                "away, or set staging.tmpfs to a folder that nothing else is kept in"
            )

    def publish(self) -> None:
        """Check the copies and put them where `folder` is.

        Raises `HoldError` where a source changed meanwhile, or a copy isn't like it.
        """
        for copy in self.copies:
            copy.file.check()
            _compare(copy)
        write_manifest(self._path, self._root, _identities(self._files, self._names))
        self._see_that_the_place_is_ours()
        there = os.path.lexists(self.folder)
        old, new = os.fsencode(self._path), os.fsencode(self.folder)
        flags = _RENAME_EXCHANGE if there else 0
        if libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, flags):
            raise HoldError(f"{self.folder}: {os.strerror(ctypes.get_errno())}")
        self._close()
        if there:
            _remove(self._path)

    def remove(self) -> None:
        """Take the draft away where there is one; the mount too if it is ours and empty then."""
        self._close()
        _remove(self._path)
        leave_tmpfs(os.path.dirname(self.folder))

    def filled(self) -> HoldError:
        """Say what is missing, after `FullError`."""
        assert self._tmpfs is not None  # noqa: S101 - a copy has begun
        left = sum(
            max(0, copy.file.size - os.fstat(copy.fd).st_blocks * 512) for copy in self.copies
        )
        status = os.statvfs(self._tmpfs.path)
        free = status.f_bavail * status.f_frsize
        if status.f_blocks and free < left:
            size = status.f_blocks * status.f_frsize + left - free
            return full(self._tmpfs.path, left - free, size)
        return HoldError(
            f"{self._tmpfs.path}: no memory was left for this tmpfs; look for a memory limit on "
            "the daemon's unit and for free memory"
        )

    def _close(self) -> None:
        for copy in self.copies:
            os.close(copy.fd)
        self.copies = []
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def published(folder: str, root: str | None, files: list[HeldFile]) -> bool:
    """Whether `folder` holds copies of these very files."""
    paths = paths_below(folder, root, [file.path for file in files])
    names = [os.path.relpath(path, folder) for path in paths]
    return are_copies(folder, root, _identities(files, names))


def paths_below(folder: str, root: str | None, paths: list[str]) -> list[str]:
    """Return where in `folder` the copies of `paths` are: `root`'s names, else their last parts."""
    names = [os.path.basename(p) if root is None else os.path.relpath(p, root) for p in paths]
    for path, name in zip(paths, names, strict=True):
        if name.startswith(os.pardir):
            raise HoldError(f"{path}: isn't below {root}")
    return [os.path.join(folder, name) for name in names]


def withdraw(folder: str) -> None:
    """Take a published folder away, in one step for who opens it next; what isn't one stays."""
    if not is_published(folder):
        return
    path = _draft_of(folder)
    try:
        os.rename(folder, path)
    except FileNotFoundError:
        return
    _remove(path)


def tidy(mount: str, keep: set[str]) -> None:
    """Take away what killed keepers left in `mount`, but the folders to `keep`; leave it."""
    if not os.path.isdir(mount):
        return
    with alone(mount):
        _sweep(mount)
        for name in os.listdir(mount):
            folder = os.path.join(mount, name)
            if folder not in keep:
                withdraw(folder)
    leave_tmpfs(mount)


def _draft_of(folder: str) -> str:
    parent, name = os.path.split(folder)
    return os.path.join(parent, f"{DRAFT}{name}.{os.getpid()}")


def _identities(files: list[HeldFile], names: list[str]) -> list[dict[str, Any]]:
    pairs = zip(files, names, strict=True)
    return [identity(name, file.path, file.status) for file, name in pairs]


def _sweep(mount: str) -> None:
    """Remove the drafts whose process is gone; hold `alone` meanwhile."""
    for name in os.listdir(mount):
        if not name.startswith(DRAFT):
            continue
        path = os.path.join(mount, name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        except BlockingIOError:
            pass  # somebody works on it
        finally:
            os.close(fd)


def _remove(path: str) -> None:
    for folder, folders, names in os.walk(path, topdown=False):
        for name in names + [f for f in folders if os.path.islink(os.path.join(folder, f))]:
            _gone(os.unlink, os.path.join(folder, name))
        _gone(os.rmdir, folder)


def _gone(remove: Any, path: str) -> None:
    try:
        remove(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise HoldError(f"{path}: can't be removed ({error.strerror})") from None


def _link_the_rest(source: str, draft: str) -> None:
    for entry in os.scandir(source):
        mine = os.path.join(draft, entry.name)
        if entry.name.startswith("."):
            continue
        if not os.path.lexists(mine):
            os.symlink(os.path.abspath(entry.path), mine)
        elif os.path.isdir(mine):
            _link_the_rest(entry.path, mine)


def _compare(copy: Copy) -> None:
    """See that the copy is whole and begins like its source."""
    path, size = copy.file.path, copy.file.size
    status = os.fstat(copy.fd)
    if status.st_size != size or status.st_blocks * 512 < size:
        raise HoldError(f"{path}: its copy isn't whole; report it with the journal")
    length = min(size, PAGE)
    there = _beginning(copy.file, length)
    if path.endswith(".safetensors"):
        length = min(size, 8 + int.from_bytes(there[:8], "little"), _HEADER_MOST)
        there = _beginning(copy.file, length)
    if there != os.pread(copy.fd, length, 0):
        raise HoldError(
            f"{path}: its copy in RAM begins with other bytes than it has on the disk; "
            "look at the kernel's log, and check the disk and the memory"
        )


def _beginning(file: HeldFile, length: int) -> bytes:
    span = -(-length // PAGE) * PAGE
    source = Source(file)
    try:
        with mmap.mmap(-1, max(span, PAGE)) as buffer, memoryview(buffer) as view:
            source.read(view[:span], 0, min(span, file.size))
            return bytes(view[:length])
    finally:
        source.close()
