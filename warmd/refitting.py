"""Fits models anew while the daemon runs: GPUs come late, or fall out of service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from warmd.aside import aside
from warmd.config import ConfigError, Settings
from warmd.fitting import Fitter
from warmd.gpu_watch import await_gpu
from warmd.placing import ROSTER_FILE
from warmd.rereading import read_anew
from warmd.roster import (
    SETTLED_FILE,
    cards_now,
    note,
    note_settled,
    settled,
)
from warmd.supervisor import Supervisor
from warmd.wiring import card_rules, names_of, rules

_NOT_RESERVED = (
    "what is reserved for it could not be told when the GPUs came; the log says why: mend that, "
    "then `warmctl reload`"
)

log = logging.getLogger("warmd")


class Refitting:
    """Changes what models are run with; an engine that runs and may go on doesn't notice."""

    def __init__(
        self,
        supervisor: Supervisor,
        fitter: Fitter,
        settings: Callable[[], Settings],
        reloading: asyncio.Lock,
    ) -> None:
        """`settings` returns those in force; who holds `reloading` may change them."""
        self._supervisor = supervisor
        self._fitter = fitter
        self._settings = settings
        self._reloading = reloading
        self.stopped = False
        self._placed = fitter.reserved  # by what models had their places found the last time
        self._noting: asyncio.Future[None] | None = None
        supervisor.cards.settled = settled(settings().host.state_dir / SETTLED_FILE)

    def around_quarantine(self) -> None:
        """Give each engine whose GPU is out of service its place elsewhere, or take that back."""
        fitter, settings, models = self._fitter, self._settings(), self._supervisor.models
        was, now = fitter.without, self._supervisor.cards.quarantined
        up = (r for m in models.values() for r in m.replicas if now and r.state.phase.is_up)
        stands = {replica.name: replica.cards for replica in up}
        if (was, fitter.stands) == (now, stands) and self._placed is fitter.reserved:
            return
        fitter.without, fitter.stands, self._placed = now, stands, fitter.reserved
        if was - now:
            fitter.found_again(was - now)
            file, stamps = settings.host.state_dir / SETTLED_FILE, self._supervisor.cards.settled
            # Kept, or nobody would hold it.
            self._noting = asyncio.ensure_future(aside(lambda: note_settled(file, stamps)))
        for name, table in settings.models.items():
            # Compared with what it has: a reload may have moved its pool's GPUs, and none of its.
            places = [
                (
                    frozenset(fitter.reserved.cards_of(name, n, now, stands)),
                    frozenset(fitter.reserved.ground_of(name, n)),
                )
                for n in range(table.most_replicas)
            ]
            if places != [(fit.cards, fit.roams) for fit in models[name].terms.fits]:
                terms = fitter.terms(settings, name)
                self._supervisor.adopt(name, terms, "its next engine has another GPU")

    async def await_gpu(self) -> None:
        """Fit every model anew once a GPU works that didn't at the start: boot races drivers."""
        if self._fitter.has_gpu and not self._fitter.is_gpu_unknown:
            return
        roster = self._settings().host.state_dir / ROSTER_FILE

        def report(sentence: str) -> None:
            log.warning("%s", sentence)

        cards = await await_gpu(partial(cards_now, roster, report), report)
        if cards is None:
            return
        await aside(lambda: note(roster, cards, report))
        async with self._reloading:
            device = names_of(cards)
            log.info("a GPU can be used now: %s", device)
            self._fitter.use(device, cards)
            settings, was = self._settings(), self._fitter.reserved
            try:
                reserved = await read_anew(partial(self._fitter.reserve, settings))
            except (ConfigError, ValueError) as error:
                log.error("%s; no model is started before a reload succeeds", error)
                reserved = was = was.held(settings.models, _NOT_RESERVED)
            if self.stopped:
                return
            self._fitter.reserved = reserved
            for sentence in reserved.sentences(was):
                log.info("%s", sentence)
            self._supervisor.rules = rules(settings, reserved)
            self._supervisor.cards.fit(card_rules(settings, self._fitter))
            for name in settings.models:
                self._supervisor.adopt(name, self._fitter.terms(settings, name))
