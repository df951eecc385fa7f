"""Files compared with the digests that they shall have, from RAM.

A part of the staging program: see `program.py`.
"""

from __future__ import annotations

import os

from .mapping import FileError, HeldFile, HoldError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .filling import Advance

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


class Proof:
    """Which files of a set are what their digests say. What changed is compared anew."""

    def __init__(self, paths: list[str], held: list[str], digests: dict[str, str]) -> None:
        """`paths` as `digests` has them; `held`, in the same order: where their bytes are.

        Digests are hex digits; 64 of SHA-256, 40 of git's own SHA-1 of a blob.
        """
        pairs = zip(paths, held, strict=True)
        self._expected = {copy: (path, digests[path]) for path, copy in pairs if path in digests}
        self._proved: set[HeldFile] = set()

    @property
    def is_asked(self) -> bool:
        """Whether there is any digest."""
        return bool(self._expected)

    def is_whole(self, files: list[HeldFile]) -> bool:
        """Whether all that has a digest is among `files`, and is what it says."""
        held = {file.path: file for file in files}
        return all(held.get(path) in self._proved for path in self._expected)

    def checks(self, files: list[HeldFile]) -> list[Check]:
        """Return what is to be compared still, the largest first: each is one thread's work."""
        self._proved.intersection_update(files)
        new = [f for f in files if f.path in self._expected and f not in self._proved]
        new.sort(key=lambda file: -file.size)
        return [Check(file, *self._expected[file.path], self._proved.add) for file in new]


class Check:
    """Compares a file with the digest that it shall have; `path` is what people call it."""

    def __init__(
        self, file: HeldFile, path: str, expected: str, proved: Callable[[HeldFile], None]
    ) -> None:
        self.file = file
        self._path = path
        self._expected = expected
        self._done = proved

    def run(self, advance: Advance) -> None:
        """Raises `MismatchError` where the digest is another one, `FileError` at a short file."""
        size = self.file.status.st_size  # of one that is held in part, too
        digest = _digest(self._expected, size)
        block = memoryview(bytearray(min(_BLOCK, max(1, size))))
        fd = self.file.reopen()
        try:
            at = 0
            while at < size:
                got = os.preadv(fd, [block[: size - at]], at)
                if not got:
                    raise FileError(f"{self._path}: ended early; download it again")
                digest.update(block[:got])
                at += got
                advance(got)
        except OSError as error:
            raise FileError(
                f"{self._path}: the disk or file system failed to read it ({error.strerror}); "
                "look at the kernel's log"
            ) from None
        finally:
            os.close(fd)
        if (found := digest.hexdigest()) != self._expected:
            self.file.check()
            raise MismatchError(self._path, self._expected, found)
        self._done(self.file)


def _digest(expected: str, size: int) -> Any:
    import hashlib  # noqa: PLC0415 - OpenSSL is megabytes, and few ask for it

    if len(expected) == 64:
        return hashlib.sha256()
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(b"blob %d\0" % size)
    return digest
