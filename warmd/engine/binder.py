"""Before each start: what is known of an engine's size, and what binds it to its reservation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from warmd.aside import aside
from warmd.engine.binding import Binding, Reservation, bind, check_room, moved, overheads
from warmd.engine.errors import SizingError
from warmd.engine.sizing import Estimate, Wanted, estimate, read_checkpoint
from warmd.engine.sizing.flags import EngineFlags
from warmd.ladder import MeasuredParts
from warmd.spoken import size

LOOK_S = 10.0
"""How long model files and history are waited for: a disk that hangs holds up no start."""


@dataclass(frozen=True)
class Binder:
    """Binds the engines of one replica. `told` waits for the disk, and may be asked in a thread.

    `kv_set` names what sets the KV cache's size beside the args, if anything does. `tell` is told,
    in a sentence, of a KV cache that has become another.
    """

    replica: str
    reservation: Reservation
    weights: Path
    wanted: Wanted
    kv_set: str | None
    told: Callable[[], MeasuredParts | None]
    tell: Callable[[str], None]

    async def binding(self, *, anew: bool) -> Binding:
        """Say what the next engine is started with; `anew`: it shall measure itself once more.

        Raises `EngineError` where it surely can't live in its reservation.
        """
        try:
            async with asyncio.timeout(LOOK_S):
                binding, told = await aside(partial(self._look, anew=anew))
        except TimeoutError:
            return bind(self.reservation, None)
        was, now = None if told is None else told.kv_cache, binding.kv_cache
        if was is not None and now is not None and moved(was, now):
            self.tell(
                f"{self.replica}: its KV cache gets {size(now)} and had {size(was)} at the last "
                f"start: that is left of its vram of {size(self.reservation.vram)} by what was "
                "measured"
            )
        return binding

    def check(self, told: MeasuredParts | None = None) -> Estimate | None:
        """Estimate an engine of one request at a time, None where that can't be; reads files.

        Raises `EngineError` where an engine surely can't live in its reservation.
        """
        if self.kv_set is None:
            bind(self.reservation, None)
        measured = told is not None and told.weights is not None
        try:
            checkpoint = read_checkpoint(self.weights, headers=not measured)
            alone = estimate(checkpoint, replace(self.wanted, concurrency=1), told)
        except SizingError:
            return None  # vLLM will say what is wrong with them
        flags = EngineFlags.of(self.wanted.args)
        vram, fits = self.reservation.vram, flags.fits_length
        check_room(vram, alone, kv_set=self.kv_set, fits_length=fits)
        return alone

    def _look(self, *, anew: bool) -> tuple[Binding, MeasuredParts | None]:
        told = self.told()
        alone = self.check(told)
        if self.kv_set is not None:
            return Binding(), told  # vLLM takes it over every flag
        flags = EngineFlags.of(self.wanted.args)
        beside = None if anew or told is None else overheads(told, eager=flags.eager)
        request = None
        if alone is not None and not flags.fits_length:
            request = next(part.size for part in alone.parts if part.name == "KV cache")
        return bind(self.reservation, beside, request), told
