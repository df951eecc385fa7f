"""Files that change, vanish or fail while they are staged or held; what is held of the rest."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from staging_rig import (
    MIB,
    a_keeper,
    hold,
    holding,
    keeper_python,
    resident,
    some_weights,
    take_away,
    until,
)

from warmd.staging import FileSet, Keeper, Pace, Request, StagingError, StagingProgress
from warmd.staging.holder.changes import Changes


@pytest.fixture
def weights(tmp_path: Path) -> FileSet:
    return some_weights(tmp_path)


def truncate(file: Path) -> None:
    os.truncate(file, MIB)


def replace(file: Path) -> None:
    (file.parent / "new").write_bytes(file.read_bytes())
    (file.parent / "new").replace(file)


def rewrite(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "was truncated from 8388608 to 1048576 bytes"),
    (replace, "was replaced by another file"),
    (rewrite, "was (written to|truncated)"),
    (Path.unlink, "was removed"),
]


async def test_a_file_that_changes_is_told_and_taken_anew_when_quiet(tmp_path: Path) -> None:
    async with a_keeper(interval=0.05) as keeper:
        await asyncio.gather(
            *(
                _changes(keeper, some_weights(tmp_path / change.__name__), change, words)
                for change, words in CHANGES
            )
        )


async def _changes(
    keeper: Keeper, weights: FileSet, change: Callable[[Path], None], words: str
) -> None:
    first, second = weights.files
    held = await hold(keeper, weights, key=f"weights:{first}")
    change(first)
    await until(lambda: held.trouble is not None)
    with pytest.raises(StagingError, match=words):
        raise StagingError(held.trouble)
    assert str(first) in (held.trouble or "")
    await until(lambda: not held.complete)
    assert resident(second) == second.stat().st_size, "the rest stays"
    if change is Path.unlink:
        await asyncio.sleep(0.2)
        first.write_bytes(os.urandom(MIB))
    await until(lambda: held.complete and held.trouble is None)
    assert held.total == held.resident == sum(file.stat().st_size for file in weights.files)
    assert resident(first) == first.stat().st_size


async def test_a_change_is_told_long_before_the_next_look(tmp_path: Path) -> None:
    async with a_keeper(interval=600.0) as keeper:
        for change, words in CHANGES:
            weights = some_weights(tmp_path / change.__name__)
            first = weights.files[0]
            link = tmp_path / f"snapshot-{change.__name__}" / first.name  # as in a cache of models
            link.parent.mkdir()
            link.symlink_to(first)
            request = Request((link, weights.files[1]), weights.total)
            held = await keeper.hold(f"weights:{first}", request, Pace(), lambda _: None)
            change(first)
            await until(lambda held=held: held.trouble is not None, patience=5)  # type: ignore[misc]
            assert re.search(words, held.trouble or "")


def test_only_what_is_followed_is_told(tmp_path: Path) -> None:
    ours, others = tmp_path / "ours", tmp_path / "others"
    ours.touch()
    changes = Changes()
    changes.follow([str(ours), str(tmp_path / "no folder" / "file")])
    assert changes.told() is None
    others.write_bytes(b"x")
    assert changes.told() is False
    ours.write_bytes(b"x")
    others.write_bytes(b"y")
    assert changes.told() is True
    assert changes.told() is None
    tmp_path.rename(tmp_path.with_name("moved"))
    assert changes.told() is True


async def test_without_inotify_the_next_look_finds_it(weights: FileSet, tmp_path: Path) -> None:
    none = "from holder import mapping; mapping.libc.inotify_init1 = lambda flags: -1"
    async with a_keeper(keeper_python(tmp_path, none), interval=0.2) as keeper:
        held = await hold(keeper, weights)
        truncate(weights.files[0])
        await until(lambda: held.trouble is not None)


async def test_a_download_in_progress_is_not_staged_before_it_is_quiet(
    weights: FileSet,
) -> None:
    first = weights.files[0]
    async with holding(weights, interval=0.05) as held:
        for _ in range(40):  # 4 s, longer than a file must rest
            with first.open("ab") as file:
                file.write(b"x" * 4096)
            await asyncio.sleep(0.1)
            assert not (held.complete and held.total > weights.total)
        await until(lambda: held.complete and held.total == weights.total + 40 * 4096)


async def test_a_file_that_is_replaced_while_it_is_read_is_told(weights: FileSet) -> None:
    seen: list[StagingProgress] = []
    async with a_keeper(interval=0.05) as keeper:
        request = Request(weights.files, weights.total)
        slow = Pace(urgent=False, rate=13 * MIB)
        task = asyncio.create_task(keeper.hold("weights:m", request, slow, seen.append))
        await until(lambda: bool(seen))
        replace(weights.files[0])
        held = await task
        assert "was replaced by another file" in (held.trouble or "")
        await until(lambda: held.complete and held.trouble is None)


async def test_an_eviction_is_told_once_with_what_is_known_of_it(weights: FileSet) -> None:
    told: list[str] = []
    async with a_keeper(interval=0.05) as keeper:
        request = Request(weights.files, weights.total)
        held = await keeper.hold("weights:m", request, Pace(), lambda _: None, told.append)
        while len(told) < 2:
            before = len(told)
            os.kill(held.pid, signal.SIGSTOP)  # or it would see the write between its two steps
            take_away(weights.files[0])
            os.kill(held.pid, signal.SIGCONT)
            await until(lambda: resident(weights.files[0]) == 8 * MIB)
            await until(lambda: bool(told))
            await asyncio.sleep(0.3)
            assert len(told) == before + 1
        assert told[0].startswith("8.0 MiB of the 13.0 MiB held were pushed out of RAM and are")
        assert held.complete
