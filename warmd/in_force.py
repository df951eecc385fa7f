"""The config in force: what follows from it, and the only way to another one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from warmd.aside import aside
from warmd.config import Settings, load
from warmd.devices import GpuError, inventory
from warmd.fitting import Fitter
from warmd.foresight import Foresight, foresee
from warmd.history import History
from warmd.message_ids import MessageId
from warmd.parties import Party, cold_presence, party_of
from warmd.placing import ROSTER_FILE, naming, renumbered
from warmd.planner import Card, Reservations
from warmd.reload import Change, changes, said
from warmd.rereading import read_config
from warmd.roster import forget, write
from warmd.supervisor import Known, Supervisor, Terms
from warmd.timeline import WEEK_S, Agenda, Timeline, foretell
from warmd.wiring import card_rules, known_of, names_of, rules

_DRIVER_S = 8.0
"""How long the driver may take to list the GPUs: less than warmctl waits."""

log = logging.getLogger(__name__)

_NOBODY: Mapping[str, Known] = {}


class InForce:
    """The settings that hold now, and what they made of pools and models.

    Who holds `changing` may change them.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings],
        fitter: Fitter,
        reloading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`load` reads the config once more; it raises `ConfigError`.

        `reloading` is entered while a config is read and applied.
        """
        self._reloading = reloading
        self.settings = settings
        self.changing = asyncio.Lock()
        self._told_late: frozenset[str] = frozenset()
        self.stopped = False
        self._load = load
        self._fitter = fitter
        self._supervisor: Supervisor
        self._history: History

    def begin(self, supervisor: Supervisor, history: History, warn: Callable[[str], None]) -> None:
        """Hand every model over, with what is known of it from earlier lives."""
        self._supervisor, self._history = supervisor, history
        self._set_rules(self.settings, self._fitter.reserved)
        for name, known in known_of(history, self.settings.models, warn).items():
            self._adopt(self.settings, name, known)

    def _set_rules(self, settings: Settings, reserved: Reservations) -> None:
        self._supervisor.rules = rules(settings, reserved)
        self._supervisor.cards.fit(card_rules(settings, self._fitter))

    def _adopt(self, settings: Settings, name: str, known: Known) -> None:
        """Hand a model over; a new one with what was known of it."""
        new = name not in self._supervisor.models
        self._supervisor.adopt(name, self._fitter.terms(settings, name))
        if new:
            self._supervisor.succession.restore(name, known)

    async def reload(self) -> list[str]:
        """Read the config again and apply what can be applied; return what changes, in sentences.

        Raises `ConfigError`, and then the running config stays in force; `ValueError` with a
        sentence while warmd stops, and where a disk keeps the config.
        """
        async with self.changing:  # in the order in which they were asked for
            with self._reloading():
                told = await self._reread()
        for sentence in told or ["the config was read again and nothing has changed"]:
            log.info("%s", sentence, extra=MessageId.CONFIG_READ.about(reason=sentence))
        return told

    async def _reread(self) -> list[str]:
        read = await read_config(self._load, self.settings, self._fitter)
        settings, later, reserved = read.settings, read.later, read.reserved
        told = [said(later)] if later else []
        told += await self._apply(settings, reserved, self._fitter.cards)
        return [*told, *(f"warning: {each}" for each in await self.late(time.time()))]

    async def forget_gpu(self, name: str) -> list[str]:
        """Do without a GPU that is gone, and read the config again; return sentences.

        Raises as `reload` does; `LookupError` where there is none of that name, `ValueError` where
        it isn't gone, a pool names it, or nobody can tell.
        """
        async with self.changing:
            was = self._fitter.cards
            try:
                async with asyncio.timeout(_DRIVER_S):
                    cards = forget(name, was, await aside(inventory))
            except TimeoutError:
                raise ValueError("the NVIDIA driver has been asked and doesn't answer") from None
            except GpuError as error:
                raise ValueError(f"nobody can tell what GPUs there are: {error}") from None
            ahead = self._fitter.ahead()
            ahead.use(names_of(cards), cards)
            gone = [card for card in was if card.is_named(name)]
            read = await read_config(partial(self._load_without, gone), self.settings, ahead)
            told = [said(read.later)] if read.later else []
            roster = read.settings.host.state_dir / ROSTER_FILE
            # First: what the next start doesn't know of would give all their old numbers back.
            try:
                await aside(lambda: write(roster, cards))
            except OSError as error:
                raise ValueError(
                    f"{name} is not forgotten: that can't be noted in {roster} ({error.strerror}); "
                    "mend that, then ask again"
                ) from None
            told += await self._apply(read.settings, read.reserved, cards)
            words = " and ".join(f"{card.label} ({card.key})" for card in gone)
            are = "is" if len(gone) == 1 else "are"
            told = [f"{words} {are} forgotten", *renumbered(read.settings, was, cards), *told]
        for sentence in told:
            log.info("%s", sentence)
        return told

    def _load_without(self, gone: Iterable[Card]) -> Settings:
        """Read the config; raises `ValueError` where it names a GPU that shall be forgotten."""
        settings = self._load()
        for card in gone:
            for pool in naming(settings, card):
                raise ValueError(
                    f"{card.label} ({card.key}) is not forgotten, for pools.{pool}.gpus names it: "
                    "take it out there, name by UUID what has another number without it, then ask "
                    "again"
                )
        return settings

    async def _apply(
        self, settings: Settings, reserved: Reservations, cards: Sequence[Card]
    ) -> list[str]:
        """Let these settings hold, on these `cards`; return what changes, in sentences."""
        was, found = self._fitter.reserved, self._changes(settings, reserved)
        models = [change.model for change in found]
        known = await asyncio.to_thread(known_of, self._history, models)
        if self.stopped:
            raise ValueError("warmd is stopping and reads no config any more")
        if cards != self._fitter.cards:
            self._fitter.use(names_of(cards), cards)
        self._fitter.reserved = reserved
        told = []
        for change in found:
            told.append(change.sentence)
            if change.gone:
                self._supervisor.retire(change.model)
            else:
                self._adopt(settings, change.model, known[change.model])
        self._set_rules(settings, reserved)
        self.settings = settings
        return [*told, *reserved.sentences(was)]

    async def plan(self, config: Path | None) -> Foresight:
        """Say what a reload of `config`, or of the files as they stand now, would do.

        Nothing is changed. Raises `ConfigError`; `ValueError` where a disk keeps the config.
        """
        read = self._load if config is None else partial(load, config)
        found = await read_config(read, self.settings, self._fitter)
        settings, later, reserved = found.settings, found.later, found.reserved
        names = [name for name in settings.models if name not in self._supervisor.models]
        known = await asyncio.to_thread(known_of, self._history, names)
        ahead = self._fitter.ahead()
        ahead.reserved = reserved
        terms = {name: ahead.terms(settings, name) for name in settings.models}
        view, ahead_rules = self._supervisor.view, rules(settings, reserved)
        coming = view.coming_on(terms, ahead_rules)
        outlooks = {
            name: view.outlook(name, terms.get(name), known.get(name), coming.get(name))
            for name in dict.fromkeys((*self._supervisor.models, *settings.models))
        }
        room = view.room_ahead(terms, outlooks, ahead_rules)
        moved = self._changes(settings, reserved)
        told = tuple(reserved.sentences(self._fitter.reserved))
        return foresee(self.settings, settings, moved, later, outlooks, room=room, warnings=told)

    async def agenda(self, now: float, until: float, config: Path | None) -> Agenda:
        """Say what calendars move between `now` and `until` (Unix seconds), also under `config`.

        Nothing is changed. Raises as `plan` does.
        """
        parties = self._parties(
            {name: m.terms for name, m in self._supervisor.models.items() if not m.retired}
        )
        ours = await self._foretell(parties, self._fitter.reserved, now, until)
        if config is None:
            return Agenda(ours)
        found = await read_config(partial(load, config), self.settings, self._fitter)
        names = [name for name in found.settings.models if name not in self._supervisor.models]
        known = await asyncio.to_thread(known_of, self._history, names)
        ahead = self._fitter.ahead()
        ahead.reserved = found.reserved
        terms = {name: ahead.terms(found.settings, name) for name in found.settings.models}
        parties = self._parties(terms, known)
        view = self._supervisor.view
        coming = view.coming_on(terms, rules(found.settings, found.reserved))
        for n, each in enumerate(parties):
            if each.presence is not None and each.name in self._supervisor.models:
                shall = view.outlook(each.name, terms[each.name], None, coming[each.name]).target
                there = replace(each.presence, shall=shall.rung)
                parties[n] = replace(each, presence=there)
        return Agenda(await self._foretell(parties, found.reserved, now, until), ours)

    def _parties(
        self, terms: Mapping[str, Terms], known: Mapping[str, Known] = _NOBODY
    ) -> list[Party]:
        models, shelf = self._supervisor.models, self._supervisor.shelf
        presence = self._supervisor.view.presence
        parties = [
            party_of(name, each, models.get(name), known.get(name) or Known(), shelf)
            for name, each in terms.items()
        ]
        return [
            replace(each, presence=presence(each.name) or cold_presence(each)) for each in parties
        ]

    async def _foretell(
        self, parties: Sequence[Party], reserved: Reservations, now: float, until: float
    ) -> Timeline:
        """A calendar with many entries takes its time: in a thread."""
        gpus = {card.key: card.words for card in self._fitter.cards}
        return await asyncio.to_thread(foretell, parties, reserved.pools, gpus, now, until)

    async def late(self, now: float) -> list[str]:
        """Say what can't be ready in time within a week, where that wasn't said before."""
        ahead = (await self.agenda(now, now + WEEK_S, None)).timeline
        # What is late already is told where it is asked for: after a start all may be.
        warnings = [each for each in ahead.warnings if each not in ahead.overdue]
        told, self._told_late = self._told_late, frozenset(warnings)
        return [each for each in warnings if each not in told]

    def _changes(self, settings: Settings, reserved: Reservations) -> list[Change]:
        was, has_gpu = self._fitter.reserved, self._fitter.has_gpu
        return list(changes(self.settings, settings, was, reserved, has_gpu=has_gpu))
