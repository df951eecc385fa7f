"""A disk that really fails to be read: a loop device whose image has lost its end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from staging_rig import MIB, a_keeper, evict, keeper_python, resident, until
from tmpfs_scene import a_stage

from warmd.ladder import Place
from warmd.staging import Pace, Request, StagingError, published_copy, weight_files

SIZE = 16 * MIB
LOST_FROM = 12 * MIB


def run(*command: str | Path) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()


@dataclass(frozen=True)
class Disk:
    """A disk with two files, of which one is lost from `LOST_FROM` on until it is mended."""

    device: str
    image: Path
    lost: bytes
    sound: Path
    bad: Path

    def mend(self) -> None:
        with self.image.open("ab") as image:
            image.write(self.lost)
        run("losetup", "--set-capacity", self.device)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid():
        pytest.skip("only root can mount a disk image")
    content, image, mounted = (tmp_path / name for name in ("content", "image", "disk"))
    content.mkdir()
    mounted.mkdir()
    for name in ("a.safetensors", "b.safetensors"):
        (content / name).write_bytes(os.urandom(SIZE))
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    run("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal", "-d", content, image)
    device = run("losetup", "--find", "--show", "--read-only", image)
    run("mount", "-o", "ro", device, mounted)
    run("losetup", "--detach", device)  # once it is unmounted
    try:
        raw = image.read_bytes()
        place = {
            file.name: raw.find(file.read_bytes()[LOST_FROM : LOST_FROM + 4096])
            for file in content.iterdir()
        }
        sound, bad = sorted(place, key=lambda name: place[name])
        assert place[sound] > 0
        os.truncate(image, place[bad])
        run("losetup", "--set-capacity", device)  # or it would read zeros there
        yield Disk(device, image, raw[place[bad] :], mounted / sound, mounted / bad)
    finally:
        run("umount", "--lazy", mounted)


async def test_what_the_disk_fails_to_read_is_told_and_the_rest_is_staged(
    disk: Disk, tmp_path: Path
) -> None:
    """cachestat(2) counts the pages that were to be read, and never got their content."""
    soon = "from holder import members; members.READ_AGAIN_S = 0.5"
    files = weight_files(disk.sound.parent)
    for file in files.files:
        evict(file)  # their headers were looked at
    assert resident(disk.sound) == resident(disk.bad) == 0
    async with a_keeper(keeper_python(tmp_path, soon), interval=0.2) as keeper:
        request = Request(files.files, files.total)
        held = await keeper.hold("weights:m", request, Pace(), lambda _: None)
        assert not held.complete
        told = held.trouble or ""
        assert f"{disk.bad}: the disk or file system failed to read it near byte" in told
        assert "look at the kernel's log" in told
        assert held.total == 2 * SIZE
        assert resident(disk.sound) == SIZE
        assert SIZE <= (held.resident or 0) < 2 * SIZE
        disk.mend()
        await until(lambda: held.complete and held.trouble is None)
        assert resident(disk.bad) == SIZE


async def test_of_what_cannot_be_read_whole_no_copy_is_published(
    disk: Disk, tmp_path: Path
) -> None:
    with a_stage(tmp_path) as stage:
        root = disk.sound.parent
        files = weight_files(root)
        request = Request(files.files, files.total, None, Place.TMPFS, stage / "m", root)
        async with a_keeper(tmpfs=stage) as keeper:
            with pytest.raises(StagingError, match="failed to read it near byte") as refused:
                await keeper.hold("weights:m", request, Pace(), lambda _: None)
            assert str(disk.bad) in str(refused.value)
            assert published_copy(stage / "m", root) is None
            assert not (stage / "m").exists()
