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

    def doubt(self, key: str) -> str | None:
        """Say why a set doesn't count as verified now; None where it does. Waits for the disk."""
        known = self._verified.get(key)
        if known is None:
            return FIRST
        for each in known:
            try:
                if _identity(each[0]) == each:
                    continue
            except OSError:
                pass
            return f"{each[0]} isn't the file any more that was verified: it is verified anew first"
        return None
