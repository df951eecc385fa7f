"""Real memory pressure, bounded: a child takes memory, and the kernel takes it from what is staged.

Keeper, holders and the child are in a control group of their own: nothing else is pressed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_rig import a_daemon
from daemon_rig import until as seen
from memory_group import MIB, MemoryGroup, a_memory_group
from staging_rig import a_keeper, evict, keeper_python, resident, some_weights, take_away, until

from warmd.ladder import Place
from warmd.staging import FileSet, Pace, Request, StagingProgress, weight_files
from warmd.staging.holder.pressure import Watch

LIMIT = 256 * MIB
STAGED = 128 * MIB
TAKEN = 184 * MIB


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with a_memory_group(LIMIT) as made:
        yield made


@pytest.fixture
def weights(tmp_path: Path) -> FileSet:
    file = tmp_path / "model.safetensors"
    file.write_bytes(os.urandom(8 * MIB) * (STAGED // (8 * MIB)))
    evict(file)  # or its pages would count where they were written
    assert resident(file) == 0, "on a file system that can't evict (tmpfs): set --basetemp"
    return weight_files(tmp_path)


async def test_what_the_kernel_evicts_is_told_and_let_go_and_can_be_staged_again(
    group: MemoryGroup, weights: FileSet, tmp_path: Path
) -> None:
    """A child takes so much that not all fits any more; afterwards it does."""
    [file] = weights.files
    told: list[str] = []
    async with a_keeper(group.wrap(tmp_path / "python"), interval=0.2) as keeper:
        request = Request(weights.files, weights.total)
        held = await keeper.hold("weights:m", request, Pace(), lambda _: None, told.append)
        assert held.complete
        assert group.has(held.pid)
        with group.pressed(TAKEN):
            assert resident(file) < 0.75 * STAGED, "the kernel took it"
            why = await asyncio.wait_for(held.lost(), 10)
        assert "% of the files stay in RAM, even right after they were read" in why
        assert "or of a slice above it, was met" in why
        assert len(told) == 1
        assert "MiB of the 128.0 MiB held were pushed out of RAM and are brought back" in told[0]
        assert "or of a slice above it, was met" in told[0]
        held = await keeper.hold("weights:m", request, Pace(), lambda _: None, told.append)
        assert held.complete
        assert resident(file) == STAGED


async def test_what_was_taken_for_a_moment_is_brought_back(
    group: MemoryGroup, weights: FileSet, tmp_path: Path
) -> None:
    [file] = weights.files
    told: list[str] = []
    async with a_keeper(group.wrap(tmp_path / "python"), interval=2) as keeper:
        request = Request(weights.files, weights.total)
        held = await keeper.hold("weights:m", request, Pace(), lambda _: None, told.append)
        with group.pressed(TAKEN):
            assert resident(file) < 0.75 * STAGED
        await until(lambda: bool(told))
        await until(lambda: resident(file) == STAGED)
        assert held.complete
        assert "or of a slice above it, was met" in told[0]


async def test_of_what_is_locked_nothing_goes(
    group: MemoryGroup, weights: FileSet, tmp_path: Path
) -> None:
    """The child takes all that there is: page cache beside it goes, what is locked stays."""
    [file] = weights.files
    other = tmp_path / "other"
    other.write_bytes(bytes(64 * MIB))
    evict(other)
    told: list[str] = []
    async with a_keeper(group.wrap(tmp_path / "python"), interval=0.2) as keeper:
        beside = Request((other,), 64 * MIB)
        await keeper.hold("weights:other", beside, Pace(), lambda _: None)
        request = Request(weights.files, weights.total, place=Place.LOCKED)
        held = await keeper.hold("weights:m", request, Pace(), lambda _: None, told.append)
        with group.pressed(LIMIT - STAGED - 32 * MIB):
            assert resident(other) < 48 * MIB, "the kernel took what isn't locked"
            for _ in range(5):
                assert resident(file) == STAGED
                await asyncio.sleep(0.1)
        assert held.complete
        assert told == []


async def test_what_the_kernel_says_of_pressure_pauses_staging_and_makes_it_look(
    weights: FileSet, tmp_path: Path
) -> None:
    """Children thrash in a group of their own; all thresholds but one pause are as they are."""
    [other] = weights.files
    held_file, late_file = some_weights(tmp_path / "a").files
    sensitive = (
        "child.PAUSE_AT = child.RESUME_BELOW = 2.0"  # per cent: how much it is is the disk's
    )
    with a_memory_group(40 * MIB) as group:
        async with (
            a_keeper(interval=3600) as keeper,
            a_keeper(keeper_python(tmp_path, sensitive)) as pausing,
        ):
            first, late = (Request((f,), f.stat().st_size) for f in (held_file, late_file))
            await keeper.hold("weights:a", first, Pace(), lambda _: None)
            take_away(held_file)
            evict(late_file)
            with group.short_of_memory(other):
                await until(lambda: (Watch().pressure() or 0) > 2.0, 60)
                seen: list[StagingProgress] = []
                task = asyncio.create_task(pausing.hold("weights:b", late, Pace(), seen.append))
                await until(lambda: any(each.paused for each in seen))
                assert not task.done()
                assert resident(late_file) < late_file.stat().st_size
            assert "waited for it" in next(each.paused for each in seen if each.paused)
            await until(lambda: resident(held_file) == held_file.stat().st_size, 40)
            assert (await asyncio.wait_for(task, 60)).complete


def test_a_model_falls_to_cold_with_the_reason_and_is_staged_again_by_itself() -> None:
    hurried = Path(__file__).with_name("hurried_daemon.py")
    with a_memory_group(2 * LIMIT) as group, a_daemon() as daemon:
        daemon.command = (str(hurried),)
        daemon.write_config({"m": ""}, rest='[ram]\nstaging = "400MiB"\nreserve = "1MiB"')
        file = daemon.folder / "weights-m" / "model.safetensors"
        file.write_bytes(os.urandom(8 * MIB) * (2 * STAGED // (8 * MIB)))
        evict(file)
        daemon.launch()
        assert daemon.process is not None
        group.add(daemon.process.pid)
        daemon.wait_until_up()
        daemon.wait_for_rung("staged")
        assert resident(file) == 2 * STAGED
        with group.pressed(LIMIT):
            assert resident(file) < 1.8 * STAGED, "the kernel took it"
            model = daemon.wait_for_rung("cold")
            # Who is first: the holder that sees what went, or the plan that keeps the floor.
            assert "were pushed out of RAM" in daemon.log or "memory is short" in daemon.log
            seen(
                lambda: "are staged files" in daemon.status["models"]["m"]["held_up_by"],
                f"it says why it isn't brought back: {model}",
            )
        daemon.wait_for_rung("staged")
        assert resident(file) == 2 * STAGED
        assert daemon.process.poll() is None
