"""Work that may hang in the kernel, on a thread of its own that nobody has to wait for.

A read from a dead network mount or from a sick driver never comes back; the threads of
`asyncio.to_thread` would then hold up the daemon's end for ever.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

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
