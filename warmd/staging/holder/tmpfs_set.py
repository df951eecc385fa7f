"""A set of files that is held as copies in a tmpfs, and what is left of it when it is let go.

A part of the stage keeper's program: see `program.py`.
"""

from __future__ import annotations

import os
import traceback

from .copying import FullError, bring_over
from .draft import Draft, published, tidy, withdraw
from .filling import READ_THREADS
from .mapping import HeldFile, HoldError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .copying import Part
    from .filling import Advance, Job

COPY_THREADS = READ_THREADS


def mount_of(folder: str) -> str:
    """Return where the tmpfs is, or shall be, that `folder` is published in."""
    return os.path.dirname(folder)


def copies_in_tmpfs(
    request: dict[str, Any], sources: list[HeldFile], run: Callable[[Iterable[Job]], None]
) -> list[HeldFile]:
    """Return the copies of `sources` in the order of these; made now where they aren't there.

    Raises `HoldError`, and then there is no draft any more.
    """
    folder, root = str(request["folder"]), request.get("root")
    total, limit = sum(file.size for file in sources), request.get("limit")
    if limit is not None and limit < total:
        raise HoldError(
            f"{folder}: a part of a model is no use in a tmpfs; raise ram.staging, or set "
            '`stage = "page-cache"` for it'
        )
    paths = published(folder, root, sources)
    if paths is None:
        draft = Draft(folder, root, sources)
        try:
            draft.begin()
            parts = [part for copy in draft.copies for part in copy.parts]
            run(_job(part) for part in parts)
            paths = draft.publish()
        except FullError:
            raise draft.filled() from None
        finally:
            draft.remove()
    return [HeldFile(path) for path in paths]


def _job(part: Part) -> Job:
    def job(advance: Advance) -> None:
        bring_over(part, advance)

    return job


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
