"""What the daemon asks of the stage keeper, and what it hears of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from warmd.ladder import Place

ENOUGH = 0.99
"""The share of a set's bytes that must be resident for it to count as staged."""


@dataclass(frozen=True)
class Request:
    """A set of files to hold: paths in the order in which a start needs them, and their bytes.

    `limit`: only so many bytes, the first ones; `folder`: where a set in tmpfs is published, with
    the files' names below `root`; `sha256`: what a file must be, in hex, by its path.
    """

    files: tuple[Path, ...]
    total: int
    limit: int | None = None
    place: Place = Place.PAGE_CACHE
    folder: Path | None = None
    root: Path | None = None
    sha256: Mapping[Path, str] = field(default_factory=dict)

    @property
    def held_files(self) -> tuple[Path, ...]:
        """Where the files are that are held: their copies in a tmpfs, else they themselves."""
        if self.folder is None:
            return self.files
        root = self.root
        names = (each.name if root is None else each.relative_to(root) for each in self.files)
        return tuple(self.folder / name for name in names)

    @property
    def wanted(self) -> int:
        """Bytes that shall be held."""
        return self.total if self.limit is None else min(self.total, self.limit)


@dataclass(frozen=True)
class Left:
    """Bytes of RAM that a set takes which an earlier daemon left held, and nobody asked for since.

    `gone`: what of them the kernel no longer counts as available: it is locked, or in a tmpfs.
    """

    taken: int
    gone: int


@dataclass(frozen=True)
class Pace:
    """How hard a set may be brought in. `rate`: bytes a second, only for what isn't urgent."""

    urgent: bool = True
    rate: int | None = None


@dataclass(frozen=True)
class StagingProgress:
    """Bytes read so far, of how many, and how many are resident; None before the measurement.

    `trouble`: why some of the files aren't held though the others are; `paused`: why nothing is
    read for the moment; `network`: the file system, where it is one that is read over a network.
    """

    done: int
    total: int
    resident: int | None
    trouble: str | None = None
    paused: str | None = None
    network: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the files are resident by measurement, as nearly as makes no difference."""
        return self.resident is not None and self.resident >= ENOUGH * self.total
