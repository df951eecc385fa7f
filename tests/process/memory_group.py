"""A control group of its own with little memory, and a process in it that takes memory for good."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")
_END_S = 10.0
MIB = 1 << 20

# What it takes is bounded by its argument, and it is the first that the kernel would end.
_TAKES = """
import mmap, sys
open("/proc/self/oom_score_adj", "w").write("1000")
taken = mmap.mmap(-1, int(sys.argv[1]))
for at in range(0, len(taken), mmap.PAGESIZE):
    taken[at] = 1
print("taken", flush=True)
sys.stdin.read()
"""


# Random reads of a file that is larger than what the group may use: each waits for the disk.
_THRASHES = """
import os, random, sys
file = os.open(sys.argv[1], os.O_RDONLY)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
pages = os.fstat(file).st_size // 4096
print("taken", flush=True)
while True:
    os.pread(file, 1, random.randrange(pages) * 4096)
"""


@dataclass(frozen=True)
class MemoryGroup:
    """A control group; the pages that its processes are the first to read count in it."""

    folder: Path

    def add(self, pid: int) -> None:
        """Have a process in it, and all that it starts from now on."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def has(self, pid: int) -> bool:
        return str(pid) in (self.folder / "cgroup.procs").read_text().split()

    def wrap(self, file: Path) -> Path:
        """Write a Python that runs in the group."""
        inside = f"echo $$ > {self.folder}/cgroup.procs"
        file.write_text(f'#!/bin/sh\n{inside}\nexec {shlex.quote(sys.executable)} "$@"\n')
        file.chmod(0o755)
        return file

    @contextmanager
    def pressed(self, size: int) -> Iterator[None]:
        """A child in the group takes `size` bytes, and gives them back by its end."""
        with self._child(_TAKES, str(size)):
            yield

    @contextmanager
    def short_of_memory(self, file: Path) -> Iterator[None]:
        """Children wait for memory all the time, as the kernel's PSI tells: they share `file`."""
        with ExitStack() as children:
            for _ in range(6):
                children.enter_context(self._child(_THRASHES, str(file)))
            yield

    @contextmanager
    def _child(self, program: str, argument: str) -> Iterator[None]:
        with subprocess.Popen(
            [sys.executable, "-c", f"input()\n{program}", argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                self.add(child.pid)
                child.stdin.write(b"go\n")
                child.stdin.flush()
                assert child.stdout.readline() == b"taken\n", "it was ended before it had it"
                yield
            finally:
                child.kill()


@contextmanager
def a_memory_group(limit: int) -> Iterator[MemoryGroup]:
    """A group that may use `limit` bytes; whoever is left in it is moved out in the end."""
    v1 = (_V1 / "memory.limit_in_bytes").exists()
    root = _V1 if v1 else _V2
    folder = root / f"warmd-test-{os.getpid()}"
    try:
        try:
            folder.mkdir()
            (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(limit))
        except OSError as error:
            pytest.skip(f"no control group of memory can be made here, as root can mostly: {error}")
        yield MemoryGroup(folder)
    finally:
        if folder.exists():
            _remove(folder, root)


def _remove(folder: Path, root: Path) -> None:
    deadline = time.monotonic() + _END_S
    while True:
        for pid in (folder / "cgroup.procs").read_text().split():
            try:
                (root / "cgroup.procs").write_text(pid)
            except OSError:
                continue  # it has ended meanwhile
        try:
            return folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
