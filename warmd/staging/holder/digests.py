"""Files compared with the digests that they shall have, from RAM.

A part of the staging program: see `program.py`.
"""

from __future__ import annotations

import os

from .mapping import HoldError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_BLOCK = 4 << 20
_SHOWN = 12  # hex digits tell two files apart


class MismatchError(HoldError):
    """A file isn't what its digest says. `path` names it."""

    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(
            f"{path}: has the digest {found[:_SHOWN]}… where {expected[:_SHOWN]}… is expected; "
            "download it again"
        )
        self.path = path


class Check:
    """A file to be compared; its bytes are read from `where`, a copy of it or itself.

    `expected`: hex digits; 64 of SHA-256, 40 of git's own SHA-1 of a blob.
    """

    def __init__(self, path: str, where: str, size: int, expected: str) -> None:
        self.path = path
        self.length = size
        self._where = where
        self._expected = expected

    def run(self, advance: Callable[[int], None]) -> None:
        """Raise `MismatchError` where the digest is another one, `HoldError` at a short file."""
        digest = _digest(self._expected, self.length)
        block = memoryview(bytearray(min(_BLOCK, max(1, self.length))))
        fd = os.open(self._where, os.O_RDONLY | os.O_CLOEXEC)
        try:
            at = 0
            while at < self.length:
                got = os.preadv(fd, [block[: self.length - at]], at)
                if not got:
                    raise HoldError(f"{self.path}: ended early; download it again")
                digest.update(block[:got])
                at += got
                advance(got)
        finally:
            os.close(fd)
        if (found := digest.hexdigest()) != self._expected:
            raise MismatchError(self.path, self._expected, found)


def _digest(expected: str, size: int) -> Any:
    import hashlib  # noqa: PLC0415 - OpenSSL is megabytes, and few ask for it

    if len(expected) == 64:
        return hashlib.sha256()
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(b"blob %d\0" % size)
    return digest
