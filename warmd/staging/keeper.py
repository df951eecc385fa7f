"""The daemon's side of staging: sets of files, held in RAM by the stage keeper."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from warmd.aside import aside
from warmd.staging.file_set import StagingError
from warmd.staging.holder.manifest import has_copies
from warmd.staging.holding import TRIED_AGAIN_S, Holding
from warmd.staging.link import SOCKET, Link, checked, encoded, find, start
from warmd.staging.request import ENOUGH, Left, Pace, Request, StagingProgress

TRIED_SOON_S = 1.0
"""So long after the first death of a program its sets are asked for again."""

_SOUND_S = 300.0
"""A program that dies within so many seconds of the one before gets no quick try."""

_AT_START_S = 1.0
"""So long a daemon's start waits for the program that an earlier one left; it answers at once."""


def _unheard(_sentence: str) -> None:
    return


class Keeper:
    """Brings sets of files into RAM and keeps them there, by a program of its own.

    The program is started when the first set is to be held, in `run_dir`, and found again there by
    a later daemon. `python` runs it (no packages needed); `interval` is how often, in seconds, it
    measures again and brings back what was evicted; `linger_s`, how long it holds on without a
    daemon; `tmpfs`, where copies are made; `by_unit`: a socket unit listens there, and has the
    program started when somebody connects; `report` hears, in a sentence, of an earlier program
    that had to be ended.
    """

    def __init__(
        self,
        run_dir: Path,
        python: Path | str = sys.executable,
        *,
        interval: float = 30.0,
        linger_s: float = 0.0,
        tmpfs: Path | None = None,
        by_unit: bool = False,
        report: Callable[[str], None] = _unheard,
    ) -> None:
        self._path = run_dir / SOCKET
        self._python = python
        self._interval = interval
        self._linger_s = linger_s
        self._tmpfs = tmpfs
        self._by_unit = by_unit
        self._report = report
        self._opening: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._linking = asyncio.Lock()
        self._link: Link | None = None
        self._reading: asyncio.Task[None] | None = None
        self._holdings: dict[int, Holding] = {}
        self._died = -math.inf  # when a program ended that nobody had asked to
        self._paces: dict[str, Pace] = {}  # as it was last wanted
        self._tidying: asyncio.Task[None] | None = None
        self.left: dict[str, Left] = {}
        """What an earlier daemon left held, by key, until it is asked for or let go."""

    async def open(self) -> None:
        """Connect to the program that an earlier daemon left.

        Start none, but to take away the copies in a tmpfs that a killed one has left. With one that
        doesn't answer soon it goes on beside the caller: what is to be held waits for it.
        """
        opening = asyncio.create_task(self._open(checked(self._path)), name="find stage keeper")
        self._opening = opening
        # One that a unit starts needs a moment, and nobody has to wait for it.
        patience = 0.0 if self._by_unit else _AT_START_S
        done, _ = await asyncio.wait([opening], timeout=patience)
        if done:
            opening.result()
        else:
            opening.add_done_callback(self._opened_late)

    def _opened_late(self, opening: asyncio.Task[None]) -> None:
        if not opening.cancelled() and (error := opening.exception()) is not None:
            self._report(str(error))

    async def _open(self, path: Path) -> None:
        async with self._linking:
            if self._link is None and (link := await find(path, self._report)) is not None:
                self._begin(link)
        if self._link is None and self._tmpfs is not None and await aside(self._has_leftovers):
            await self._linked()

    async def hold(
        self,
        key: str,
        request: Request,
        pace: Pace,
        on_progress: Callable[[StagingProgress], None],
        on_evicted: Callable[[str], None] = lambda _sentence: None,
    ) -> Holding:
        """Bring a set into RAM; return once all of it that can be read is there by measurement.

        What an earlier daemon left and is asked for in the same words is there at once. A file that
        can't be read, or changes, leaves the rest held: see `Holding.trouble`. `on_progress` hears
        of every change also later, until `release`; `on_evicted` hears what pushed a part of it
        out of RAM, once an episode. Raises `StagingError`. A cancelled call lets go of the set
        before it raises.
        """
        self._paces[key] = pace
        number = next(self._numbers)
        order = {"hold": key, "number": number}
        # An engine has ten thousand files: that takes longer than the event loop may.
        line = await aside(lambda: encoded(order | {"request": self._words(request, pace)}))
        link = await self._linked()
        if (hanging := self._hanging(key)) is not None:
            raise StagingError(
                hanging.stopped
                or f"{hanging.name}: process {hanging.pid}, which held its files before, hangs in "
                "the kernel still; look at the disk or network mount"
            )
        holding = Holding(
            key,
            number,
            request,
            interval=self._interval,
            keeper=link.pid,
            send=link.send,
            on_progress=on_progress,
            on_evicted=on_evicted,
        )
        self._holdings[number] = holding
        try:
            link.send_line(line)
            self.left.pop(key, None)
            if self._paces[key] != pace:  # somebody came to need it meanwhile
                holding.pace(self._paces[key])
            await holding.staged()
        except BaseException:
            with contextlib.suppress(StagingError):  # the first trouble is the one to tell
                await holding.release()
            raise
        return holding

    def pace(self, key: str, pace: Pace) -> None:
        """Bring a set in at another pace from now on, also while `hold` waits for it."""
        self._paces[key] = pace
        for holding in self._holdings.values():
            if holding.key == key:
                holding.pace(pace)

    def _hanging(self, key: str) -> Holding | None:
        """Return an order of the same set that was let go and whose process hasn't ended."""
        ending = (each for each in self._holdings.values() if each.is_ending)
        return next((each for each in ending if each.key == key), None)

    async def close(self, *, leave: bool) -> None:
        """Hang up. Where `leave`, the program holds on for a while, else it lets go of all."""
        if self._opening is not None:
            if leave:
                self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.wait([self._tidying])
        if not leave:
            await self._tidy()
        async with self._linking:
            link, self._link = self._link, None
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.wait([self._reading])
            for holding in self._holdings.values():
                holding.leave()
            self._holdings.clear()
            if link is None:
                return
            if leave:
                link.leave()
            else:
                await link.end()
                if not self._by_unit:
                    self._path.unlink(missing_ok=True)

    async def _linked(self) -> Link:
        async with self._linking:
            if self._link is None:
                path = checked(self._path)
                found = await find(path, self._report)
                self._begin(found or await self._started(path))
            assert self._link is not None  # noqa: S101 - it has just begun
            return self._link

    async def _tidy(self, after_s: float = 0.0) -> None:
        """Have the copies taken away that a program left in a tmpfs which was killed."""
        await asyncio.sleep(after_s)
        if self._link is None and self._tmpfs is not None and await aside(self._has_leftovers):
            try:
                await self._linked()
            except StagingError as error:
                self._report(str(error))

    async def _started(self, path: Path) -> Link:
        if not self._by_unit:
            return await start(path, self._python)
        if (link := await find(path, self._report)) is None:
            raise StagingError(
                f"files can't be staged: nobody answers at {path}; `systemctl status "
                "warmd-stage.socket warmd-stage.service` says why"
            )
        return link

    def _has_leftovers(self) -> bool:
        return self._tmpfs is not None and has_copies(os.fspath(self._tmpfs))

    def _begin(self, link: Link) -> None:
        link.send({"linger": self._linger_s})
        if self._tmpfs is not None:
            link.send({"tmpfs": str(self._tmpfs)})
        self._link = link
        self.left = _left(link.holds)
        self._reading = asyncio.create_task(self._read(link), name="stage keeper")

    async def _read(self, link: Link) -> None:
        while (word := await link.hear()) is not None:
            match word:
                case {"number": int(number)} if number in self._holdings:
                    self._holdings[number].hear(word)
                    if "gone" in word or "released" in word:
                        del self._holdings[number]
                case {"key": str(key), "number": 0} if "gone" in word or "released" in word:
                    self.left.pop(key, None)
                case _:
                    pass
        self._link = None
        self.left = {}
        ended, self._holdings = self._holdings, {}  # a set that is asked for from now on is another
        loop = asyncio.get_running_loop()
        died, self._died = self._died, loop.time()
        retry_s = TRIED_SOON_S if self._died - died > _SOUND_S else TRIED_AGAIN_S
        why = f"{await link.how_it_ended()}; it is tried again in {retry_s:g} s"
        for holding in ended.values():
            holding.keeper_ended(why, retry_s)
        # Its copies have outlived it; what is asked for again is found by then.
        self._tidying = asyncio.create_task(self._tidy(2 * retry_s), name="tidy the tmpfs")

    def _words(self, request: Request, pace: Pace) -> dict[str, object]:
        return {
            "files": [str(file) for file in request.files],
            "total": request.wanted,
            "limit": request.limit,
            "enough": ENOUGH,
            "interval": self._interval,
            "place": request.place.value,
            "folder": None if request.folder is None else str(request.folder),
            "root": None if request.root is None else str(request.root),
            "sha256": {str(file): digest for file, digest in request.sha256.items()},
            "urgent": pace.urgent,
            "rate": pace.rate,
        }


def _left(holds: object) -> dict[str, Left]:
    """Take in what a program said that it holds; one of an earlier version doesn't say it."""
    left = {}
    for key, sizes in (holds if isinstance(holds, dict) else {}).items():
        match sizes:
            case [int(taken), int(gone)]:
                left[key] = Left(taken, gone)
            case _:
                pass
    return left
