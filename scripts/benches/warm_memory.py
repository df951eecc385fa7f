"""Memory that is there when files are read into it, where a host lends it to a virtual machine.

Such a host takes back what lies free for a second (free page reporting), and gives it again at a
third of a disk's speed or less: that alone would be measured. So a child of ours holds as much as
is read, touched, and frees it in step with the growth of the page cache, a little ahead of it. A
machine whose memory is its own loses nothing by it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from bench_rig import BenchError, popen

MEMORY = "each gets memory that a host below this machine has given already; cold, that dominates"
"""What to say of it with the figures."""
_AHEAD = 64 << 20  # bytes: more would lie free long enough to be taken back
_TICK_S = 0.002
_HUGE = 2 << 20
_MADV_POPULATE_WRITE = 23  # Linux 5.14, madvise(2)
_FEED, _DONE = struct.pack("d", 0.0), b"."


class WarmMemory:
    """The child that holds it. Its CPU is nobody's: it is waited for when all is measured."""

    def __init__(self, child: socket.socket) -> None:
        self._child = child

    def fill(self, share: float = 1.0) -> None:
        """Take that share of it, then free it as the page cache grows from now on."""
        for word in (struct.pack("d", share), _FEED):
            try:
                self._child.sendall(word)
                done = self._child.recv(1)
            except OSError:  # it is gone
                done = b""
            if not done:
                raise BenchError("memory to read into could not be held: look at the kernel's log")


@contextmanager
def warm_memory(size: int) -> Iterator[WarmMemory]:
    """Have `size` bytes held until the end of the block, but a third of what is available most."""
    size = min(size, psutil.virtual_memory().available // 3)
    ours, its = socket.socketpair()
    with ours, its:
        child = popen([sys.executable, __file__, str(size)], stdin=its)
        its.close()
        try:
            yield WarmMemory(ours)
        finally:
            child.kill()
            child.wait()


def cached() -> int:
    """Bytes of the page cache, those of every tmpfs among them."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Cached:"))


def _hold(size: int) -> None:
    """Serve our parent until it closes our stdin."""
    size = -(-size // _HUGE) * _HUGE
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    held, freed, before = 0, 0, None
    while True:
        if select.select([0], [], [], None if before is None else _TICK_S)[0]:
            word = os.read(0, len(_FEED))
            if not word:
                return
            if word == _FEED:
                before = cached()
            else:
                held = int(struct.unpack("d", word)[0] * size) // _HUGE * _HUGE
                # A kernel that can't goes without: then it isn't warm, no more.
                madvise(address, held, _MADV_POPULATE_WRITE)
                if held < size:
                    memory.madvise(mmap.MADV_DONTNEED, held, size - held)
                freed, before = 0, None
            os.write(0, _DONE)
        if before is not None:
            due = min(held, (cached() - before + _AHEAD) // _HUGE * _HUGE)
            if due > freed:
                memory.madvise(mmap.MADV_DONTNEED, freed, due - freed)
                freed = due


if __name__ == "__main__":
    _hold(int(sys.argv[1]))
