"""Waiting for something of an engine that may end, or be called off, before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from warmd.launch import EngineExit

_T = TypeVar("_T")


class CalledOffError(Exception):
    """What was under way is no longer wanted."""


class HungError(Exception):
    """The engine lives and stands still. The text is a sentence."""


class EngineEndedError(Exception):
    """The engine ended though nobody asked it to: a failure, whatever its exit status."""

    def __init__(self, ending: EngineExit) -> None:
        super().__init__(ending.sentence)
        self.exit = ending


class Race:
    """Awaits work on one engine. `exit_watch` ends with it, `call_off` where nobody wants it.

    `last_words`: how long, in seconds, an engine that broke its connection is given to show that
    it has ended: why it died says more.
    """

    def __init__(
        self, exit_watch: asyncio.Task[EngineExit], call_off: asyncio.Event, last_words: float
    ) -> None:
        self.exit_watch = exit_watch
        self._call_off = call_off
        self._last_words = last_words

    async def first(self, work: Awaitable[_T], *, may_be_called_off: bool = True) -> _T:
        """Return what `work` does; raises `EngineEndedError` or `CalledOffError` before that."""
        task = asyncio.ensure_future(work)
        called_off = asyncio.create_task(self._call_off.wait())
        rivals: set[asyncio.Future[object]] = {task, self.exit_watch}  # type: ignore[arg-type]  # Future is invariant, wait() only looks
        if may_be_called_off:
            rivals.add(called_off)  # type: ignore[arg-type]  # as above
        try:
            await asyncio.wait(rivals, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not task.cancelled() and task.exception() is not None:
                await asyncio.wait([self.exit_watch], timeout=self._last_words)
            if self.exit_watch.done():
                raise EngineEndedError(self.exit_watch.result())
            if may_be_called_off and called_off.done():
                raise CalledOffError
            return await task
        finally:
            for loser in (task, called_off):
                loser.cancel()
            # Whatever it says on its way out, the winner has spoken.
            await asyncio.gather(task, called_off, return_exceptions=True)
