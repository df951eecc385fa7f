"""Measuring an engine, without waiting long for the answer."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from warmd.devices import Footprint
from warmd.replica.ports import Measure
from warmd.replica.race import Race

MEASURE_S = 10.0
"""How long a measurement may take: a sick driver never answers, and a lane waits for it."""


async def measured(measure: Measure, pid: int, race: Race) -> Footprint | None:
    """Measure the engine below `pid`; None where a sick driver or /proc keeps the answer.

    Raises `EngineEndedError` or `CalledOffError` where that comes first.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(MEASURE_S):
            return await race.first(measure(pid))
    return None
