"""What the stage keeper holds in a tmpfs, and what it has verified; killed at any moment."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest
from staging_rig import keeper_python, the_program
from tmpfs_scene import BIG, NAMES, a_model, a_stage, mounts

from warmd.ladder import Place
from warmd.staging import (
    Holding,
    Keeper,
    KeeperEndedError,
    MismatchError,
    Pace,
    Request,
    StagingError,
    expected_digests,
    published_copy,
)

KILLS = 24


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Path]:
    with a_stage(tmp_path) as path:
        yield path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return a_model(tmp_path)


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="warmd-") as path:  # short: a socket lives there
        yield Path(path)


@asynccontextmanager
async def a_keeper(run_dir: Path, stage: Path, interval: float = 30.0) -> AsyncIterator[Keeper]:
    keeper = Keeper(run_dir, tmpfs=stage, interval=interval)
    try:
        yield keeper
    finally:
        await keeper.close(leave=False)


def request(model: Path, folder: Path | None, sha256: Mapping[Path, str] | None = None) -> Request:
    files = tuple(model / name for name in NAMES)
    total = sum(file.stat().st_size for file in files)
    if folder is None:
        return Request(files, total, sha256=sha256 or {})
    return Request(files, total, place=Place.TMPFS, folder=folder, root=model, sha256=sha256 or {})


async def hold(keeper: Keeper, asked: Request) -> Holding:
    return await keeper.hold("weights:m", asked, Pace(), lambda _progress: None)


def sums(model: Path) -> dict[Path, str]:
    return {model / n: hashlib.sha256((model / n).read_bytes()).hexdigest() for n in NAMES}


async def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not met():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def has_children(process: psutil.Process) -> Callable[[], bool]:
    return lambda: bool(process.children())


async def test_a_set_in_a_tmpfs_is_there_from_hold_to_release(
    model: Path, stage: Path, run_dir: Path
) -> None:
    async with a_keeper(run_dir, stage) as keeper:
        held = await hold(keeper, request(model, stage / "m", sums(model)))
        assert held.resident == held.total
        assert held.verified
        assert "tmpfs" in held.by
        assert published_copy(stage / "m", model) == stage / "m"
        await held.release()
        assert os.listdir(stage) == []  # and not only soon
        held = await hold(keeper, request(model, stage / "m"))
        (model / "config.json").write_text("[]")
    assert not (stage / "m").exists()  # it ended with the keeper
    assert mounts(stage) == []


async def test_the_next_keeper_takes_over_what_a_killed_one_had_published(
    model: Path, stage: Path, run_dir: Path
) -> None:
    asked = request(model, stage / "m")
    async with a_keeper(run_dir, stage) as keeper:
        held = await hold(keeper, asked)
        copy = (stage / "m" / "a.safetensors").stat()
        os.kill(psutil.Process(held.pid).ppid(), signal.SIGKILL)
        with pytest.raises(KeeperEndedError):
            await held.lost()
        assert published_copy(stage / "m", model) == stage / "m"
        await hold(keeper, asked)
        assert (stage / "m" / "a.safetensors").stat().st_ino == copy.st_ino
    keeper = Keeper(run_dir, tmpfs=stage)
    held = await hold(keeper, asked)
    os.kill(psutil.Process(held.pid).ppid(), signal.SIGKILL)
    with pytest.raises(KeeperEndedError):
        await held.lost()
    await keeper.close(leave=True)
    assert os.listdir(stage) == ["m"]
    async with a_keeper(run_dir, stage) as keeper:
        await keeper.open()  # of a daemon that stages nothing
    assert not (stage / "m").exists()
    assert mounts(stage) == []


@pytest.mark.parametrize("who", ["holder", "keeper"])
async def test_killed_at_any_moment_nothing_half_done_is_left(
    model: Path, stage: Path, run_dir: Path, who: str
) -> None:
    chance = random.Random(f"{who} 5")
    asked = request(model, stage / "m", sums(model))
    ended_by_us = 0
    for _ in range(KILLS):
        keeper = Keeper(run_dir, tmpfs=stage)
        held = await hold(keeper, asked)  # a keeper runs; its next set begins at once
        keeping = psutil.Process(held.pid).ppid()
        await held.release()
        began = time.monotonic()
        task = asyncio.create_task(hold(keeper, asked))
        await until(has_children(psutil.Process(keeping)))
        victims = psutil.Process(keeping).children() if who == "holder" else [keeping]
        await asyncio.sleep(chance.uniform(0, 0.06))
        for victim in victims:
            pid = victim if isinstance(victim, int) else victim.pid
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            held = await task
            sentence = await asyncio.wait_for(held.lost(), 10)
        except StagingError as error:
            sentence = str(error)
        ended_by_us += "SIGKILL" in sentence
        assert time.monotonic() - began < 10
        if (stage / "m").exists():  # then it is whole
            assert who == "keeper"
            assert published_copy(stage / "m", model) == stage / "m"
            for name in NAMES:
                assert (stage / "m" / name).read_bytes() == (model / name).read_bytes()
        held = await hold(keeper, asked)
        assert os.listdir(stage) == ["m"]
        await keeper.close(leave=False)
        assert not (stage / "m").exists()
        assert mounts(stage) == []
    assert ended_by_us == KILLS


async def test_the_copies_of_a_killed_keeper_are_taken_away_though_nobody_asks_again(
    model: Path, stage: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmd.staging.keeper.TRIED_SOON_S", 0.05)
    python = keeper_python(run_dir, "program.CLAIM_S = 0.3")
    for closes in (False, True):
        keeper = Keeper(run_dir, python, tmpfs=stage)
        held = await hold(keeper, request(model, stage / "m"))
        the_program(held).kill()
        with pytest.raises(KeeperEndedError):
            await asyncio.wait_for(held.lost(), 10)
        assert (stage / "m").exists()
        if not closes:
            await until(lambda: not (stage / "m").exists())
        await keeper.close(leave=False)
        assert mounts(stage) == []


@pytest.mark.parametrize("place", ["page-cache", "tmpfs"])
async def test_a_file_that_is_not_what_its_digest_says_is_named(
    model: Path, stage: Path, run_dir: Path, place: str
) -> None:
    expected = sums(model)
    with (model / "a.safetensors").open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"flipped")
    now = hashlib.sha256((model / "a.safetensors").read_bytes()).hexdigest()
    async with a_keeper(run_dir, stage) as keeper:
        folder = stage / "m" if place == "tmpfs" else None
        with pytest.raises(MismatchError) as caught:
            await hold(keeper, request(model, folder, expected))
        was = expected[model / "a.safetensors"]
        assert caught.value.path == str(model / "a.safetensors")
        assert f"digest {now[:12]}… where {was[:12]}… is expected" in str(caught.value)
        assert not (stage / "m").exists()
        await hold(keeper, request(model, folder, sums(model)))


async def test_what_was_replaced_while_no_daemon_ran_is_not_taken_for_verified(
    model: Path, stage: Path, run_dir: Path
) -> None:
    """The keeper's last look was before that."""
    asked = request(model, None, sums(model))
    first = Keeper(run_dir, tmpfs=stage, linger_s=60)
    assert (await hold(first, asked)).verified
    await first.close(leave=True)
    (model / "new").write_bytes(bytes((model / "a.safetensors").stat().st_size))
    (model / "new").replace(model / "a.safetensors")
    async with a_keeper(run_dir, stage) as keeper:
        held = await hold(keeper, asked)
        assert (held.adopted, held.verified) == (True, False)


async def test_digests_cost_no_second_read_from_the_disk(
    model: Path, stage: Path, run_dir: Path
) -> None:
    async with a_keeper(run_dir, stage) as keeper:
        held = await hold(keeper, request(model, None, sums(model)))
        read = psutil.Process(held.pid).io_counters()
        assert read.read_chars >= held.total  # hashed
        assert read.read_bytes <= 1.05 * held.total  # from the disk, once


async def test_a_full_tmpfs_loses_nothing(model: Path, stage: Path, run_dir: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounts a tmpfs")
    stage.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0755", "mine", str(stage)]
    await asyncio.to_thread(lambda: subprocess.run(mount, check=True))
    async with a_keeper(run_dir, stage) as keeper:
        with pytest.raises(StagingError, match=r"m: .*6 MiB are missing .* remount,size=10m"):
            await hold(keeper, request(model, stage / "m"))
        assert os.listdir(stage) == []
        held = await hold(keeper, request(model, None))
        assert held.resident >= BIG
    assert len(mounts(stage)) == 1


async def test_a_source_that_goes_takes_its_copy_with_it(
    model: Path, stage: Path, run_dir: Path
) -> None:
    async with a_keeper(run_dir, stage, interval=0.05) as keeper:
        held = await hold(keeper, request(model, stage / "m"))
        shutil.copy(model / "a.safetensors", model / "new")
        (model / "new").replace(model / "a.safetensors")
        assert "a.safetensors: was replaced" in await asyncio.wait_for(held.lost(), 10)
        assert not (stage / "m").exists()


async def test_a_hugging_face_cache_names_its_blobs_by_their_digests(
    tmp_path: Path, stage: Path, run_dir: Path
) -> None:
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots"
    blobs.mkdir()
    folder.mkdir()
    config = b'{"architectures": []}'
    contents = {
        "a.safetensors": (os.urandom(70_000), ""),
        "config.json": (config, f"blob {len(config)}\0"),
    }
    for name, (content, prefix) in contents.items():
        digest = hashlib.sha1(prefix.encode() + content) if prefix else hashlib.sha256(content)
        (blobs / digest.hexdigest()).write_bytes(content)
        (folder / name).symlink_to(f"../blobs/{digest.hexdigest()}")
    files = tuple(folder / name for name in contents)
    expected = expected_digests("hugging-face", folder, files)
    assert [len(expected[file]) for file in files] == [64, 40]
    asked = Request(files, 70_000 + len(config), sha256=expected)
    async with a_keeper(run_dir, stage) as keeper:
        await (await hold(keeper, asked)).release()
        (folder / "config.json").resolve().write_bytes(config[::-1])
        with pytest.raises(MismatchError, match=r"config\.json"):
            await hold(keeper, asked)
    (folder / "config.json").unlink()
    (folder / "config.json").write_bytes(config)
    with pytest.raises(StagingError, match="is no link to a blob"):
        expected_digests("hugging-face", folder, files)
