"""What is noted of an engine for a daemon that comes later, where there is no room left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmd.engine.note import read_note, write_note


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few pages."""
    if os.geteuid():
        pytest.skip("only root can mount a tmpfs")
    mounted = tmp_path / "run"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as filler:
        os.posix_fallocate(filler.fileno(), 0, os.statvfs(folder).f_bavail * 4096)
    assert os.statvfs(folder).f_bavail == 0


def test_on_a_full_file_system_the_note_that_is_there_is_written_over(small: Path) -> None:
    note = small / "m.0.note.json"
    write_note(note, {"phase": "warming", "more": "x" * 500})
    fill(small)
    write_note(note, {"phase": "ready"})
    assert read_note(note) == {"phase": "ready"}
    assert sorted(each.name for each in small.iterdir()) == ["filler", "m.0.note.json"]


def test_where_none_is_there_it_says_so_and_leaves_nothing_behind(small: Path) -> None:
    fill(small)
    with pytest.raises(OSError, match="No space left"):
        write_note(small / "m.0.note.json", {"phase": "ready"})
    assert [each.name for each in small.iterdir()] == ["filler"]
