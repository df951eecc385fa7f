"""Which snapshot the root of a Hugging Face cache entry stands for."""

from __future__ import annotations

import os
from pathlib import Path

from warmd.regular_file import open_regular


class SnapshotError(Exception):
    """Nobody can tell which snapshot is meant. The text is one sentence: what, why, what to do."""


def snapshot_of(path: Path) -> Path:
    """Return `path` itself, unless it is the root of a cache entry (`models--org--name`).

    That stands for the snapshot that its refs/main names, which may be another one after each
    download, or for the only one there is. Touches the file system. Raises `SnapshotError`.
    """
    snapshots = path / "snapshots"
    try:
        if not (snapshots.is_dir() and (path / "blobs").is_dir()):
            return path
        there = sorted(each.name for each in snapshots.iterdir() if each.is_dir())
        named = _main(path / "refs" / "main")
    except PermissionError as error:
        raise SnapshotError(
            f"{_closed(Path(error.filename))}: can't be entered or listed ({error.strerror}); let "
            "the daemon's user read it"
        ) from None
    except OSError as error:
        raise SnapshotError(
            f"{error.filename}: can't be read ({error.strerror}); let the daemon's user read it"
        ) from None
    if named in there:
        return snapshots / named
    if named is not None:
        raise SnapshotError(
            f"{path}: refs/main names the snapshot {named!r}, which isn't there; "
            "finish the download"
        )
    if len(there) == 1:
        return snapshots / there[0]
    if not there:
        raise SnapshotError(f"{path}: holds no snapshot of the model; download it")
    raise SnapshotError(
        f"{path}: holds {len(there)} snapshots and no refs/main that says which one is meant; "
        f"set `weights` to one of {', '.join(str(snapshots / name) for name in there)}"
    )


def _closed(path: Path) -> Path:
    """Return the uppermost folder above `path` that can't be entered, else `path` itself."""
    for folder in reversed(path.absolute().parents):
        if not os.access(folder, os.X_OK, effective_ids=True):
            return folder
    return path


def _main(ref: Path) -> str | None:
    try:
        with open_regular(ref) as file:
            return file.read(256).decode(errors="replace").strip()
    except FileNotFoundError:
        return None
