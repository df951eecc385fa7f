"""Weights that must be what their digests say: who may load them, and for how long."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import pytest
from rig import next_step

from warmd.ladder import FileKind, Place
from warmd.staged import RETRY_S, StagedFiles, StagedState
from warmd.staging import (
    FIRST,
    KeeperEndedError,
    Left,
    MismatchError,
    Pace,
    Proofs,
    Request,
    StagingError,
    StagingProgress,
)

_T = TypeVar("_T")
KEY = "weights:m"


class Holding:
    verified = True

    adopted = False

    def __init__(self) -> None:
        self.released = False
        self.loss: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def lost(self) -> str:
        return await self.loss

    async def release(self) -> None:
        self.released = True


@dataclass
class Scene:
    """A keeper that finds what it is told to find, and who listens."""

    file: Path
    digests: Mapping[Path, str] = field(default_factory=dict)
    mismatch: bool = False
    holds: int = 0
    now: float = 0.0
    aimed: list[bool] = field(default_factory=list)
    proofs: Proofs = field(default_factory=Proofs)
    holding: Holding | None = None
    tell: Callable[[StagingProgress], None] = print
    left: dict[str, Left] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.digests = {self.file: "0" * 64}
        self.staged = StagedFiles(
            KEY,
            FileKind.WEIGHTS,
            self.scan,
            self,
            clock=lambda: self.now,
            listener=self,
            in_thread=self.at_once,
            proofs=self.proofs,
            aim=lambda _request, copy: self.aimed.append(copy),
        )
        self.staged.state = replace(self.staged.state, total=4)

    def scan(self) -> Request:
        folder = self.file.parent
        return Request(
            (self.file,), 4, place=Place.TMPFS, folder=folder, root=folder, sha256=self.digests
        )

    async def at_once(self, work: Callable[[], _T], /) -> _T:
        return work()

    async def hold(self, _key: str, request: Request, _pace: Pace, *told: object) -> Holding:
        self.holds += 1
        if self.mismatch:
            raise MismatchError("m: the file has the digest 1…", str(self.file))
        self.holding = Holding()
        tell = told[0]
        assert callable(tell)
        self.tell = tell
        self.tell(StagingProgress(request.total, request.total, request.total))
        return self.holding

    def pace(self, _key: str, _pace: Pace) -> None:
        return

    def staged_changed(self, _staged: StagedFiles, _old: StagedState, _new: StagedState) -> None:
        return

    def staging_evicted(self, _staged: StagedFiles, _sentence: str) -> None:
        return

    def doubt(self) -> str | None:
        return self.proofs.doubt(KEY, (self.file,))

    async def stage(self) -> StagedState:
        self.staged.begin_stage("it shall")
        for _ in range(20):
            await next_step()
        return self.staged.state

    async def release(self) -> StagedState:
        self.staged.begin_release("it shall")
        await self.staged.ended()
        return self.staged.state


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"true")
    return Scene(file)


async def test_what_was_verified_may_be_loaded_until_it_is_another_file(scene: Scene) -> None:
    assert scene.staged.state.unverified == FIRST == scene.doubt()
    assert (await scene.stage()).unverified is None
    assert scene.doubt() is None
    assert (await scene.release()).unverified is None, "an engine has loaded it, and starts again"
    assert scene.aimed == [True, False]
    os.utime(scene.file, ns=(1, 1))
    assert "isn't the file any more that was verified" in (scene.doubt() or "")
    scene.mismatch = True
    state = await scene.stage()
    assert state.refused
    assert "the file has the digest" in (state.unverified or "")
    assert scene.doubt() == FIRST


async def test_what_was_refused_is_hashed_again_only_when_something_has_changed(
    scene: Scene,
) -> None:
    scene.mismatch = True
    assert (await scene.stage()).retry_at == RETRY_S
    await scene.stage()
    assert scene.holds == 1, "the same files aren't read again every half minute"
    scene.staged.forgive()
    assert (scene.staged.state.unverified, scene.staged.state.retry_at) == (FIRST, None)
    await scene.stage()
    assert scene.holds == 2
    scene.digests = {scene.file: "1" * 64}  # another manifest
    await scene.stage()
    assert scene.holds == 3
    scene.file.write_bytes(b"mended")
    scene.mismatch = False
    state = await scene.stage()
    assert (scene.holds, state.unverified, state.refused) == (4, None, False)
    await scene.release()


async def test_a_file_that_changes_while_held_is_verified_anew(scene: Scene) -> None:
    await scene.stage()
    assert scene.holding is not None
    scene.holding.verified = False  # the keeper let go of it, and waits until it is quiet
    scene.tell(StagingProgress(4, 4, 2, "w: was written to"))
    assert scene.staged.state.unverified == FIRST == scene.doubt()
    await scene.staged.ended()
    assert (await scene.stage()).unverified is None
    assert scene.holds == 2
    await scene.release()


async def test_a_problem_of_weights_names_its_model_no_second_time(scene: Scene) -> None:
    scene.mismatch = True
    state = await scene.stage()
    assert state.problem == "the file has the digest 1…"
    assert state.unverified == f"its weights are not what `verify` says: {state.problem}"


async def test_a_held_file_that_got_shorter_counts_for_what_it_is(scene: Scene) -> None:
    assert (await scene.stage()).total == 4
    scene.tell(StagingProgress(1, 4, 1, "w: was truncated from 4 to 3 bytes"))
    scene.tell(StagingProgress(3, 3, 3))
    state = scene.staged.state
    assert (state.held, state.done, state.total, state.taken) == (True, 3, 3, 3)


async def test_other_files_by_a_new_config_are_verified_first(scene: Scene) -> None:
    await scene.stage()
    scene.staged.refit(scene.scan)
    assert scene.staged.state.unverified == FIRST == scene.doubt()
    await scene.staged.ended()


async def test_other_files_by_a_new_config_are_not_proved_by_what_was_just_verified(
    scene: Scene,
) -> None:
    """The last word of a staging comes at the very moment of the reload."""
    scene.staged.begin_stage("it shall")
    for _ in range(20):
        if scene.holding is not None:
            break
        await next_step()
    assert scene.holding is not None
    other = scene.file.with_name("other.safetensors")
    other.write_bytes(b"true")
    scene.file, scene.digests = other, {other: "1" * 64}
    scene.staged.refit(scene.scan)
    await scene.staged.ended()
    assert scene.staged.state.unverified == FIRST == scene.doubt()
    assert scene.holding.released


async def test_another_snapshot_that_engines_would_load_is_staged_and_verified_first(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmd.staged.files.LOOK_AGAIN_S", 0.01)
    await scene.stage()
    other = scene.file.with_name("other.safetensors")
    other.write_bytes(b"true")
    scene.file, scene.digests = other, {other: "1" * 64}
    assert "other.safetensors isn't the file any more" in (scene.doubt() or ""), "nor is it loaded"
    await asyncio.wait_for(scene.staged.ended(), 5)
    assert scene.staged.state.unverified == FIRST == scene.doubt()
    assert (await scene.stage()).unverified is None
    await scene.release()


async def test_what_is_held_goes_also_where_its_engines_path_cannot_be_turned_back(
    scene: Scene,
) -> None:
    def aim(_request: Request, _copy: bool) -> None:
        raise StagingError("something else stands there")

    scene.staged._aim = aim
    assert (await scene.stage()).problem == "something else stands there"
    await scene.staged.ended()
    assert scene.holding is not None
    assert scene.holding.released


async def test_a_mount_that_hangs_gives_the_disk_back_and_costs_one_thread(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmd.staged.finding.PATIENCE_S", 0.01)
    asked = 0
    comes_back = asyncio.Event()

    async def hangs(_work: Callable[[], _T], /) -> _T:
        nonlocal asked
        asked += 1
        await comes_back.wait()
        raise StagingError("it is gone")

    scene.staged._finder._in_thread = hangs
    for _ in range(3):
        scene.staged.begin_stage("it shall")
        await asyncio.wait_for(scene.staged.ended(), 5)
        assert "haven't answered for" in (scene.staged.state.problem or "")
    assert asked == 1
    comes_back.set()
    await next_step()


async def test_the_keepers_death_is_followed_by_the_try_that_it_names(scene: Scene) -> None:
    await scene.stage()
    assert scene.holding is not None
    scene.holding.loss.set_exception(KeeperEndedError("m: it was killed", 1.0))
    await scene.staged.ended()
    state = scene.staged.state
    assert (state.held, state.retry_at, state.problem) == (False, 1.0, "it was killed")
