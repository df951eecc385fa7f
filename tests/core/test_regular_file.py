"""Whatever stands where a file of the user's should: nothing waits, and a sentence says it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from warmd.engine import SizingError
from warmd.engine.sizing import read_checkpoint
from warmd.regular_file import open_regular
from warmd.snapshots import SnapshotError, snapshot_of
from warmd.staging import StagingError, expected_digests, weight_files
from warmd.staging.holder.environment import Environment
from warmd.staging.look import measure


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


MAKERS: list[Callable[[Path], object]] = [os.mkfifo, Path.mkdir, a_socket]


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    return Path("odd")


@pytest.mark.parametrize("make", MAKERS)
def test_only_a_regular_file_is_opened(odd: Path, make: Callable[[Path], object]) -> None:
    make(odd)
    with pytest.raises(OSError, match="is no regular file"):
        open_regular(odd)
    assert (measure([odd]).trouble or "").startswith("odd: can't be opened (it is no regular file)")


def test_a_device_is_none_either() -> None:
    with pytest.raises(OSError, match="is no regular file"):
        open_regular(Path("/dev/null"))


def test_no_fifo_in_a_model_s_folder_keeps_anybody(tmp_path: Path) -> None:
    model = tmp_path / "m"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"x")
    files = weight_files(model).files
    for name in ("SHA256SUMS", "config.json"):
        os.mkfifo(model / name)
    with pytest.raises(StagingError, match=r"SHA256SUMS: can't be read .it is no regular file"):
        expected_digests("SHA256SUMS", model, files)
    with pytest.raises(SizingError, match=r"config\.json: can't be read .it is no regular file"):
        read_checkpoint(model)
    (model / "config.json").unlink()
    os.mkfifo(model / "model.safetensors.index.json")
    with pytest.raises(StagingError, match=r"index\.json: .*no regular file"):
        weight_files(model)


def test_a_fifo_as_ref_of_a_cache_entry_is_a_sentence(tmp_path: Path) -> None:
    for folder in ("blobs", "refs", "snapshots/one"):
        (tmp_path / folder).mkdir(parents=True)
    os.mkfifo(tmp_path / "refs/main")
    with pytest.raises(SnapshotError, match=r"refs/main: can't be read .it is no regular file"):
        snapshot_of(tmp_path)


def test_fifos_in_an_environment_are_passed_by(tmp_path: Path) -> None:
    site = tmp_path / "lib/python3.11/site-packages"
    site.mkdir(parents=True)
    os.mkfifo(tmp_path / "pyvenv.cfg")
    os.mkfifo(site / "odd.pth")
    assert Environment(tmp_path / "bin/python").sites == (site,)
