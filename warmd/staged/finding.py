"""Which files a set has: found beside the event loop, for a disk or mount may hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from warmd.staging import Request, StagingError, identity_of
from warmd.staging.proofs import Identity

_T = TypeVar("_T")

PATIENCE_S = 60.0
"""A disk or mount that hasn't answered for so long hangs: others must have their turn."""


class InThread(Protocol):
    """Runs what may hang on a dead mount beside the event loop."""

    async def __call__(self, work: Callable[[], _T], /) -> _T:
        """Return what `work` returns, or raise what it raises."""


class Finder:
    """Finds the files of one set. Of looks that hang there is one at most."""

    def __init__(self, words: str, scan: Callable[[], Request], in_thread: InThread) -> None:
        """`words`: the set at the beginning of a sentence; `scan` finds its files."""
        self._words = words
        self._scan = scan
        self._in_thread = in_thread
        self._hung: asyncio.Task[tuple[Request, Identity]] | None = None

    def use(self, scan: Callable[[], Request]) -> None:
        """Find other files from now on, which may be where nothing hangs."""
        self._scan, self._hung = scan, None

    async def __call__(self) -> tuple[Request, Identity]:
        """Return the files, and what tells them from others; raises `StagingError`."""
        scan = self._scan

        def look() -> tuple[Request, Identity]:
            request = scan()
            try:
                return request, identity_of(request.files) if request.sha256 else ()
            except OSError as error:
                raise StagingError(f"{error.filename}: {error.strerror}; restore it") from None

        if self._hung is None or self._hung.done():
            self._hung = None
            looks = asyncio.create_task(self._in_thread(look), name="files of a set")
            looks.add_done_callback(_heard)
            try:
                done, _ = await asyncio.wait([looks], timeout=PATIENCE_S)
            except asyncio.CancelledError:
                looks.cancel()
                raise
            if done:
                return looks.result()
            self._hung = looks
        raise StagingError(
            f"{self._words} haven't answered for {PATIENCE_S:g} s; look at the disk or network "
            "mount that they are on"
        )


def _heard(task: asyncio.Task[Any]) -> None:
    """Nobody may wait for it any more."""
    if not task.cancelled():
        task.exception()
