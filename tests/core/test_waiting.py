"""What becomes of a request that finds no ready replica: how many, how long, what is said."""

from __future__ import annotations

import asyncio

import pytest
from rig import House

from warmd.ladder import Phase, QueueFullError
from warmd.supervisor import Known


async def test_one_more_than_may_wait_is_refused_and_no_other_notices() -> None:
    house = House("m")
    house.supervisor.succession.restore("m", Known(starts=[40.0]))
    house.supervisor.adopt("m", house.terms("m", max_waiting=2))
    held = [asyncio.create_task(house.supervisor.acquire("m")) for _ in range(2)]
    await house.until(lambda: house.phase("m.0") is Phase.STARTING)
    said = "^2 requests wait for m already, as many as may: m is starting"
    with pytest.raises(QueueFullError, match=said) as full:
        await house.supervisor.acquire("m")
    assert full.value.retry_after_s == 40
    held.pop().cancel()
    await house.rest()
    held.append(asyncio.create_task(house.supervisor.acquire("m")))
    await house.make_ready("m.0")
    assert [lease.replica for lease in await asyncio.gather(*held)] == ["m.0"] * 2
