"""Copies in a real tmpfs: of real files, published whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tmpfs_scene import MIB, NAMES, a_model, a_stage, mounts, weights_of

from warmd.staging.holder import tmpfs
from warmd.staging.holder.copying import FullError
from warmd.staging.holder.draft import Draft, published, tidy, withdraw
from warmd.staging.holder.manifest import MANIFEST
from warmd.staging.holder.mapping import HeldFile, HoldError
from warmd.staging.holder.residency import cachestat
from warmd.staging.holder.tmpfs import words_of
from warmd.staging.published import published_copy

ROOT = Path(__file__).parents[2]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Path]:
    with a_stage(tmp_path) as path:
        yield path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return a_model(tmp_path)


def held(model: Path) -> list[HeldFile]:
    return [HeldFile(str(model / name)) for name in NAMES]


def copied(draft: Draft) -> int:
    done: list[int] = []
    for copy in draft.copies:
        for part in copy.parts:
            part.run(done.append)
    return sum(done)


def cached(path: Path) -> int:
    with path.open("rb") as file:
        return cachestat(file.fileno(), path.stat().st_size) or 0


def test_a_copy_is_published_whole_and_known_by_its_sources(model: Path, stage: Path) -> None:
    folder, files = stage / "m", held(model)
    total = sum(file.size for file in files)
    draft = Draft(str(folder), str(model), files)
    draft.begin()
    assert words_of(str(stage)) in ("tmpfs", "tmpfs with small pages")
    assert copied(draft) == total
    assert not folder.exists()
    assert published_copy(folder, model) is None
    draft.publish()

    for name in (*NAMES, "code.py", "sub/code.py"):
        assert (folder / name).read_bytes() == (model / name).read_bytes()
        assert (folder / name).is_symlink() == name.endswith(".py")
    assert os.listdir(stage) == ["m"]
    assert published(str(folder), str(model), held(model))
    assert published_copy(folder, model) == folder
    assert published_copy(folder, model.parent) is None
    os.utime(model / "a.safetensors")  # it was written to since
    assert not published(str(folder), str(model), held(model))
    assert published_copy(folder, model) is None

    with (folder / "config.json").open() as kept:
        withdraw(str(folder))
        assert kept.read() == "{}"  # who has it open reads on
    assert os.listdir(stage) == []
    tmpfs.leave_tmpfs(str(stage))
    assert mounts(stage) == []


def test_what_is_copied_is_in_ram_once(model: Path, stage: Path) -> None:
    source = model.parents[1] / "blobs" / "a.safetensors"
    if cached(source):
        pytest.skip("this file system can't evict (tmpfs): set --basetemp")
    draft = Draft(str(stage / "m"), str(model), held(model))
    draft.begin()
    copied(draft)
    draft.publish()
    assert cached(source) <= 0.05 * source.stat().st_size


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_without_direct_reads_the_cache_is_left_as_it_was(
    model: Path, stage: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As overlayfs, NFS and tmpfs may answer: some at open(2), some at the first read."""
    real_open, real_read = os.open, os.preadv

    def no_direct(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT and number == errno.ENOTSUP:
            raise OSError(number, "no")
        return real_open(path, flags, *rest)

    def no_reading(fd: int, *rest: object) -> int:
        import fcntl

        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(number, "no")
        return real_read(fd, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", no_direct)
    monkeypatch.setattr(os, "preadv", no_reading)
    cold, warm = model / "a.safetensors", model / "b.safetensors"
    warm.read_bytes()
    if cached(cold):
        pytest.skip("this file system can't evict (tmpfs): set --basetemp")
    draft = Draft(str(stage / "m"), str(model), held(model))
    draft.begin()
    copied(draft)
    draft.publish()
    assert (stage / "m" / "a.safetensors").read_bytes() == (model / "a.safetensors").read_bytes()
    assert cached(warm) >= warm.stat().st_size


@needs_root
def test_a_full_tmpfs_says_what_is_missing_and_leaves_nothing(model: Path, stage: Path) -> None:
    """A store into a mapping would end the process with SIGBUS there."""
    stage.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "mine", stage], check=True)
    draft = Draft(str(stage / "m"), str(model), held(model))
    with pytest.raises(HoldError, match=r"6 MiB are missing .* `mount -o remount,size=10m .*stage"):
        draft.begin()
    draft.remove()
    assert os.listdir(stage) == []
    subprocess.run(["mount", "-o", "remount,size=12m", stage], check=True)
    draft = Draft(str(stage / "m"), str(model), held(model))
    draft.begin()
    (stage / "somebody's").write_bytes(bytes(8 * MIB))  # it fills up meanwhile
    with pytest.raises(FullError):
        copied(draft)
    said = str(draft.filled())
    draft.remove()
    assert re.search(r"[56] MiB are missing on this tmpfs", said)
    assert os.listdir(stage) == ["somebody's"]
    assert len(mounts(stage)) == 1  # it isn't ours to unmount


@needs_root
def test_files_that_fill_their_pages_leave_room_for_the_manifest(
    tmp_path: Path, stage: Path
) -> None:
    whole = tmp_path / "whole.safetensors"
    whole.write_bytes(weights_of(4 * MIB))
    draft = Draft(str(stage / "m"), str(tmp_path), [HeldFile(str(whole))])
    draft.begin()
    copied(draft)
    draft.publish()
    assert published_copy(stage / "m", tmp_path) is not None


@needs_root
def test_our_own_mount_grows_and_is_known_again(model: Path, stage: Path) -> None:
    assert tmpfs.ensure_tmpfs(str(stage), MIB).is_ours
    (stage / "other").write_bytes(bytes(MIB))
    draft = Draft(str(stage / "m"), str(model), held(model))
    draft.begin()
    copied(draft)
    draft.publish()
    (line,) = mounts(stage)
    assert {"nosuid", "nodev"} <= set(line.split()[5].split(","))
    assert " - tmpfs warmd-stage rw," in line
    tidy(str(stage), {str(stage / "m")})
    assert sorted(os.listdir(stage)) == ["m", "other"]
    tidy(str(stage), set())
    assert os.listdir(stage) == ["other"]
    assert len(mounts(stage)) == 1  # somebody has something in there


def test_a_folder_that_holds_something_or_is_open_to_all_is_not_taken(tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / "file").touch()
    with pytest.raises(HoldError, match=r"isn't empty, and a tmpfs would hide what is in it"):
        tmpfs.ensure_tmpfs(str(stage), MIB)
    (stage / "file").unlink()
    stage.chmod(0o777)
    with pytest.raises(HoldError, match="others may change what is in it"):
        tmpfs.ensure_tmpfs(str(stage), MIB)


AS_SOMEBODY_ELSE = """
import os, sys
from pathlib import Path
from warmd.staging.holder import draft, mapping, tmpfs
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
base = Path(sys.argv[1])
source = base / "model"
source.mkdir()
(source / "w.safetensors").write_bytes(os.urandom(3_000_001))
files = [mapping.HeldFile(str(source / "w.safetensors"))]
made = draft.Draft(str(base / "stage" / "m"), str(source), files)
made.begin()
print(tmpfs.words_of(str(base / 'stage')))
for part in made.copies[0].parts:
    part.run(lambda n: None)
made.publish()
assert (base / "stage/m/w.safetensors").read_bytes() == (source / "w.safetensors").read_bytes()
draft.tidy(str(base / "stage"), set())
assert list((base / "stage").iterdir()) == []
try:
    draft.Draft("/var/stage/m", None, []).begin()
except mapping.HoldError as error:
    print("refused" if "(Permission denied); set staging.tmpfs" in str(error) else error)
"""


def test_without_the_right_to_mount_a_folder_on_a_tmpfs_will_do() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as base:
        if os.geteuid() == 0:
            os.chown(base, 65534, 65534)
        done = subprocess.run(
            [sys.executable, "-c", AS_SOMEBODY_ELSE, base],
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.stdout, done.stderr) == ("tmpfs with small pages\nrefused\n", "")


def cut(model: Path) -> None:
    os.truncate(model / "a.safetensors", MIB)


def grow(model: Path) -> None:
    with (model / "a.safetensors").open("ab") as file:
        file.write(b"more")


def rewrite(model: Path) -> None:
    (model / "a.safetensors").write_bytes(weights_of(9 * MIB + 4097))


@pytest.mark.parametrize(
    ("change", "words"), [(cut, "was truncated"), (grow, "was written to"), (rewrite, "was (w|t)")]
)
@pytest.mark.parametrize("late", [False, True])
def test_a_source_that_changes_meanwhile_is_not_published(
    model: Path, stage: Path, change: object, words: str, late: bool
) -> None:
    draft = Draft(str(stage / "m"), str(model), held(model))
    draft.begin()
    if late:
        copied(draft)
    assert callable(change)
    change(model)
    with pytest.raises(HoldError, match=words):  # noqa: PT012 - at the latest there
        copied(draft)
        draft.publish()
    draft.remove()
    assert not (stage / "m").exists()
    assert mounts(stage) == []


def test_a_copy_that_begins_otherwise_is_not_published(model: Path, stage: Path) -> None:
    draft = Draft(str(stage / "m"), str(model), held(model))
    draft.begin()
    copied(draft)
    os.pwrite(draft.copies[-1].fd, b"!", 12)
    with pytest.raises(HoldError, match=r"a\.safetensors: its copy in RAM begins with other bytes"):
        draft.publish()
    draft.remove()


def test_a_newer_copy_takes_the_place_of_an_older_one(model: Path, stage: Path) -> None:
    for text in ("old", "new"):
        (model / "config.json").write_text(text)
        draft = Draft(str(stage / "m"), str(model), held(model))
        draft.begin()
        copied(draft)
        draft.publish()
        assert (stage / "m" / "config.json").read_text() == text
    assert sorted(os.listdir(stage)) == ["m"]
    assert (stage / "m" / MANIFEST).exists()
    withdraw(str(stage / "m"))


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_somebody_else_keeps_under_the_name_of_a_copy_stays(
    model: Path, stage: Path, tmp_path: Path, kind: str
) -> None:
    tmpfs.ensure_tmpfs(str(stage), MIB)
    mine = stage / "m" if kind == "folder" else tmp_path / "mine"
    mine.mkdir()
    (mine / "model.safetensors").write_text("the only one")
    if kind == "link":
        (mine / MANIFEST).touch()
        (stage / "m").symlink_to(mine)
    with pytest.raises(HoldError, match="something else is there, and no copy takes its place"):
        Draft(str(stage / "m"), str(model), held(model)).begin()
    withdraw(str(stage / "m"))
    tidy(str(stage), set())
    assert os.listdir(stage) == ["m"]
    assert (mine / "model.safetensors").read_text() == "the only one"


def test_what_came_there_meanwhile_stays_too(model: Path, stage: Path) -> None:
    draft = Draft(str(stage / "m"), str(model), held(model))
    draft.begin()
    copied(draft)
    (stage / "m").mkdir()
    (stage / "m" / "file").touch()
    with pytest.raises(HoldError, match="something else is there"):
        draft.publish()
    draft.remove()
    assert [path.name for path in stage.rglob("*")] == ["m", "file"]


def test_a_draft_of_who_lives_is_left_alone(model: Path, stage: Path) -> None:
    draft = Draft(str(stage / "m"), str(model), held(model))
    draft.begin()
    (stage / ".draft-dead.1").mkdir()
    tidy(str(stage), set())
    assert os.listdir(stage) == [f".draft-m.{os.getpid()}"]
    draft.remove()


def test_a_file_where_the_tmpfs_shall_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, why in (("file", "it is no folder"), ("file/below", "Not a directory")):
        with pytest.raises(HoldError, match=f"{path}: .*{why}.*set staging.tmpfs to a folder"):
            tmpfs.ensure_tmpfs(str(tmp_path / path), MIB)
