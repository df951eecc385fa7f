"""The daemon's folders: why one can't be had is said of that one."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from warmd.config import Settings
from warmd.folders import Folders, StartUpError


def test_a_folder_that_takes_no_lock_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))  # as NFS does, and names no file

    monkeypatch.setattr(fcntl, "flock", refuse)
    host = {f"{name}_dir": f"{tmp_path}/{name}" for name in ("run", "state", "cache")}
    with pytest.raises(StartUpError, match=f"^{tmp_path}/run can't be .*: No locks available;"):
        Folders(Settings.model_validate({"host": host})).__enter__()
