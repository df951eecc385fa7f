"""Work that hangs in a thread, and who waits for it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from warmd.aside import Shared


async def test_whoever_asks_a_hung_driver_costs_no_further_thread() -> None:
    go_on = threading.Event()
    runs: list[int] = []

    def look() -> int:
        runs.append(threading.get_ident())
        go_on.wait(10)
        if len(runs) == 2:
            raise ValueError("gone")
        return len(runs)

    shared: Shared[int] = Shared()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await shared(look, 0.02)
    both = asyncio.gather(shared(look, 10), shared(look, 10))
    await asyncio.sleep(0)
    go_on.set()
    assert list(await both) == [1, 1]
    assert len(runs) == 1
    with pytest.raises(ValueError, match="gone"):
        await shared(look, 10)
    assert await shared(look, 10) == 3, "after a failure it is asked anew"


async def test_a_failure_that_nobody_waits_for_is_no_complaint() -> None:
    go_on = threading.Event()

    def look() -> int:
        go_on.wait(10)
        raise ValueError("late")

    shared: Shared[int] = Shared()
    with pytest.raises(TimeoutError):
        await shared(look, 0.01)
    go_on.set()
    for _ in range(500):
        if not any(task.get_name() == "shared look" for task in asyncio.all_tasks()):
            break
        await asyncio.sleep(0.01)
    assert await asyncio.wait_for(shared(lambda: 7, 10), 10) == 7
