"""Which sets of files were verified, and whether they are the same files still."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

FIRST = "its weights are verified first"

Identity = tuple[tuple[str, int, int, int, int], ...]
"""Of each file: path, device, inode, size, time of the last write."""


def identity_of(files: Iterable[Path]) -> Identity:
    """Return what tells these files from others in their place; raises `OSError`."""
    return tuple(_identity(os.fspath(file)) for file in files)


def _identity(path: str) -> tuple[str, int, int, int, int]:
    status = os.stat(path)  # noqa: PTH116 - a path from the keeper's own list
    return path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Proofs:
    """The sets that were verified since the daemon began, by key."""

    def __init__(self) -> None:
        self._verified: dict[str, Identity] = {}

    def keep(self, key: str, files: Identity) -> None:
        """Note that these files are what they shall be."""
        self._verified[key] = files

    def drop(self, key: str) -> None:
        """Forget that a set was verified."""
        self._verified.pop(key, None)

    def is_of(self, key: str, files: Identity) -> bool:
        """Whether a set was verified and had these very files."""
        return self._verified.get(key) == files

    def doubt(self, key: str, files: Iterable[Path]) -> str | None:
        """Say why the `files` of a set don't count as verified now; None where they do.

        Waits for the disk. The files are those that would be loaded: a download may have made
        others the model's since the set was verified.
        """
        known = self._verified.get(key)
        if known is None:
            return FIRST
        paths = [os.fspath(file) for file in files]
        try:
            if tuple(map(_identity, paths)) == known:
                return None
        except OSError:
            pass
        was = {each[0]: each for each in known}
        for path in (*paths, *was):
            try:
                if _identity(path) == was.get(path):
                    continue
            except OSError:
                pass
            break
        return f"{path} isn't the file any more that was verified: it is verified anew first"
