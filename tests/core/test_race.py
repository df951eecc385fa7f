"""Waiting for an engine's answer while it may end, or not be wanted any more."""

from __future__ import annotations

import asyncio

import pytest

from warmd.engine import WarmupError
from warmd.launch import EngineExit
from warmd.replica.race import EngineEndedError, Race


async def test_what_a_cancelled_question_says_does_not_hide_why_the_engine_ended() -> None:
    exited: asyncio.Future[EngineExit] = asyncio.get_running_loop().create_future()

    async def watch() -> EngineExit:
        return await exited

    async def asks() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise WarmupError("its connection broke off") from None

    race = Race(asyncio.create_task(watch()), asyncio.Event(), last_words=0.0)
    asyncio.get_running_loop().call_soon(exited.set_result, EngineExit(1))
    with pytest.raises(EngineEndedError, match="exited with status 1"):
        await race.first(asks())
