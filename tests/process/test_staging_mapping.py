"""Where the kernel can't populate, or a file shrinks in the middle: no crash, the same outcome."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmd.staging.holder import filling, mapping, residency
from warmd.staging.holder.mapping import HeldFile, HoldError, libc, populate, read
from warmd.staging.holder.pace import Pace
from warmd.staging.holder.residency import Measure, UnprovedError

MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[HeldFile]:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(3 * MIB + 5))
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    held = HeldFile(str(path))
    yield held
    for segment in held.segments:
        if segment.address is not None:
            libc.munmap(segment.address, segment.length)


def test_a_file_cut_short_is_an_error_and_no_sigbus(file: HeldFile) -> None:
    (segment,) = file.segments
    descriptor = file.reopen()
    segment.map(descriptor)
    os.close(descriptor)
    os.truncate(file.path, MIB)
    with pytest.raises(HoldError, match="was truncated from 3145733 to 1048576 bytes"):
        populate(segment, lambda _bytes: None)
    with pytest.raises(HoldError, match="was truncated"):
        read(segment, lambda _bytes: None)


def test_a_network_s_file_system_is_known_and_read_plainly(
    file: HeldFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system's magic is made up: no network mount is to be had here."""
    assert file.network is None

    class Everything(dict[int, str]):
        def get(self, key: int, default: object = None) -> str:
            return "NFS"

    def never(*_: object) -> bool:
        raise AssertionError("a mapping would be read through")

    monkeypatch.setattr(mapping, "_NETWORK", Everything())
    monkeypatch.setattr(filling, "populate", never)
    mounted = HeldFile(file.path)
    assert mounted.network == "NFS"
    jobs = [filling.BringIn(part, populates=True, locks=False) for part in mounted.segments]
    work = filling.Pass(jobs, Pace(), threads=2)

    def tick(fd: int, timeout_ms: int) -> None:
        select.select([fd], [], [], timeout_ms / 1000)

    work.run(tick)
    assert work.done == mounted.size == Measure().resident([mounted])
    mounted.close()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_without_populate_the_file_is_read_and_mapped(
    file: HeldFile, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "madvise", lambda *_: number)
    (segment,) = file.segments
    done: list[int] = []
    assert not populate(segment, done.append)
    assert done == []
    read(segment, done.append)
    assert sum(done) == file.size == residency.mapped_now()[segment.address or 0] - 4096 + 5


def test_every_way_of_measuring_agrees(file: HeldFile) -> None:
    assert Measure().resident([file]) in (0, file.size)  # tmpfs never lets go
    assert populate(file.segments[0], lambda _bytes: None)
    ways = Measure(), Measure(), Measure()
    ways[1].cachestat_works = False
    ways[2].cachestat_works = ways[2].mincore_works = False
    assert [way.resident([file]) for way in ways] == [file.size] * 3
    assert [way.by for way in ways][1:] == ["mincore", "page tables"]


def test_zeros_from_cachestat_are_not_taken_for_an_answer(
    file: HeldFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overlayfs answers zero for every file (cachestat(2) looks at the wrong inode there)."""
    measure = Measure()
    populate(file.segments[0], lambda _bytes: None)
    monkeypatch.setattr(residency, "cachestat", lambda *_: 0)
    assert measure.resident([file]) == file.size
    assert measure.by == "mincore"


def test_where_nothing_tells_it_is_unproved(
    file: HeldFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_proc() -> dict[int, int]:
        raise FileNotFoundError

    measure = Measure()
    monkeypatch.setattr(residency, "cachestat", lambda *_: None)
    monkeypatch.setattr(HeldFile, "is_ours", lambda _file: False)
    monkeypatch.setattr(residency, "mapped_now", no_proc)
    populate(file.segments[0], lambda _bytes: None)
    with pytest.raises(UnprovedError, match="nothing here tells whether it is in RAM"):
        measure.resident([file])
