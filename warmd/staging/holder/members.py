"""The files of one set: what each path leads to now, or why it isn't held.

A part of the stage keeper's program: see `program.py`.
"""

from __future__ import annotations

import os
import time

from .mapping import MAPPINGS, FileError, HeldFile, allowed_mappings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

QUIET_S = 3.0
"""A file that changed is taken anew once two looks so far apart find the same."""

READ_AGAIN_S = 300.0  # a disk that failed to read is asked again so much later


class Member:
    """One path of a set. `held` is None where it leads to nothing that can be held now."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.held: HeldFile | None = None
        self.trouble: str | None = None
        self._seen: tuple[int, ...] | None = None
        self._seen_at = 0.0
        self._read_at = 0.0

    def open(self, limit: int | None) -> None:
        """Take the file as it is now, or the first `limit` bytes of it."""
        try:
            self.held = HeldFile(self.path, limit)
            self.trouble = None
        except FileError as error:
            self.trouble = str(error)
        except OSError as error:
            self.trouble = (
                f"{self.path}: can't be read ({error.strerror}); let the daemon's user read it"
            )

    def check(self) -> None:
        """Drop a file that is no longer the one that was taken."""
        if self.held is not None:
            try:
                self.held.check()
            except FileError as error:
                self.drop(error)

    def drop(self, why: FileError) -> None:
        """Let go of the file; it is taken anew when it is quiet."""
        if self.held is not None:
            self.held.close()
        self.held, self.trouble, self._seen = None, str(why), None

    def unreadable(self, why: FileError) -> None:
        """Keep what could be read of it."""
        self.trouble = str(why)
        self._read_at = time.monotonic() + READ_AGAIN_S

    @property
    def read_due(self) -> bool:
        """Whether a disk that failed is to be asked again."""
        failed = self.held is not None and self.trouble is not None
        return failed and time.monotonic() >= self._read_at

    @property
    def may_read(self) -> bool:
        """Whether bringing it in is worth a try: a disk that failed isn't asked all the time."""
        return self.held is not None and (self.trouble is None or self.read_due)

    def look(self, limit: int | None) -> None:
        """Take a file that is quiet again: two looks have found it the same."""
        if self.held is not None:
            return
        try:
            status = os.stat(self.path)  # noqa: PTH116 - pathlib is left out here
        except OSError:
            self._seen = None
            return
        seen = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        elif now - self._seen_at >= QUIET_S:
            self._seen = None
            self.open(limit)


class Members:
    """All files of a set, in load order, or as many of the first as `limit` bytes allow."""

    def __init__(self, paths: list[str], limit: int | None) -> None:
        self._all = [Member(path) for path in paths]
        self._limit = limit
        self._most = allowed_mappings()
        self._beyond = 0  # files that no mapping is left for

    def open(self) -> None:
        """Take each as it is now."""
        for member, limit in self._with_limits():
            member.open(limit)

    def renew(self) -> None:
        """Drop what has changed, and take what is quiet again."""
        for member, limit in self._with_limits():
            member.check()
            member.look(limit)

    @property
    def files(self) -> list[HeldFile]:
        """What is held."""
        return [member.held for member in self._all if member.held is not None]

    @property
    def to_read(self) -> list[HeldFile]:
        """What is worth bringing in."""
        return [m.held for m in self._all if m.held is not None and m.may_read]

    @property
    def failing(self) -> set[HeldFile]:
        """What the disk failed to read in part."""
        return {m.held for m in self._all if m.held is not None and m.trouble is not None}

    @property
    def read_due(self) -> bool:
        """Whether a disk that failed is to be asked again."""
        return any(member.read_due for member in self._all)

    @property
    def is_unsettled(self) -> bool:
        """Whether a file is to be taken, or read, anew."""
        return any(member.trouble is not None for member in self._all)

    @property
    def trouble(self) -> str | None:
        """The first trouble, and how many more there are."""
        told = [member.trouble for member in self._all if member.trouble is not None]
        if not told and self._beyond:
            return (
                f"the last {self._beyond} of its {len(self._all)} files aren't held: the kernel "
                f"lets a process map {self._most} of them; raise {MAPPINGS} with "
                f"`sysctl -w {MAPPINGS}={_next_size(len(self._all))}`"
            )
        if len(told) > 1:
            return f"{told[0]} (and so with {len(told) - 1} more of its files)"
        return told[0] if told else None

    def failed(self, errors: dict[HeldFile, FileError]) -> None:
        """Take in what a pass over the files has met; a file that it brought in is well again."""
        for member in self._all:
            if member.held is None:
                continue
            error = errors.get(member.held)
            if error is None:
                if member.may_read:
                    member.trouble = None
                member.check()
                continue
            member.check()
            if member.held is not None:
                member.unreadable(error)

    def _with_limits(self) -> Iterator[tuple[Member, int | None]]:
        """Yield each with what is left for it, once the one before has been dealt with."""
        left, mappings = self._limit, 0
        self._beyond = 0
        for at, member in enumerate(self._all):
            if left is not None and left <= 0:
                return
            if self._most is not None and mappings >= self._most:
                self._beyond = len(self._all) - at
                return
            yield member, left
            if member.held is not None:
                mappings += len(member.held.segments)
                if left is not None:
                    left -= member.held.size


def _next_size(files: int) -> int:
    """Return a power of two of mappings that has room for `files` and as many again."""
    return 1 << (2 * files).bit_length()
