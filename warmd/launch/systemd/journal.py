"""The engines' output, read from the journal: one `journalctl` that follows all of them."""

from __future__ import annotations

import asyncio
import os
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from warmd.launch.launcher import LogLine
from warmd.launch.systemd.entries import FIELDS, UNIT_ENDED, Entry, read_entry

_TURN = 64 * 1024
_LONGEST = 8 << 20
"""Bytes of one entry; a longer one, which no line of output makes, is passed over."""

_AGAIN_S = 1.0
"""After how long a journalctl that ended is started anew, behind what was read."""

_KEPT = 1000
"""Entries kept of engines that nobody has claimed yet: systemd's answer may come after them."""

_LAST_WORDS_S = 1.0
"""How long the last lines of an ended engine are waited for."""

_QUIET_S = 0.02
"""Without a line for so long after the end, there are none: they take milliseconds."""

_SLICE = "warmd-engine.slice"


class Journal:
    """Hands each engine's lines to whoever has claimed it."""

    def __init__(self, report: Callable[[str], None]) -> None:
        """`report` is told, in a sentence, where the journal can't be read; once until it can."""
        self._report = report
        self._told = False
        self._is_blind = False
        self._claims: dict[str, _Claim] = {}
        self._unclaimed: deque[Entry] = deque(maxlen=_KEPT)
        self._task: asyncio.Task[None] | None = None
        self._cursor: str | None = None
        self._since = 0.0

    def open(self) -> None:
        """Follow from now on."""
        if self._task is None:
            self._since = time.time()
            self._task = asyncio.create_task(self._follow(), name="journal of engines")

    async def close(self) -> None:
        """End the follower."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def claim(self, invocation: str, on_line: LogLine) -> None:
        """Hand on what this engine has printed since we follow, and prints."""
        claim = self._claims[invocation] = _Claim(on_line)
        waiting, self._unclaimed = self._unclaimed, deque(maxlen=_KEPT)
        for entry in waiting:
            if entry.invocation == invocation:
                claim.take(entry)
            else:
                self._unclaimed.append(entry)

    def release(self, invocation: str) -> None:
        """Hand on no more of it."""
        self._claims.pop(invocation, None)

    async def last_words(self, invocation: str) -> None:
        """Return once an engine that has ended has said all, or nobody can tell any more."""
        claim = self._claims.get(invocation)
        if claim is None or self._is_blind:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await claim.ended.wait()
                while True:
                    heard_at = claim.heard_at
                    await asyncio.sleep(_QUIET_S)
                    if claim.heard_at == heard_at:
                        return

    async def _follow(self) -> None:
        while True:
            began = time.monotonic()
            try:
                why = await self._run()
            except OSError as error:
                why = f"journalctl can't be started ({error.strerror})"
            self._is_blind = True
            # One that could read was ended by somebody, as by `systemctl kill warmd`: no trouble.
            if time.monotonic() - began < _AGAIN_S:
                self._trouble(why)
            else:
                self._told = False
            await asyncio.sleep(_AGAIN_S)

    async def _run(self) -> str:
        """Follow until journalctl ends; say why it did."""
        behind = self._cursor
        process = await asyncio.create_subprocess_exec(
            "journalctl",
            *("--follow", "--all", "--quiet", "--lines=all", "--output=json"),
            f"--output-fields={','.join(FIELDS)}",
            f"--since=@{self._since:.6f}" if behind is None else f"--after-cursor={behind}",
            *(f"_SYSTEMD_SLICE={_SLICE}", "+"),
            *("_PID=1", *(f"MESSAGE_ID={each}" for each in UNIT_ENDED)),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            # Neither the libraries of the daemon's Python nor what systemd gave to the daemon.
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
            limit=_TURN,
            start_new_session=True,
        )
        assert process.stdout is not None  # noqa: S101  both are pipes
        assert process.stderr is not None  # noqa: S101
        said = asyncio.create_task(self._listen(process.stderr), name="journalctl's errors")
        try:
            await self._read(process.stdout)
            why = await said
        finally:
            said.cancel()
            with suppress(ProcessLookupError):
                process.kill()
            status = await process.wait()
        return why or f"journalctl ended with status {status}"

    async def _read(self, stream: asyncio.StreamReader) -> None:
        unfinished = b""
        while chunk := await stream.read(_TURN):
            *lines, unfinished = (unfinished + chunk).split(b"\n")
            for line in lines:
                # A line that is cut, or that no journalctl of today would print, is passed over.
                with suppress(ValueError, KeyError, TypeError):
                    self._cursor, entry = read_entry(line)
                    if entry is not None:
                        self._take(entry)
            unfinished = unfinished[-1:] if len(unfinished) > _LONGEST else unfinished

    async def _listen(self, stream: asyncio.StreamReader) -> str:
        last = ""
        while line := await stream.readline():
            last = line.decode("utf-8", "replace").strip() or last
        return last

    def _take(self, entry: Entry) -> None:
        self._is_blind = False
        claim = self._claims.get(entry.invocation)
        if claim is None:
            self._unclaimed.append(entry)
        else:
            claim.take(entry)

    def _trouble(self, why: str) -> None:
        if not self._told:
            self._told = True
            self._report(
                f"the engines' output can't be read from the journal: {why}; is warmd's user in "
                "the group systemd-journal? Stages of starts and reasons of failures are missing "
                "until it can"
            )


class _Claim:
    def __init__(self, on_line: LogLine) -> None:
        self._on_line = on_line
        self._goes_on = False
        self.ended = asyncio.Event()
        self.heard_at = 0.0

    def take(self, entry: Entry) -> None:
        self.heard_at = time.monotonic()
        if entry.is_end:
            self.ended.set()
            return
        # Of a line that the journal has cut into entries, the first one is enough.
        lines = entry.lines[1:] if self._goes_on else entry.lines
        self._goes_on = entry.goes_on
        for line in lines:
            self._on_line(entry.at, line)
