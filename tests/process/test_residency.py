"""What is in RAM by the kernel's word: of real files, of foreign ones, and on a disk that hangs."""

from __future__ import annotations

import asyncio
import os
import pwd
import tempfile
import threading
import time
from pathlib import Path

import pytest

from warmd import residency
from warmd.ladder import FileKind
from warmd.residency import KnownSet, Residency
from warmd.staging.look import measure

SIZE = 4 << 20


def a_file(path: Path) -> Path:
    path.write_bytes(os.urandom(SIZE))
    with path.open("rb") as opened:
        os.fsync(opened.fileno())
    return path


def evict(path: Path) -> None:
    with path.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_what_is_cached_evicted_and_gone(tmp_path: Path) -> None:
    here, there = a_file(tmp_path / "a"), a_file(tmp_path / "b")
    found = measure([here, there])
    assert (found.total, found.resident, found.trouble) == (2 * SIZE, 2 * SIZE, None)
    assert found.by in ("cachestat", "mincore")
    evict(there)
    left = measure([here, there]).resident
    assert left is not None
    assert SIZE <= left < SIZE + SIZE // 10
    there.unlink()
    gone = measure([here, there])
    assert (gone.total, gone.resident) == (SIZE, None)
    assert gone.trouble == f"{there}: can't be opened (No such file or directory): put it back"


@pytest.mark.skipif(os.geteuid() != 0, reason="asks as another user")
def test_of_a_foreign_file_nobody_can_tell() -> None:
    """To who neither owns nor may write a file mincore(2) calls every page resident."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        file = a_file(Path(name) / "weights")
        file.chmod(0o644)
        evict(file)
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            found = measure([file])
        finally:
            os.seteuid(0)
    assert found.total == SIZE
    if found.resident is None:
        assert "belongs to user 0" in (found.trouble or "")
        assert "let warmd's user own or write it, or give it CAP_FOWNER" in (found.trouble or "")
    else:
        assert found.resident < SIZE // 10, "a kernel that tells everybody tells the truth"


async def test_a_disk_that_hangs_holds_up_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open a FIFO waits for ever, as a read from a dead network mount does."""
    monkeypatch.setattr(residency, "WITHIN_S", 0.3)
    monkeypatch.setattr("warmd.staging.look.open_regular", lambda path: path.open("rb"))
    fifo = tmp_path / "dead"
    os.mkfifo(fifo)
    dead = KnownSet("weights:dead", ("dead",), FileKind.WEIGHTS, (fifo,))
    alive = KnownSet("weights:m", ("m",), FileKind.WEIGHTS, (a_file(tmp_path / "a"),))
    unknown = KnownSet("program:x", ("m",), FileKind.PROGRAM, None)
    looks = Residency(lambda: [dead, alive, unknown])
    threads = threading.active_count()
    for _ in range(3):
        first, second, third = await looks.measure()
        assert first.measured is not None
        assert second.measured is not None
        assert first.measured.resident is None
        assert "haven't answered for 0.3 s" in (first.measured.trouble or "")
        assert second.measured.resident == SIZE
        assert third.measured is None
    assert threading.active_count() <= threads + 1, "one thread hangs, however often it is asked"
    [only, _] = await looks.measure("m")
    assert only.known is alive
    os.close(os.open(fifo, os.O_WRONLY))
    await asyncio.sleep(0)


async def test_a_hundred_gigabytes_are_measured_beside_the_loop(tmp_path: Path) -> None:
    files = [tmp_path / f"part-{number:02}" for number in range(60)]
    for file in files:
        with file.open("wb") as opened:
            opened.truncate(100 * 10**9 // 60)
    sets = [KnownSet("weights:m", ("m",), FileKind.WEIGHTS, tuple(files))]
    looks = Residency(lambda: sets)
    took = []
    for _ in range(5):
        began = time.monotonic()
        [found] = await looks.measure()
        took.append(time.monotonic() - began)
        assert found.measured is not None
        assert found.measured.total > 99 * 10**9
        assert found.measured.resident is not None
    assert min(took) < 0.05, took
