"""One set of files that the stage keeper holds, as the daemon sees it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace

from warmd.staging.checksums import MismatchError
from warmd.staging.file_set import KeeperEndedError, StagingError
from warmd.staging.request import Pace, Request, StagingProgress
from warmd.staging.stopped import is_stopped

SILENCE_S = 60.0
"""Without a word for so long a read hangs in the kernel, as on a dead network mount."""

TRIED_AGAIN_S = 30.0
"""So long after a failure staging is tried again: memory that was short may be back by then."""

KILLED = (
    "was killed by SIGKILL (an operator, or the kernel for want of memory: look for the OOM killer "
    "in the kernel's log)"
)

_END_S = 10.0  # a killed process ends at once, unless a read hangs in the kernel

Word = dict[str, object]


def _hear_no_more(_progress: StagingProgress) -> None:
    return


class Holding:
    """A set of files in RAM, held there by a process of the stage keeper until `release`.

    The pages are shared page cache and count as RssFile of that process, not of the daemon.
    `key` names the set, `number` this very order.
    """

    def __init__(
        self,
        key: str,
        number: int,
        request: Request,
        *,
        interval: float,
        keeper: int,
        send: Callable[[Word], None],
        on_progress: Callable[[StagingProgress], None],
        on_evicted: Callable[[str], None],
    ) -> None:
        """`interval`: how often, in seconds, the process says what is resident; `keeper`: the
        stage keeper's pid.
        """
        self.key = key
        self.name = key.partition(":")[2] or key
        self.number = number
        self.state = StagingProgress(0, request.wanted, None)
        self.by = ""
        self.pid = 0
        self.adopted = False
        self.verified = False
        """Whether all that has a digest is what it says."""
        self.mismatch: str | None = None
        """The file that isn't what its digest says."""
        self.is_ending = False
        """Whether it was let go."""
        self._keeper = keeper
        self._send = send
        self._on_progress = on_progress
        self._on_evicted = on_evicted
        self._silence_s = interval + SILENCE_S
        self._last_words = ""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._staged: asyncio.Future[None] = loop.create_future()
        self._lost: asyncio.Future[str] = loop.create_future()
        self._gone = asyncio.Event()  # nothing is held any more
        self._alarm = loop.call_later(SILENCE_S, self._silent)

    @property
    def total(self) -> int:
        """Bytes that are to be held."""
        return self.state.total

    @property
    def resident(self) -> int:
        """Bytes that the last measurement found in RAM."""
        return self.state.resident or 0

    @property
    def trouble(self) -> str | None:
        """Why some of the files aren't held though the others are."""
        return self.state.trouble

    @property
    def complete(self) -> bool:
        """Whether the last measurement found enough (99 %) of it in RAM."""
        return self.state.complete

    async def lost(self) -> str:
        """Wait until the set is no longer held, and say why in a sentence.

        Raises `KeeperEndedError` where the stage keeper has ended. Never completes after
        `release`: cancel the wait.
        """
        return await asyncio.shield(self._lost)

    async def release(self) -> None:
        """Let the set go; returns when its process is gone. May be repeated.

        Raises `StagingError` where the process hangs in the kernel, as on a dead network mount.
        """
        self._alarm.cancel()
        if self._gone.is_set():
            return
        self.is_ending = True
        self._send({"release": self.key, "number": self.number})
        try:
            await asyncio.wait_for(self._gone.wait(), _END_S)
        except TimeoutError:
            raise StagingError(
                self.stopped
                or f"{self.name}: process {self.pid}, which held its files, was killed but doesn't "
                "end: a read hangs in the kernel; look at the disk or network mount"
            ) from None

    @property
    def stopped(self) -> str | None:
        """Say which process was stopped, where that is why nothing is heard."""
        for pid, what in ((self._keeper, "the stage keeper"), (self.pid, "which has its files")):
            if pid and is_stopped(pid):
                return (
                    f"{self.name}: process {pid}, {what}, was stopped by a signal and does "
                    f"nothing; let it go on with `kill -CONT {pid}`"
                )
        return None

    def pace(self, pace: Pace) -> None:
        """Bring it in at another pace from now on; felt within 16 MiB."""
        if not self._gone.is_set():
            self._send({"pace": self.key, "urgent": pace.urgent, "rate": pace.rate})

    # What the connection's reader calls

    async def staged(self) -> None:
        """Return when all that can be read was read and measured; raises `StagingError`."""
        await asyncio.shield(self._staged)

    def hear(self, word: Word) -> None:
        """Take in one word of the process that holds the set."""
        self._listen_on()
        match word:
            case {"progress": int(done)}:
                self._become(done=done)
            case {"resident": int(resident), "total": int(total), "by": str(by), **more}:
                self.by, self.verified = by, more.get("verified") is True
                network = more.get("network")
                self._measured(resident, total, network if isinstance(network, str) else None)
            case {"trouble": str(trouble)}:
                self._become(trouble=f"{self.name}: {trouble}")
            case {"trouble": None}:  # told with the measurement that follows: the last one is old
                self.state = replace(self.state, trouble=None)
            case {"paused": str() | None as paused}:
                self._become(paused=paused)
            case {"evicted": int(), "sentence": str(sentence)}:
                self._on_evicted(sentence)
            case {"error": str(sentence), "mismatch": str(path)}:
                self._last_words, self.mismatch = sentence, path
            case {"error": str(sentence)}:
                self._last_words = sentence
            case {"unproved": str(sentence)}:
                self._last_words = (
                    f"{sentence}; let the daemon's user own or write the files, "
                    "or give it CAP_FOWNER"
                )
            case {"pid": int(pid), "adopted": bool(adopted)}:
                self.pid, self.adopted = pid, adopted
            case {"gone": int(status), "words": str(words)}:
                self.end(self._last_words or words.strip() or self._how(status))
            case {"released": True}:
                self.leave()
            case _:
                pass  # a later keeper's word that nobody here needs

    def leave(self) -> None:
        """Hear that nobody listens any more: the keeper goes on without us, or has ended."""
        self._alarm.cancel()
        self._gone.set()

    def keeper_ended(self, why: str, retry_s: float) -> None:
        """Hear that the stage keeper has ended; it is worth another try in `retry_s` seconds."""
        self.leave()
        self.state = replace(self.state, resident=0)
        error = KeeperEndedError(f"{self.name}: {why}", retry_s)
        for hears in (self._staged, self._lost):
            if not hears.done():
                hears.set_exception(error)
                hears.exception()  # it may be that nobody waits any more
                break

    def end(self, why: str) -> None:
        """Hear that nothing is held any more."""
        self.leave()
        self.state = replace(self.state, resident=0)
        sentence = f"{self.name}: {why}"
        if not self._staged.done():
            self._fail(sentence)
        elif not self._lost.done():
            self._lost.set_result(sentence)

    def _measured(self, resident: int, total: int, network: str | None) -> None:
        if not self._staged.done() and total != self.total:
            self._fail(
                f"{self.name}: the files changed while they were staged; "
                "wait until the download is finished, then stage again"
            )
            return
        self._become(done=total, total=total, resident=resident, network=network)
        if not self._staged.done():
            self._staged.set_result(None)

    def _become(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]  # its own fields
        try:
            self._on_progress(self.state)
        except BaseException as error:  # noqa: BLE001 - the reader serves other sets too
            self._on_progress = _hear_no_more
            if not self._staged.done():
                self._staged.set_exception(error)
                self._staged.exception()
            elif not self._lost.done():
                self._lost.set_result(f"{self.name}: a fault of warmd's own ({error!r})")

    def _fail(self, sentence: str) -> None:
        error = StagingError(sentence)
        if self.mismatch is not None:
            error = MismatchError(sentence, self.mismatch)
        self._staged.set_exception(error)
        self._staged.exception()  # it may be that nobody waits any more

    def _listen_on(self) -> None:
        self._alarm.cancel()
        if not self._gone.is_set():
            patience = self._silence_s if self._staged.done() else SILENCE_S
            self._alarm = self._loop.call_later(patience, self._silent)

    def _silent(self) -> None:
        if not self._staged.done():
            self._fail(
                self.stopped
                or f"{self.name}: not one byte could be read for {SILENCE_S:g} s; look at the "
                "disk or network mount of its files"
            )
        elif not self._lost.done():
            self._lost.set_result(
                self.stopped
                or f"{self.name}: process {self.pid}, which holds its files, says nothing any "
                "more: a read hangs in the kernel; look at the disk or network mount"
            )

    def _how(self, status: int) -> str:
        if status == -signal.SIGKILL:
            how = KILLED
        elif status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        else:
            how = f"exited with status {status}"
        return (
            f"process {self.pid}, which held its files in RAM, {how}; "
            f"it is tried again in {TRIED_AGAIN_S:g} s"
        )
