"""Files that belong together in RAM, and why they can't be there."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self


class StagingError(Exception):
    """Files can't be staged. The text is one sentence: what, why, what to do."""


class KeeperEndedError(StagingError):
    """The stage keeper has ended, and all that it held is let go.

    `retry_s`: in so many seconds it is worth another try.
    """

    def __init__(self, sentence: str, retry_s: float) -> None:
        super().__init__(sentence)
        self.retry_s = retry_s


@dataclass(frozen=True)
class FileSet:
    """What to stage: files by the paths that lead there, each inode once, in the order in which
    a start reads them, and their bytes.
    """

    files: tuple[Path, ...]
    total: int

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Self:
        """Take those of `paths` that are regular files with something in them; touches them all."""
        sizes: dict[tuple[int, int], tuple[Path, int]] = {}
        for path in paths:
            try:
                status = path.stat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and status.st_size:
                sizes.setdefault((status.st_dev, status.st_ino), (path, status.st_size))
        found = sizes.values()
        return cls(tuple(path for path, _ in found), sum(size for _, size in found))
