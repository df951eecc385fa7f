"""One model's weights on their way into RAM and held there; the only writer of that state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from warmd.staging import StagingError, StagingProgress, WeightFiles

RETRY_S = 30.0
"""How long after a failure staging is tried again; memory that was short may be back by then."""


class Holding(Protocol):
    """Weights that are in RAM and held there."""

    async def lost(self) -> str:
        """Return, with a sentence, when they are no longer held."""

    async def release(self) -> None:
        """Let them go."""


class Stager(Protocol):
    """Brings files into RAM."""

    async def stage(
        self, name: str, weights: WeightFiles, on_progress: Callable[[StagingProgress], None]
    ) -> Holding:
        """Return when they are resident by measurement; raises `StagingError`."""


@dataclass(frozen=True)
class StagedState:
    """How much of a model's weights is in RAM, in bytes. Times are monotonic seconds."""

    total: int = 0
    done: int = 0
    busy: bool = False
    held: bool = False
    reason: str = ""
    problem: str | None = None
    retry_at: float | None = None


class StagedListener(Protocol):
    """Who hears of changes, at once and in order."""

    def staged_changed(self, staged: StagedWeights, old: StagedState, new: StagedState) -> None:
        """Hear that `staged` went from `old` to `new`."""


class StagedWeights:
    """The weights of one model. The supervisor orders, the listener hears what comes of it."""

    def __init__(
        self,
        model: str,
        scan: Callable[[], WeightFiles],
        stager: Stager,
        clock: Callable[[], float],
        listener: StagedListener,
    ) -> None:
        self.model = model
        self.state = StagedState()
        self._scan = scan
        self._stager = stager
        self._clock = clock
        self._listener = listener
        self._task: asyncio.Task[None] | None = None
        self._release_reason: str | None = None

    def look(self) -> None:
        """See what files there are now, so that the ledger knows their size."""
        try:
            self.state = replace(self.state, total=self._scan().total)
        except StagingError as error:
            self.state = replace(self.state, total=0, problem=str(error))

    def begin_stage(self, reason: str) -> None:
        """Bring the weights into RAM and hold them. Does nothing where that is under way."""
        if self.state.busy or self.state.held or self._task is not None:
            return
        self._become(busy=True, done=0, reason=reason, retry_at=None)
        self._task = asyncio.create_task(self._hold(), name=f"weights of {self.model}")

    def begin_release(self, reason: str) -> None:
        """Let the weights go, or stop bringing them in."""
        if self._task is not None and self._release_reason is None:
            self._release_reason = reason
            self._task.cancel()

    async def ended(self) -> None:
        """Return when nothing is held and nothing is being brought in."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _hold(self) -> None:
        holding: Holding | None = None
        problem: str | None = None
        try:
            # The files are looked at anew: they may have been replaced since the daemon's start.
            weights = await asyncio.to_thread(self._scan)
            self.state = replace(self.state, total=weights.total)
            holding = await self._stager.stage(self.model, weights, self._progress)
            self._become(busy=False, held=True, done=weights.total, problem=None)
            problem = await holding.lost()
        except StagingError as error:
            problem = str(error)
        except asyncio.CancelledError:
            if self._release_reason is None:
                raise
        finally:
            if holding is not None:
                await holding.release()
            self._task = None
        reason, self._release_reason = self._release_reason, None
        if problem is None:
            self._become(busy=False, held=False, done=0, reason=reason or self.state.reason)
            return
        self._become(
            busy=False,
            held=False,
            done=0,
            reason=problem,
            problem=problem,
            retry_at=self._clock() + RETRY_S,
        )

    def _progress(self, progress: StagingProgress) -> None:
        # Progress alone is no change that anybody decides upon: it is only shown.
        self.state = replace(self.state, done=progress.done)

    def _become(self, **changes: object) -> None:
        old = self.state
        self.state = replace(old, **changes)  # type: ignore[arg-type]  # the fields are StagedState's own
        self._listener.staged_changed(self, old, self.state)
