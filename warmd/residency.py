"""What of each set of files is in RAM at this moment: asked of the kernel, never remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from warmd.aside import Shared
from warmd.staging.look import Measured, measure

WITHIN_S = 5.0
"""A disk that doesn't answer for so long hangs."""

_AT_A_TIME = 8


@dataclass(frozen=True)
class KnownSet:
    """A set of files as the daemon knows it; sizes in bytes.

    `models` need it: program files are shared. `state` is `held`, `staging`, `partial` (a part is
    held) or `not held`; `held`: what a process keeps in RAM; `files` are None where they have not
    been looked for yet.
    """

    key: str
    models: tuple[str, ...]
    kind: str
    files: tuple[Path, ...] | None
    state: str = "not held"
    held: int = 0
    place: str = "page-cache"
    problem: str | None = None


@dataclass(frozen=True)
class SetInRam:
    """A known set, and what was measured of it; None where its files are not known yet."""

    known: KnownSet
    measured: Measured | None


class Residency:
    """Measures in threads: a set at a time by one thread only, however often it is asked for."""

    def __init__(self, sets: Callable[[], Sequence[KnownSet]]) -> None:
        """`sets` tells what there is at the moment."""
        self._sets = sets
        self._looks: dict[str, Shared[Measured]] = {}
        self._at_a_time = asyncio.Semaphore(_AT_A_TIME)

    async def measure(self, model: str | None = None) -> list[SetInRam]:
        """Measure all sets, or those that `model` needs; a disk that hangs is said to hang."""
        sets = [each for each in self._sets() if model is None or model in each.models]
        if model is None:
            kept = {each.key for each in sets}
            self._looks = {key: look for key, look in self._looks.items() if key in kept}
        return list(await asyncio.gather(*(self._measured(each) for each in sets)))

    async def _measured(self, known: KnownSet) -> SetInRam:
        if known.files is None:
            return SetInRam(known, None)
        look = self._looks.setdefault(known.key, Shared())
        async with self._at_a_time:
            try:
                found = await look(partial(measure, known.files), WITHIN_S)
            except TimeoutError:
                found = Measured(
                    resident=None,
                    trouble=f"its files haven't answered for {WITHIN_S:g} s: look at their disk or "
                    "network mount",
                )
        return SetInRam(known, found)
