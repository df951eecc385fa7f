"""Files that belong together in RAM, and why they can't be there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class StagingError(Exception):
    """Files can't be staged. The text is one sentence: what, why, what to do."""


@dataclass(frozen=True)
class FileSet:
    """What to stage: files by the paths that lead there, each inode once, in the order in which
    a start reads them, and their bytes.
    """

    files: tuple[Path, ...]
    total: int
