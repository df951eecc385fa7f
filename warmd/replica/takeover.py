"""Checks an engine that an earlier daemon left, before it is taken over as it is."""

from __future__ import annotations

import asyncio

from warmd.engine.canary import difference
from warmd.engine.errors import EngineError
from warmd.ladder import Phase
from warmd.replica.desk import Desk
from warmd.replica.ports import EngineConnection
from warmd.replica.race import HungError, Race
from warmd.replica.record import EngineRecord
from warmd.spoken import duration


async def check(desk: Desk, record: EngineRecord, connection: EngineConnection, race: Race) -> None:
    """Ask the engine what it is, and take it for ready or asleep.

    Raises `EngineError` where it isn't what it was, `HungError` where it doesn't answer.
    """
    limit = desk.fit.limits.sleep
    try:
        async with asyncio.timeout(limit):
            flaw = await race.first(_flaw(desk, record, connection))
    except TimeoutError:
        raise HungError(f"{_CANNOT}: it did not answer within {duration(limit)}") from None
    if flaw is not None:
        raise EngineError(f"{_CANNOT}: {flaw}")
    desk.version = record.version
    known: dict[str, object] = {
        "canary": record.canary,
        "cycles": record.cycles,
        "first_nap": record.first_nap,
        "last_nap": record.last_nap,
        "ready_at": desk.clock(),
    }
    phase = Phase.ASLEEP if record.sleeps else Phase.READY
    desk.become(phase, "taken over, as an earlier warmd left it", **known)


_CANNOT = "the engine that an earlier warmd left can't be taken over"
_POLL_S = 0.5


async def _flaw(desk: Desk, record: EngineRecord, connection: EngineConnection) -> str | None:
    # A busy host makes an engine miss a probe: only the whole time over it is not well.
    while not await connection.listening():
        await desk.pause(_POLL_S)
    if record.version is not None:
        while (version := await connection.version()) is None:
            await desk.pause(_POLL_S)
        if version != record.version:
            return f"it is vLLM {version} and was {record.version}"
    while not (names := await connection.serves()):
        await desk.pause(_POLL_S)
    if desk.model not in names:
        return f"it serves {', '.join(names)}, not {desk.model}"
    if desk.fit.sleep is not None:
        asleep = await connection.sleeping()
        if asleep != record.sleeps:
            return "it sleeps and was awake" if asleep else "it is awake and was asleep"
    if record.sleeps:
        return None  # its wake will prove it
    if record.canary is None:
        await connection.warm_up()
    else:
        # Only the words: right after a restart of everything its speed would say little.
        return difference(record.canary, await connection.canary(), 0.0)
    return None
