"""What is said of a cache entry that can't be looked into."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from warmd.snapshots import SnapshotError, snapshot_of


def test_the_folder_that_is_closed_is_named_and_not_one_that_may_not_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "m"  # root, who may run this, is refused nowhere: the kernel is played

    def refused(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def access(path: Path, mode: int, *, effective_ids: bool) -> bool:
        return mode == os.X_OK and effective_ids and not path.is_relative_to(closed)

    monkeypatch.setattr(Path, "is_dir", refused)
    monkeypatch.setattr(os, "access", access)
    with pytest.raises(SnapshotError) as told:
        snapshot_of(closed / "models--a--b")
    assert str(told.value) == (
        f"{closed}: can't be entered or listed (Permission denied); let the daemon's user read it"
    )
