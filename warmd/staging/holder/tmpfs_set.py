"""A set of files that is held as copies in a tmpfs, and what is left of it when it is let go.

A part of the stage keeper's program: see `program.py`.
"""

from __future__ import annotations

import os
import traceback

from .copying import FullError
from .draft import Draft, paths_below, published, tidy, withdraw
from .filling import READ_THREADS
from .mapping import HeldFile, HoldError
from .pressure import amount
from .tmpfs import words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .filling import Job, Pass

COPY_THREADS = READ_THREADS


def mount_of(folder: str) -> str:
    """Return where the tmpfs is, or shall be, that `folder` is published in."""
    return os.path.dirname(folder)


class Copies:
    """The copies of a set's files, and the files that they were made of."""

    def __init__(self, request: dict[str, Any]) -> None:
        """`request`: as in `warmd/staging/keeper.py`."""
        self._folder, self._root = str(request["folder"]), request.get("root")
        self._files: list[str] = request["files"]
        self._limit, self._total = request.get("limit"), int(request.get("total") or 0)
        self._sources: list[HeldFile] = []
        self.paths = paths_below(self._folder, self._root, self._files)

    def bring(self, run: Callable[[Iterable[Job]], Pass]) -> None:
        """Make the copies, by `run`, where they aren't there already; publish them whole.

        Raises `HoldError`, also where only one file fails; then there is no draft any more.
        """
        self._sources = [HeldFile(path) for path in self._files]
        size = sum(file.size for file in self._sources)
        if self._limit is not None and self._limit < size:
            raise HoldError(
                f"{self._folder}: ram.staging has room for {amount(self._limit)} of its "
                f"{amount(size)}, and a part of a model is no use in a tmpfs; raise ram.staging, "
                'or set `stage = "page-cache"` for it'
            )
        if published(self._folder, self._root, self._sources):
            return
        draft = Draft(self._folder, self._root, self._sources)
        try:
            draft.begin()
            work = run(part for copy in draft.copies for part in copy.parts)
            for error in work.failed.values():
                raise error
            draft.publish()
        except FullError:
            raise draft.filled() from None
        finally:
            draft.remove()

    def check(self) -> None:
        """Raise `HoldError` where they are no longer copies of what is there now."""
        for source in self._sources:
            source.check()

    @property
    def words(self) -> str:
        """On what they are, for people."""
        return words_of(mount_of(self._folder))


class Cleaner:
    """A process that takes away what is left of sets in a tmpfs: of much that takes a moment."""

    def __init__(self, mount: str, folder: str | None, keep: set[str]) -> None:
        """`folder`: what is withdrawn; None: all that nobody holds, but the folders to `keep`."""
        self.pid = os.fork()
        if not self.pid:
            try:
                if folder is not None:
                    withdraw(folder)
                    keep = {os.path.join(mount, name) for name in os.listdir(mount)}
                tidy(mount, keep)
            except FileNotFoundError:
                pass
            except BaseException:  # noqa: BLE001 - it must not go on as a second keeper
                traceback.print_exc()
            os._exit(0)
        self.pidfd = os.pidfd_open(self.pid)

    def reap(self) -> None:
        """Wait for its end."""
        os.waitpid(self.pid, 0)
        os.close(self.pidfd)
