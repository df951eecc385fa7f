"""A model whose files are links into blobs, and a place for a tmpfs, which is unmounted after."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from warmd.staging.holder.mapping import libc

MIB = 1 << 20
BIG = 9 * MIB + 4097
NAMES = ("config.json", "sub/config.json", "b.safetensors", "a.safetensors")

_MNT_DETACH = 2


def mounts(below: Path) -> list[str]:
    """The lines of /proc/self/mountinfo on what is mounted at or below a path."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split()[4].startswith(str(below))]


@contextmanager
def a_stage(folder: Path) -> Iterator[Path]:
    """Where the tmpfs is to be: an own mount where that is allowed, else a folder on one."""
    if os.geteuid() == 0:
        path = folder / "stage"
        try:
            yield path
        finally:
            while mounts(path):
                libc.umount2(os.fsencode(path), _MNT_DETACH)
    else:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as shm:
            yield Path(shm) / "stage"


def evict(path: Path) -> None:
    """Drop a file's pages, which works while nobody maps them."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def weights_of(size: int) -> bytes:
    """Return what begins like a safetensors file."""
    header = json.dumps({"__metadata__": {"made": "here"}}).encode()
    return len(header).to_bytes(8, "little") + header + os.urandom(size - 8 - len(header))


def a_model(folder: Path) -> Path:
    """Make a snapshot of a Hugging Face cache: links into blobs, and files that nobody stages."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "r"
    blobs.mkdir()
    (snapshot / "sub").mkdir(parents=True)
    for name, size in [("a.safetensors", BIG), ("b.safetensors", 70_000)]:
        (blobs / name).write_bytes(weights_of(size))
        (snapshot / name).symlink_to(f"../../blobs/{name}")
        evict(blobs / name)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "sub" / "config.json").write_text('{"sub": 1}')
    (snapshot / "sub" / "code.py").write_text("1")
    (snapshot / "code.py").write_text("1")
    return snapshot
