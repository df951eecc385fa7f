"""Reads a config for a daemon that runs: within bounds, whatever a disk does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from warmd.aside import aside
from warmd.calendars import look_up
from warmd.config import Settings
from warmd.fitting import Fitter
from warmd.planner import Reservations
from warmd.reload import KeyChange, applicable
from warmd.spoken import duration

_T = TypeVar("_T")

CONFIG_S = 8.0
"""How long the config may take to be read again: less than warmctl waits, so that it hears why."""


@dataclass(frozen=True)
class Reread:
    """What of a config can be applied, what waits for the next start, and what it reserves."""

    settings: Settings
    later: Sequence[KeyChange]
    reserved: Reservations


async def read_config(read: Callable[[], Settings], now: Settings, fitter: Fitter) -> Reread:
    """Read a config that shall follow on `now`. Raises `ConfigError` where it can't come true.

    That is also where engines that it changes can't live in their vram. Raises `ValueError` where
    a disk keeps it.
    """
    until = asyncio.get_running_loop().time() + CONFIG_S

    def look() -> Reread:
        settings, later = applicable(now, read())
        look_up(settings, time.time())
        return Reread(settings, later, fitter.reserve(settings))

    found = await read_anew(look)
    was, comes = fitter.reserved.models, found.reserved.models
    changed = [
        name
        for name, table in found.settings.models.items()
        if table != now.models.get(name) or was.get(name) != comes.get(name)
    ]
    with suppress(TimeoutError):  # each start looks as well
        async with asyncio.timeout_at(until):
            await aside(partial(fitter.check, found.settings, found.reserved, changed))
    return found


async def read_anew(read: Callable[[], _T]) -> _T:
    """Return what `read` reads, for a daemon that runs. Raises `ValueError` where a disk keeps it.

    What `read` raises is raised.
    """
    try:
        async with asyncio.timeout(CONFIG_S):
            return await aside(read)
    except TimeoutError:
        raise ValueError(
            f"the config could not be read within {duration(CONFIG_S)}: its disk, or that of a "
            "folder which it names, hangs; the running one stays in force"
        ) from None
