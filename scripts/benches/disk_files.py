"""Files of random data on a real disk, and the page cache emptied of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench_rig import BenchError

from warmd import spoken
from warmd.staging.look import measure

_CHUNK = 16 << 20
_TMPFS = ("tmpfs", "ramfs")
_DROP = Path("/proc/sys/vm/drop_caches")
_SPARE = 1 << 30


@contextmanager
def random_files(below: Path, count: int, size: int) -> Iterator[list[Path]]:
    """Write `count` files of `size` bytes into a folder of their own, which is gone afterwards.

    Raises `BenchError` where `below` is in RAM or has no room.
    """
    below.mkdir(parents=True, exist_ok=True)
    _check(below, count * size)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=below))
    try:
        yield [_write(folder / f"part-{number}", size) for number in range(count)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def forget(files: Sequence[Path]) -> str:
    """Empty the page cache, of these files at least; return how. Raises `BenchError`."""
    how = empty(files)
    found = measure(files)
    if found.resident is None or found.resident > 0.01 * found.total:
        left = found.trouble or f"{spoken.size(found.resident or 0)} of the files stay in RAM"
        raise BenchError(f"{left}, so nothing can be compared")
    return how


def empty(files: Iterable[Path]) -> str:
    """Empty the page cache of what no process holds, of these files at least; return how."""
    if os.access(_DROP, os.W_OK):
        os.sync()  # what is dirty would stay
        _DROP.write_text("1")
        return f"1 into {_DROP}"
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return "posix_fadvise DONTNEED on each file, as dropping all needs root"


def _write(file: Path, size: int) -> Path:
    with file.open("wb") as opened:
        for _ in range(0, size, _CHUNK):
            opened.write(os.urandom(_CHUNK))
        opened.flush()
        os.fsync(opened.fileno())
    return file


def _check(below: Path, needed: int) -> None:
    kind = _kind(below)
    if kind in _TMPFS:
        raise BenchError(f"{below} is on {kind}, in RAM: name a folder on a disk with --folder")
    free = shutil.disk_usage(below).free
    if free < needed + _SPARE:
        has, wants = (f"{size / 1e9:.1f} GB" for size in (free, needed + _SPARE))
        raise BenchError(
            f"{below} has {has} free and {wants} are needed: make room, or name another --folder"
        )


def _kind(below: Path) -> str:
    """Name the file system below which a folder lies: the mount with the longest path."""
    whole, best = below.resolve(), ("", "")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if whole.is_relative_to(point) and len(point) >= len(best[0]):
            best = point, kind
    return best[1]
