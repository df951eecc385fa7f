"""The daemon's side of staging: one holding process for each staged model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from warmd.staging.file_set import StagingError
from warmd.staging.weights import WeightFiles

_PROGRAM = Path(__file__).with_name("process.py")
_ENOUGH = 0.99  # share of the bytes that must be resident
_SILENCE_S = 60.0
"""Without a word for so long the process hangs in a read, as on a dead network mount."""

_END_S = 10.0  # a killed process ends at once, unless a read hangs in the kernel


@dataclass(frozen=True)
class StagingProgress:
    """Bytes read so far, of how many, and how many are resident; None before the measurement."""

    done: int
    total: int
    resident: int | None


class Holding:
    """A model's weights in RAM, held there by a process of their own until `release`.

    The pages are shared page cache and count as RssFile of that process, not of the daemon.
    """

    def __init__(self, name: str, weights: WeightFiles, process: Process) -> None:
        self.name = name
        self.total = weights.total
        self.resident = 0
        self.pid = process.pid
        self._process = process
        self._last_words = ""
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._watch: asyncio.Task[None] | None = None

    async def lost(self) -> str:
        """Wait until the weights are no longer held, and say why in a sentence.

        Never completes after `release`: cancel the wait.
        """
        return await asyncio.shield(self._lost)

    async def release(self) -> None:
        """Let the weights go: ends the process and returns when it is gone. May be repeated.

        Raises `StagingError` where the process hangs in the kernel, as on a dead network mount.
        """
        if self._watch is not None:
            self._watch.cancel()
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        try:
            await asyncio.wait_for(self._process.wait(), _END_S)
        except TimeoutError:
            raise StagingError(
                f"{self.name}: process {self.pid}, which held the weights, was killed but doesn't "
                "end: a read hangs in the kernel; look at the disk or network mount"
            ) from None

    async def _staged(self, request: bytes, on_progress: Callable[[StagingProgress], None]) -> None:
        """Return once the files are measured resident; then watch over them."""
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - it was started with a pipe
        with contextlib.suppress(ConnectionError):  # it died: its output says why
            stdin.write(request)
            await stdin.drain()
        while self.resident < _ENOUGH * self.total:
            try:
                async with asyncio.timeout(_SILENCE_S):
                    report = await self._next()
            except TimeoutError:
                raise StagingError(
                    f"{self.name}: not one byte could be read for {_SILENCE_S:g} s; look at the "
                    "disk or network mount of the weights"
                ) from None
            match report:
                case {"progress": int(done)}:
                    on_progress(StagingProgress(done, self.total, None))
                case {"resident": int(resident), "total": int(total)}:
                    if total != self.total:
                        raise StagingError(
                            f"{self.name}: the weights changed while they were staged; "
                            "wait until the download is finished, then stage again"
                        )
                    self.resident = resident
                    on_progress(StagingProgress(self.total, self.total, resident))
                case _:
                    raise StagingError(f"{self.name}: {await self._end()}")
        self._watch = asyncio.create_task(self._watch_over(), name=f"hold {self.name}")

    async def _watch_over(self) -> None:
        while (report := await self._next()) is not None:
            match report:
                case {"resident": int(resident)}:
                    self.resident = resident
                case _:
                    pass
        sentence = f"{self.name}: {await self._end()}"
        self.resident = 0
        if not self._lost.done():
            self._lost.set_result(sentence)

    async def _next(self) -> dict[str, object] | None:
        """Give the process's next report; None at its end, with its last words kept."""
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - it was started with a pipe
        while line := await stdout.readline():
            try:
                report = json.loads(line)
            except ValueError:
                self._last_words = line.decode(errors="replace").strip()
                continue
            match report:
                case {"error": str(sentence)}:
                    self._last_words = sentence
                case {"unproved": str(sentence)}:
                    self._last_words = (
                        f"{sentence}; let the daemon's user own or write the weights, "
                        "or give it CAP_FOWNER"
                    )
                case _:
                    return dict(report)
        return None

    async def _end(self) -> str:
        status = await self._process.wait()
        if self._last_words:
            return self._last_words
        if status == -signal.SIGKILL:
            how = "was killed by SIGKILL (an operator, or the kernel for want of memory)"
        elif status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        else:
            how = f"exited with status {status}"
        return f"process {self.pid}, which held the weights in RAM, {how}"


class Stager:
    """Brings models' weights into the page cache and keeps them there.

    `python` runs the holding processes (no packages needed); `interval` is how often, in seconds,
    each measures again and brings back what was evicted.
    """

    def __init__(self, python: Path | str = sys.executable, *, interval: float = 30.0) -> None:
        self._python = python
        self._interval = interval

    async def stage(
        self, name: str, weights: WeightFiles, on_progress: Callable[[StagingProgress], None]
    ) -> Holding:
        """Read `weights` into RAM; return once they are resident by measurement (99 %).

        Raises `StagingError`. A cancelled call ends its process before it raises.
        """
        request = {
            "files": [str(file) for file in weights.files],
            "enough": _ENOUGH,
            "interval": self._interval,
        }
        try:
            process = await asyncio.create_subprocess_exec(
                str(self._python),
                *("-I", "-S", "-X", "utf8", str(_PROGRAM), name),
                stdin=PIPE,
                stdout=PIPE,
                stderr=STDOUT,
                start_new_session=True,  # Ctrl-C at the terminal is for the daemon to decide on
                env={key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ},
            )
        except OSError as error:
            raise StagingError(
                f"{name}: the staging process can't be started with {self._python} "
                f"({error.strerror}); repair the Python that runs the daemon"
            ) from None
        holding = Holding(name, weights, process)
        try:
            await holding._staged(json.dumps(request).encode() + b"\n", on_progress)  # noqa: SLF001
        except BaseException:
            with contextlib.suppress(StagingError):  # the first trouble is the one to tell
                await holding.release()
            raise
        return holding
