"""The watch over the cards: looks at them in a thread, and says whose each process on them is.

One look at a time: a driver that hangs is waited for, and not asked again meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from warmd.aside import Shared, aside
from warmd.devices import (
    GpuError,
    GpuTrouble,
    Survey,
    Sweep,
    conditions,
    driver_log,
    host_sweep,
    owners,
    survey,
    sweep,
)
from warmd.planner import Card
from warmd.replica import FREED_S
from warmd.spoken import duration, size
from warmd.supervisor import Cards, Examination, Look, as_numbered

LOOK_S = 5.0
"""How often the cards are looked at while an engine with a reservation is up.

As often a GPU is looked for where a driver is installed and none works.
"""

EXAMINE_S = 30.0
"""How often it is seen how GPUs fare while models have reservations, engines or not.

No more often: who resets a GPU must find nobody at it. After an engine's failure that is at once.
"""

_DRIVER_S = 10.0
"""How long a look may take before nobody waits for it."""

_POLL_S = 0.25
"""How often it is seen whether an ended engine's memory is back."""

_SURVEY_S = 8.0
"""How long a look for warmctl may take; it gives up after 10 s itself."""

log = logging.getLogger(__name__)


class Watched(Protocol):
    """Who is told what was seen: the one writer of what is known of cards."""

    cards: Cards

    @property
    def engines(self) -> Mapping[int, str]:
        """The main process of each engine that is up, with its replica's name."""

    @property
    def reserves(self) -> bool:
        """Whether any model has a reservation."""

    @property
    def holds_cards(self) -> bool:
        """Whether the cards are looked at though nobody asks."""

    def seen(self, look: Look) -> None:
        """Take what a look found."""


@dataclass(frozen=True)
class Mark:
    """Whose a process is: it stays its engine's when all that is left is its memory.

    `root` is the engine's main process; `started`, in clock ticks after boot, tells the process
    from a later one of its number.
    """

    replica: str
    root: int
    started: int | None  # None: it ended while it was looked at


class GpuWatch:
    """Looks at the cards each `LOOK_S` while that is needed, and whenever somebody asks for it."""

    def __init__(self, watched: Watched, clock: Callable[[], float]) -> None:
        """`clock` tells monotonic seconds."""
        self._watched = watched
        self._clock = clock
        self._marks: Mapping[int, Mark] = {}
        self._asking: list[asyncio.Future[Look]] = []
        self._surveys: Shared[Survey] = Shared()
        self._examined = -math.inf

    async def run(self) -> None:
        """Look until cancelled."""
        cards = self._watched.cards
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await cards.wanted.wait()
            cards.wanted.clear()
            if cards.rules.cards and (self._watched.reserves or self._asking):
                try:
                    await self._look()
                except Exception:
                    # Without a watch no engine with a reservation would ever be started again.
                    log.exception("a fault of warmd's own while it took in what a GPU holds")

    @property
    def _pause(self) -> float | None:
        """Seconds until the next look that nobody asks for; None: there is none."""
        if self._watched.holds_cards:
            return LOOK_S
        on_gpus = self._watched.reserves and not self._watched.cards.on_host
        return EXAMINE_S if on_gpus else None

    async def gives_back(self, replica: str) -> str | None:
        """Wait until nothing of an ended engine holds a GPU; say what does after `FREED_S`.

        None also where nobody can tell: then nothing is started before somebody can.
        """
        cards, kept = self._watched.cards, None
        if cards.on_host or not cards.rules.cards:
            return None  # the kernel takes a process's memory back with it
        with suppress(TimeoutError):
            async with asyncio.timeout(FREED_S):
                while True:
                    look = await self._next_look()
                    labels = {card.key: card.label for card in cards.rules.cards}
                    kept = None if look.sweep is None else _kept(look, look.sweep, replica, labels)
                    if kept is None:
                        return None
                    await asyncio.sleep(_POLL_S)
        return kept

    async def examine(self) -> None:
        """See at once how the GPUs fare; a driver that hangs is waited for in vain."""
        self._watched.cards.to_examine = True
        if self._watched.cards.rules.cards:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SURVEY_S):
                    await self._next_look()

    async def survey(self) -> Survey:
        """Return all about the GPUs, for people. Raises `GpuError`, and `TimeoutError`."""
        found = await self._surveys(partial(survey, dict(self._watched.engines)), _SURVEY_S)
        return as_numbered(found, self._watched.cards.rules.cards)

    async def _next_look(self) -> Look:
        """Return the first look that begins after this."""
        asking: asyncio.Future[Look] = asyncio.get_running_loop().create_future()
        self._asking.append(asking)
        self._watched.cards.wanted.set()
        return await asking

    async def _look(self) -> None:
        asking, self._asking = self._asking, []
        began = self._clock()
        engines, cards = dict(self._watched.engines), self._watched.cards
        due = cards.to_examine or began - self._examined >= EXAMINE_S
        look_now = partial(
            look_at_cards,
            engines,
            self._marks,
            on_host=cards.on_host,
            names=began < cards.named_until,
        )
        fare = examine if due and not cards.on_host else _leave_it
        work = asyncio.ensure_future(aside(lambda: (*look_now(), fare())))
        if due:
            cards.to_examine, self._examined = False, began
        await asyncio.wait([work], timeout=_DRIVER_S)
        if not work.done():
            within = duration(_DRIVER_S)
            why = f"the NVIDIA driver didn't answer within {within}; {_HUNG}"
            self._tell(Look(began, trouble=why), asking)
            await asyncio.wait([work])
        # Late it is as true as its time says: a sick GPU, or many that must wake, are always late.
        look = self._found(work, engines, began)
        cards.to_examine |= due and fare is examine and look.fares is None
        self._tell(look, asking)

    def _tell(self, look: Look, asking: Sequence[asyncio.Future[Look]]) -> None:
        self._watched.seen(look)
        for each in asking:
            if not each.done():
                each.set_result(look)

    def _found(
        self,
        work: asyncio.Future[tuple[Sweep, dict[int, Mark], Examination | None]],
        engines: Mapping[int, str],
        began: float,
    ) -> Look:
        try:
            found, self._marks, fares = work.result()
        except GpuError as error:
            return Look(began, trouble=str(error))
        except Exception as bug:
            log.exception("a fault of warmd's own while it looked at the GPUs")
            why = f"a fault of warmd's own ({bug!r}); please report it with the journal"
            return Look(began, trouble=why)
        ours = {pid: mark.replica for pid, mark in self._marks.items() if _is_up(mark, engines)}
        listed = {
            pid for c in found.cards.values() for pid in (*c.held, *c.unsized, *(c.others or ()))
        }
        who = {pid: _who(pid, self._marks.get(pid)) for pid in listed - ours.keys()}
        return Look(began, found, ours, who, fares=fares)


def look_at_cards(
    engines: Mapping[int, str], marks: Mapping[int, Mark], *, on_host: bool, names: bool = False
) -> tuple[Sweep, dict[int, Mark]]:
    """Sweep the cards and mark the processes of `engines`; raises `GpuError`. Blocks."""
    found = host_sweep(engines, names=names) if on_host else sweep()
    listed = {pid for card in found.cards.values() for pid in (*card.held, *card.unsized)}
    # An engine's marks are kept while it is up, and as long as a card lists the process.
    kept = {p: m for p, m in marks.items() if p in listed or _is_up(m, engines)}
    owned = owners({root: (replica, root) for root, replica in engines.items()})
    for pid in [p for p in kept if p not in owned]:
        if _started(pid) not in (None, kept[pid].started):
            del kept[pid]  # another process has its number now
    for pid, (replica, root) in owned.items():
        if pid not in kept or kept[pid].root != root:
            kept[pid] = Mark(replica, root, _started(pid))
    return found, kept


def examine() -> Examination:
    """See how each GPU fares, and what the kernel's log tells; raises `GpuError`. Blocks."""
    log = driver_log()
    xids = None if log is None else log.xids
    found = conditions(lambda: xids)
    return Examination(found) if log is None else Examination(found, log.loaded)


def _leave_it() -> None:
    """See nothing of it."""


async def await_gpu(
    look: Callable[[], Sequence[Card]], report: Callable[[str], None]
) -> Sequence[Card] | None:
    """Return the GPUs once a driver works; None where none is installed to wait for.

    `look` lists them, or raises `GpuError`; `report` is told, once, that none works yet.
    """
    told = False
    while True:
        try:
            return await aside(look)
        except GpuError as error:
            if error.trouble is GpuTrouble.NO_LIBRARY:
                return None
            if not told:
                each = duration(LOOK_S)
                report(f"no GPU can be used yet: {error}; looked for each {each}")
            told = True
            await asyncio.sleep(LOOK_S)


_HUNG = "nvidia-smi would wait for it as well: look at the kernel's log"


def _is_up(mark: Mark, engines: Mapping[int, str]) -> bool:
    return engines.get(mark.root) == mark.replica


def _started(pid: int) -> int | None:
    """Return when a process started (proc_pid_stat(5)); None where it has ended, or is hidden."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except OSError:
        return None


def _who(pid: int, mark: Mark | None) -> str:
    """Name a process that is of no engine that is up."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        name = ""
    if mark is not None:
        return f"process {pid}, which was {mark.replica} and is {'left over' if name else 'dead'}"
    return f"process {pid} ({name or 'ended, or hidden from warmd'})"


def _kept(look: Look, found: Sweep, replica: str, labels: Mapping[str, str]) -> str | None:
    """Say what the processes of `replica` hold; None where it is nothing."""
    for key, card in found.cards.items():
        pids = [pid for pid, held in card.held.items() if held and look.ours.get(pid) == replica]
        unsized = [pid for pid in card.unsized if look.ours.get(pid) == replica]
        if pids or unsized:
            numbers = ", ".join(str(pid) for pid in sorted((*pids, *unsized)))
            held = "some memory" if unsized else size(sum(card.held[pid] for pid in pids))
            which = "process" if len(pids) + len(unsized) == 1 else "processes"
            where = labels.get(key, f"GPU {key}")
            holds = "holds" if which == "process" else "hold"
            return f"{which} {numbers} still {holds} {held} of {where}"
    return None
