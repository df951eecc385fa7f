"""One model's weights on their way into RAM and held there; the only writer of that state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from warmd.staging import Pace, Request, StagingError, StagingProgress, WeightFiles

_T = TypeVar("_T")

log = logging.getLogger(__name__)

RETRY_S = 30.0
"""How long after a failure staging is tried again; memory that was short may be back by then."""


class Holding(Protocol):
    """Weights that are in RAM and held there."""

    async def lost(self) -> str:
        """Return, with a sentence, when they are no longer held."""

    async def release(self) -> None:
        """Let them go."""


class Stager(Protocol):
    """Brings sets of files into RAM: the stage keeper."""

    async def hold(
        self,
        key: str,
        request: Request,
        pace: Pace,
        on_progress: Callable[[StagingProgress], None],
        on_evicted: Callable[[str], None],
    ) -> Holding:
        """Return when they are resident by measurement; raises `StagingError`."""


@dataclass(frozen=True)
class StagedState:
    """How much of a model's weights is in RAM, in bytes. Times are monotonic seconds."""

    total: int | None = None  # None until the files have been looked at
    done: int = 0
    busy: bool = False
    held: bool = False
    partial: bool = False  # some of it is held, and nobody can hold the rest
    reason: str = ""
    problem: str | None = None
    retry_at: float | None = None


class StagedListener(Protocol):
    """Who hears of changes, at once and in order."""

    def staged_changed(self, staged: StagedWeights, old: StagedState, new: StagedState) -> None:
        """Hear that `staged` went from `old` to `new`."""

    def staging_evicted(self, model: str, sentence: str) -> None:
        """Hear that a part of what is held was pushed out of RAM, and what is known of why."""


class StagedWeights:
    """The weights of one model. The supervisor orders, the listener hears what comes of it."""

    def __init__(
        self,
        model: str,
        scan: Callable[[], WeightFiles],
        stager: Stager,
        clock: Callable[[], float],
        listener: StagedListener,
        *,
        in_thread: Callable[[Callable[[], WeightFiles]], Awaitable[WeightFiles]],
    ) -> None:
        """`in_thread` runs the scan, which may hang on a network mount, beside the event loop."""
        self.model = model
        self.state = StagedState()
        self._scan = scan
        self._stager = stager
        self._clock = clock
        self._listener = listener
        self._in_thread = in_thread
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._release = asyncio.Event()
        self._release_reason = ""
        self._reason = ""
        self._heard = StagingProgress(0, 0, 0)
        self._left = False

    def begin_look(self) -> None:
        """See what files there are now, so that the ledger knows their size."""
        if self._looking is not None:
            self._looking.cancel()  # one that hung on a dead mount would tell of the old files
        self._looking = asyncio.create_task(self._look(), name=f"look at {self.model}")

    async def _look(self) -> None:
        total = 0
        with suppress(Exception):  # staging them will say what is wrong with them
            total = (await self._in_thread(self._scan)).total
        self._become(total=total)

    def refit(self, scan: Callable[[], WeightFiles]) -> None:
        """Let go of what is held: the weights are others now, which `scan` finds."""
        self._scan = scan
        self.begin_release("its weights are others now")
        self.state = replace(self.state, total=None, problem=None, retry_at=None)
        self.begin_look()

    def begin_stage(self, reason: str) -> None:
        """Bring the weights into RAM and hold them. Does nothing where that is under way."""
        if self._task is not None:
            return
        self._reason = reason
        self._become(busy=True, done=0, reason=reason, retry_at=None)
        self._release.clear()
        self._task = asyncio.create_task(self._hold(), name=f"weights of {self.model}")

    def begin_release(self, reason: str) -> None:
        """Let the weights go, or stop bringing them in."""
        if self._task is not None and not self._release.is_set():
            self._release_reason = reason
            self._release.set()

    def begin_leaving(self) -> None:
        """Leave what is held to the next daemon."""
        self._left = True

    async def ended(self) -> None:
        """Return when nothing is held and nothing is being brought in, or it was left."""
        if self._task is not None and not self._left:
            await asyncio.wait([self._task])

    async def _hold(self) -> None:
        holding: Holding | None = None
        problem: str | None = None
        try:
            holding = await self._unless_released(self._bring_in())
            self._brought_in()
            problem = await self._unless_released(holding.lost())
        except _ReleasedError:
            pass
        except StagingError as error:
            problem = str(error)
        except Exception as bug:
            # The disk's lane would be taken for ever.
            log.exception("%s: a fault of warmd's own while its weights were staged", self.model)
            problem = f"a fault of warmd's own ({bug!r}); please report it with the journal"
        if holding is not None:
            try:
                await holding.release()
            except StagingError as error:
                problem = problem or str(error)
        self._task = None
        self._become(
            busy=False,
            held=False,
            partial=False,
            done=0,
            reason=problem or self._release_reason,
            problem=problem,
            retry_at=None if problem is None else self._clock() + RETRY_S,
        )

    async def _bring_in(self) -> Holding:
        # The files are looked at anew: they may have been replaced since the daemon's start.
        weights = await self._in_thread(self._scan)
        self.state = replace(self.state, total=weights.total)
        request = Request(weights.files, weights.total)
        self._heard = StagingProgress(0, 0, 0)
        return await self._stager.hold(
            f"weights:{self.model}", request, Pace(), self._progress, self._evicted
        )

    async def _unless_released(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await `work`, unless the weights are to be let go before."""
        doing = asyncio.create_task(work)
        released = asyncio.create_task(self._release.wait())
        try:
            await asyncio.wait([doing, released], return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            raise _ReleasedError
        finally:
            for task in (doing, released):
                task.cancel()
            await asyncio.gather(doing, released, return_exceptions=True)

    def _progress(self, progress: StagingProgress) -> None:
        self._heard = progress
        if not (self.state.held or self.state.partial):
            # Progress alone is no change that anybody decides upon: it is only shown.
            self.state = replace(self.state, done=progress.done)
        elif (progress.complete, progress.trouble) != (self.state.held, self.state.problem):
            self._brought_in()

    def _brought_in(self) -> None:
        """Tell what is held: all, or what could be read of it."""
        heard = self._heard
        if heard.complete:
            network = "" if heard.network is None else f", read over {heard.network}"
            self._become(
                busy=False,
                held=True,
                partial=False,
                done=self.state.total or 0,
                reason=self._reason + network,
                problem=None,
            )
            return
        problem = heard.trouble or "a part of its files was pushed out of RAM"
        self._become(
            busy=False,
            held=False,
            partial=True,
            done=heard.resident or 0,
            reason=problem,
            problem=problem,
        )

    def _evicted(self, sentence: str) -> None:
        self._listener.staging_evicted(self.model, sentence)

    def _become(self, **changes: object) -> None:
        old = self.state
        self.state = replace(old, **changes)  # type: ignore[arg-type]  # the fields are StagedState's own
        self._listener.staged_changed(self, old, self.state)


class _ReleasedError(Exception):
    """The weights are to be let go."""
