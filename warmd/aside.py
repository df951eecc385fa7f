"""Work that may hang in the kernel, on a thread of its own that nobody has to wait for.

A read from a dead network mount or from a sick driver never comes back; the threads of
`asyncio.to_thread` would then hold up the daemon's end for ever.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


async def aside(work: Callable[[], _T]) -> _T:
    """Return what `work` returns, or raise what it raises. Cancelled, it leaves `work` behind."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if done.done():
            return  # nobody waits for it any more
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # None only beside an error

    def run() -> None:
        try:
            result, error = work(), None
        except BaseException as raised:  # noqa: BLE001  handed to who waits
            result, error = None, raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            return  # the loop has ended without us

    threading.Thread(target=run, name="aside", daemon=True).start()
    return await done


class Shared(Generic[_T]):
    """Work aside of which one run at a time is enough: who asks meanwhile gets the same answer.

    So a driver that hangs costs one thread, however often somebody asks.
    """

    def __init__(self) -> None:
        self._running: asyncio.Task[_T] | None = None

    async def __call__(self, work: Callable[[], _T], within_s: float) -> _T:
        """Return what `work`, or the run of it that is under way, returns; raise what it raises.

        Raises `TimeoutError` after `within_s` seconds, and leaves it running.
        """
        if self._running is None:
            self._running = asyncio.create_task(aside(work), name="shared look")
            self._running.add_done_callback(self._ended)
        running = self._running
        done, _ = await asyncio.wait([running], timeout=within_s)
        if not done:
            raise TimeoutError
        return running.result()

    def _ended(self, task: asyncio.Task[_T]) -> None:
        self._running = None
        if not task.cancelled():
            task.exception()  # nobody may wait for it any more
