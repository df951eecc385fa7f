"""One set of files on its way into RAM and held there; the only writer of that state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from warmd.ladder import FileKind
from warmd.staged.finding import PATIENCE_S, Finder, InThread
from warmd.staged.ports import Aim, Holding, Keeper
from warmd.staged.refusal import Refusal
from warmd.staged.state import StagedState
from warmd.staging import (
    FIRST,
    KeeperEndedError,
    MismatchError,
    Pace,
    Proofs,
    Request,
    StagingError,
    StagingProgress,
)
from warmd.staging.holding import TRIED_AGAIN_S
from warmd.staging.proofs import Identity

_T = TypeVar("_T")

log = logging.getLogger(__name__)

RETRY_S = TRIED_AGAIN_S
"""How long after a failure staging is tried again; memory that was short may be back by then."""

SHORT_S = 120.0
"""How long nothing is brought back that was let go for want of memory."""

GROWN_S = 1.0
"""How long is waited for files that grow: a download, or a cache that is being written."""

LOOK_AGAIN_S = 30.0
"""How often it is seen whether other files are meant than those that are held."""


class StagedListener(Protocol):
    """Who hears of changes, at once and in order."""

    def staged_changed(self, staged: StagedFiles, old: StagedState, new: StagedState) -> None:
        """Hear that `staged` went from `old` to `new`."""

    def staging_evicted(self, staged: StagedFiles, sentence: str) -> None:
        """Hear what pushed a part of it out of RAM."""


class StagedFiles:
    """One set of files. The supervisor orders, the listener hears what comes of it."""

    def __init__(
        self,
        key: str,
        kind: FileKind,
        scan: Callable[[], Request],
        keeper: Keeper,
        *,
        clock: Callable[[], float],
        listener: StagedListener,
        in_thread: InThread,
        rate: int | None = None,
        proofs: Proofs | None = None,
        aim: Aim | None = None,
    ) -> None:
        """`scan` finds the files; `in_thread` runs it beside the event loop: mounts may hang.

        `rate`: bytes a second at most while nobody waits for them; `aim` hears, also there, where
        the files of a request are to be read from: its folder in a tmpfs, or where they are.
        """
        self.key = key
        self.kind = kind
        self.state = StagedState(rated=rate is not None)
        self.files: tuple[Path, ...] | None = None  # None until they have been looked at
        self._finder = Finder(f"{key.partition(':')[2]}: its {kind.words}", scan, in_thread)
        self._keeper = keeper
        self._clock = clock
        self._listener = listener
        self._in_thread = in_thread
        self._rate = rate
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._release = asyncio.Event()
        self._release_reason = ""
        self._pause_s: float | None = None
        self._leaves = False
        self._proofs = Proofs() if proofs is None else proofs
        self._aim = aim
        self._files: Identity = ()
        self._digests: Mapping[Path, str] = {}
        self._refused: Refusal | None = None  # until the files change
        self._was_verified = False
        self._request: Request | None = None
        self._tried: tuple[Request, Identity] | None = None  # what was to be staged last
        self._holding: Holding | None = None
        self._known = StagingProgress(0, 0, None)  # what was measured last
        self.pushed = ""  # what pushed a part of it out, as it was told

    @property
    def held_files(self) -> tuple[Path, ...] | None:
        """The files that are held: their copies where there are any."""
        return self.files if self._request is None else self._request.held_files

    @property
    def left(self) -> int:
        """The bytes of it that an earlier daemon left held; 0 once it has been asked for."""
        left = self._keeper.left.get(self.key)
        return 0 if left is None or self.state.taken else left.taken

    def begin_look(self) -> None:
        """See what files there are now, so that the ledger knows their size."""
        if self._looking is not None:
            self._looking.cancel()  # one that hung on a dead mount would tell of the old files
        self._looking = asyncio.create_task(self._look(), name=f"look at {self.key}")

    def look_again(self) -> None:
        """See whether files that couldn't be staged are others now; if so their trouble is over."""
        self.state = replace(self.state, retry_at=self._clock() + RETRY_S)
        self.begin_look()

    async def _look(self) -> None:
        files: tuple[Path, ...] = ()
        found: tuple[Request, Identity] | None = None
        try:
            found = request, _ = await self._finder()
            self.files, total, problem = request.files, request.total, None
            files = request.files
        except StagingError as error:
            total, problem = 0, str(error)
        except Exception as error:  # noqa: BLE001 - staging them will say what is wrong with them
            total, problem = 0, repr(error)
        if self.kind is FileKind.WEIGHTS:
            if found is None or found == self._tried:
                problem = self.state.problem  # they are tried all the same, and that tells
            elif self.state.problem is not None and not self.state.taken:
                self.state = replace(self.state, retry_at=None)
        elif self._request is not None and self._task is not None and self._request.files != files:
            self.begin_release(f"its {self.kind.words} are others now")
        if not self.state.taken:
            self._become(total=total, problem=problem)

    def refit(self, scan: Callable[[], Request]) -> None:
        """Let go of what is held: the files are others now, which `scan` finds."""
        self._finder.use(scan)
        self.begin_release(f"its {self.kind.words} are others now")
        self._proofs.drop(self.key)
        self._refused = None
        self.state = replace(self.state, total=None, problem=None, retry_at=None)
        self._doubt(FIRST)
        self.begin_look()

    def begin_stage(self, reason: str, *, urgent: bool = True, limit: int | None = None) -> None:
        """Bring the files into RAM and hold them. Does nothing where that is under way.

        `limit`: so many bytes of them at most, in load order.
        """
        if self._task is not None:
            return
        self._release.clear()
        self._request = self._tried = None
        self.pushed = ""
        self.state = replace(self.state, took=None)
        self._become(busy=True, done=0, reason=reason, retry_at=None, limit=limit, urgent=urgent)
        self._task = asyncio.create_task(self._hold(), name=self.key)

    def pace(self, *, urgent: bool) -> None:
        """Bring it in at full speed from now on, or in the background."""
        self.state = replace(self.state, urgent=urgent)
        self._keeper.pace(self.key, Pace(urgent, self._rate))

    def begin_release(self, reason: str, *, pause_s: float | None = None) -> None:
        """Let the files go, or stop bringing them in; not again for `pause_s` seconds."""
        if self._task is not None and not self._release.is_set():
            self._release_reason, self._pause_s = reason, pause_s
            self._release.set()

    def forgive(self) -> None:
        """Forget what went wrong: an operator wants another look at the files, and at once."""
        if self._refused is not None:
            self._refused = None
            self._doubt(FIRST)
        if self._task is None:
            self.state = replace(self.state, problem=None, retry_at=None)
        elif self.state.partial and self._known.trouble is not None:
            # What is in RAM of them stays in the page cache while they are looked at anew.
            self.state = replace(self.state, problem=None)
            self.begin_release("its files are looked at anew, for an operator said so")

    def verify_anew(self, why: str) -> None:
        """Hear that engines would load other files than those that were verified."""
        self._doubt(why)
        if not self.state.busy:
            self.begin_release(why)

    def begin_leaving(self) -> None:
        """Forget the files and leave them held: the next daemon finds them."""
        self._leaves = True
        self.begin_release("left for the next daemon")

    async def ended(self) -> None:
        """Return when nothing is held and nothing is being brought in."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _hold(self) -> None:
        holding: Holding | None = None
        problem: str | None = None
        pause_s: float | None = None
        retry_s = RETRY_S
        try:
            began = self._clock()
            holding = await self._unless_released(self._bring_in())
            if self._release.is_set():
                raise _ReleasedError  # at the same moment: other files may be meant already
            if not holding.adopted:
                self.state = replace(self.state, took=self._clock() - began)
            self._holding = holding
            self._prove(holding)
            await self._lead_to(copy=True)
            self._settle()
            problem = await self._unless_released(self._while_held(holding))
        except _ReleasedError:
            pause_s, problem = self._pause_s, None
        except _GrownError:
            pause_s, self._release_reason = GROWN_S, "there are more files than room was found for"
        except _MovedError:
            self._release_reason = f"its {self.kind.words} are others now"
            self._doubt(FIRST)
        except MismatchError as error:
            problem = str(error)
            if not self._release.is_set():
                self._refuse(error)
        except KeeperEndedError as error:
            problem, retry_s = str(error), error.retry_s
        except StagingError as error:
            problem = str(error)
        except Exception as bug:
            # The disk's lane would be taken for ever.
            log.exception("%s: a fault of warmd's own while it was staged", self.key)
            problem = f"a fault of warmd's own ({bug!r}); please report it with the journal"
        self._holding = None
        if holding is not None and not self._leaves:
            trouble = await self._let_go(holding)
            problem = problem or trouble
        self._task = None
        if problem is not None:
            pause_s = retry_s
            problem = self._unsigned(problem)
        self._become(
            busy=False,
            held=False,
            partial=False,
            done=0,
            resident=0,
            limit=None,
            paused=None,
            reason=problem or self._release_reason,
            problem=problem,
            retry_at=None if pause_s is None else self._clock() + pause_s,
        )

    async def _bring_in(self) -> Holding:
        # The files are looked at anew: they may have been replaced since the last look.
        request = await self._look_at()
        self.files = request.files
        limit, planned = self.state.limit, self.state.total or 0
        if limit is not None and request.total <= limit:
            limit = None  # there is less of them by now, and all of it fits
        self.state = replace(self.state, total=request.total, place=request.place, limit=limit)
        if limit is None and planned < request.total:
            raise _GrownError  # room is found for so many anew
        if not request.total:
            raise StagingError(f"{self.key.partition(':')[2]}: there are no files any more")
        pace = Pace(self.state.urgent, self._rate)
        self._request = request = replace(request, limit=limit)
        return await self._keeper.hold(self.key, request, pace, self._progress, self._evicted)

    async def _look_at(self) -> Request:
        """Find the files; raises `MismatchError` where they are those that were refused."""
        self._tried = request, files = await self._finder()
        self._files, self._digests = files, request.sha256
        if self._refused is not None and self._refused.is_of(files, request.sha256):
            raise MismatchError(self._refused.sentence, self._refused.path)
        if not self._proofs.is_of(self.key, files):
            self._doubt(FIRST)
        return request

    async def _while_held(self, holding: Holding) -> str:
        """Return why it is held no longer; raises `_MovedError` where other files are meant now.

        A download may have made another snapshot of a cache entry the one that engines load.
        """
        lost = asyncio.create_task(holding.lost())
        try:
            while not (await asyncio.wait([lost], timeout=LOOK_AGAIN_S))[0]:
                if self.kind is FileKind.WEIGHTS and await self._are_others():
                    raise _MovedError
            return lost.result()
        finally:
            lost.cancel()

    async def _are_others(self) -> bool:
        try:
            request, _ = await self._finder()
        except StagingError:
            return False  # half a download, or a mount that hangs: what is held is worth keeping
        held = self._request
        return held is not None and (request.files, request.sha256) != (held.files, held.sha256)

    async def _let_go(self, holding: Holding) -> str | None:
        """Let go of it whatever goes wrong meanwhile; return what did."""
        trouble: str | None = None
        back: Callable[[], Awaitable[None]] = partial(self._lead_to, copy=False)
        for step in (back, holding.release):
            try:
                await step()
            except StagingError as error:
                trouble = trouble or str(error)
            except Exception as bug:
                log.exception("%s: a fault of warmd's own while it was let go", self.key)
                trouble = f"a fault of warmd's own ({bug!r}); please report it with the journal"
        return trouble

    def _prove(self, holding: Holding) -> None:
        """Take in whether the files are what they shall be."""
        if not self._files:
            return
        self._was_verified = holding.verified
        if holding.verified:
            self._proofs.keep(self.key, self._files)
            self.state = replace(self.state, unverified=None, refused=False)
        else:
            self._doubt("its weights can't be verified as long as not all of them are in RAM")

    def _refuse(self, error: MismatchError) -> None:
        sentence = self._unsigned(str(error))
        self._refused = Refusal(self._files, self._digests, sentence, error.path)
        self._doubt(f"its weights are not what `verify` says: {sentence}", refused=True)

    def _unsigned(self, sentence: str) -> str:
        """Leave the model's name to whoever tells of its weights."""
        name = self.key.partition(":")[2]
        return sentence.removeprefix(f"{name}: ") if self.kind is FileKind.WEIGHTS else sentence

    def _doubt(self, why: str, *, refused: bool = False) -> None:
        self._proofs.drop(self.key)
        self.state = replace(self.state, unverified=why, refused=refused)

    async def _lead_to(self, *, copy: bool) -> None:
        """Have the files read from their copy, or from where they are."""
        aim, request = self._aim, self._request
        if aim is None or request is None or request.folder is None:
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._in_thread(lambda: aim(request, copy))
        except TimeoutError:
            raise StagingError(
                f"{self.key.partition(':')[2]}: the path that its engines read from can't be turned"
                " to its copy or back: look at the disk of [host] cache_dir"
            ) from None

    async def _unless_released(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await `work`, unless the files are to be let go before."""
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
        # Progress alone is no change that anybody decides upon: it is only shown.
        self._known = progress
        self.state = replace(
            self.state,
            done=progress.done,
            resident=progress.resident or 0,
            paused=progress.paused,
        )
        if not self.state.busy and self._task is not None and not self._release.is_set():
            self._settle()
        if self._files and self._holding and self._holding.verified is not self._was_verified:
            self._doubt(FIRST)
            self.begin_release("its files have changed, and are verified anew")

    def _settle(self) -> None:
        """Take in what was measured last."""
        known, state = self._known, self.state
        held = state.limit is None and known.complete
        problem = None if known.trouble is None else self._unsigned(known.trouble)
        if not held and problem is None and state.limit is None:
            problem = self.pushed or "not all of it is in RAM, by measurement"
        # A file that was taken anew may be shorter or longer than it was.
        total = known.total if state.limit is None else state.total
        same = (held, problem, total) == (state.held, state.problem, state.total)
        if not state.busy and same:
            return
        reason = problem or state.reason
        if held:
            reason = state.reason if state.busy else "all of it is in RAM again"
            reason += "" if known.network is None else f", read over {known.network}"
        self._become(
            busy=False,
            held=held,
            partial=not held,
            total=total,
            done=known.done if held else known.resident or 0,
            problem=problem,
            reason=reason,
        )

    def _evicted(self, sentence: str) -> None:
        self.pushed = sentence
        self._listener.staging_evicted(self, sentence)

    def _become(self, **changes: object) -> None:
        old = self.state
        self.state = replace(old, **changes)  # type: ignore[arg-type]  # the fields are StagedState's own
        self._listener.staged_changed(self, old, self.state)


class _ReleasedError(Exception):
    """The files are to be let go."""


class _GrownError(Exception):
    """There are more of them than room was found for."""


class _MovedError(Exception):
    """Other files are meant now."""
