"""Changes of files told by the kernel, so that nobody waits for the next look, inotify(7).

A part of the stage keeper's program: see `program.py`. It is a hint, and the looks go on: a file
system of the network tells nothing of what others do, one name of a file nothing of its others, and
the kernel gives a user only so many watches.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import struct

from .mapping import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_FOLDERS = 256
"""Of one set: all programs of a user share what the kernel allows. Weights are in a few."""

_IN_WORTH = 0x2 | 0x4 | 0x8  # IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE: of a mapping nothing else tells
_IN_NAMES = 0x40 | 0x80 | 0x100 | 0x200  # IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE
_IN_SELF = 0x400 | 0x800  # IN_DELETE_SELF, IN_MOVE_SELF
_IN_ONLYDIR = 0x01000000
_MASK = _IN_WORTH | _IN_NAMES | _IN_SELF | _IN_ONLYDIR
_IN_IGNORED = 0x8000  # the watch is gone; what ended it is told beside it
_EVENT = struct.Struct("iIII")  # watch, what, cookie, bytes of the name after it
_CHUNK = 65536

libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


class Changes:
    """Hears of changes of some files. `fd` gets readable then; None: the kernel gives none.

    Folders are watched, not files: one that is replaced, or comes back, has its name still.
    """

    def __init__(self) -> None:
        fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.fd: int | None = fd if fd >= 0 else None
        self._names: dict[int, set[bytes]] = {}

    def follow(self, paths: Iterable[str]) -> None:
        """Hear of these from now on, and of what they are links to."""
        folders: dict[bytes, set[bytes]] = {}
        for path in paths:
            for name in _names_of(os.fsencode(path)):
                folders.setdefault(os.path.dirname(name), set()).add(os.path.basename(name))
        self._names = {}
        if self.fd is None:
            return
        for folder, names in itertools.islice(folders.items(), MOST_FOLDERS):
            watch = libc.inotify_add_watch(self.fd, folder, _MASK)
            if watch >= 0:  # else it isn't there, or the user's watches are used up
                self._names.setdefault(watch, set()).update(names)

    def told(self) -> bool | None:
        """Whether one of them may have changed since; None where nothing at all was told."""
        found: bool | None = None
        while self.fd is not None:
            try:
                chunk = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                break
            found = any(self._is_ours(*event) for event in _events(chunk)) or bool(found)
        return found

    def _is_ours(self, watch: int, what: int, name: bytes) -> bool:
        if watch < 0:
            return True  # IN_Q_OVERFLOW: some were lost
        if what & _IN_IGNORED or watch not in self._names:
            return False
        return not name or bool(what & _IN_SELF) or name in self._names[watch]


def _names_of(path: bytes) -> Iterator[bytes]:
    """Yield the path, and that of the file itself where it is a link."""
    yield path
    if os.path.islink(path):
        yield os.path.realpath(path)


def _events(chunk: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at < len(chunk):
        watch, what, _, length = _EVENT.unpack_from(chunk, at)
        at += _EVENT.size + length
        yield watch, what, chunk[at - length : at].rstrip(b"\0")
