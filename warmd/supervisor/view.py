"""What there is and what would be, for who asks: the supervisor's facts, which are only read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from warmd.planner import Room, Scene, claims, room_ahead
from warmd.policy import Coming
from warmd.status import CardStatus, ModelStatus
from warmd.supervisor.cards import Cards
from warmd.supervisor.events import Clock
from warmd.supervisor.model import Managed
from warmd.supervisor.ports import Known, Rules
from warmd.supervisor.presence import Presence, presence
from warmd.supervisor.shelf import Shelf
from warmd.supervisor.snapshot import (
    Outlook,
    model_status,
    outlook,
    outlook_of_new,
    prospective_facts,
)
from warmd.supervisor.soon import coming_on
from warmd.supervisor.terms import Terms


class View:
    """Looks at models and cards, and changes nothing."""

    def __init__(
        self,
        clock: Clock,
        models: Mapping[str, Managed],
        cards: Cards,
        shelf: Shelf,
        scene: Callable[[], Scene],
    ) -> None:
        """All are the supervisor's; `scene` returns what a plan would be made of now."""
        self._clock = clock
        self._models = models
        self._cards = cards
        self._shelf = shelf
        self._scene = scene

    def statuses(self) -> dict[str, ModelStatus]:
        """Return what is known of each model at this moment."""
        return {
            name: model_status(m, self._clock, self._shelf.why_not)
            for name, m in self._models.items()
        }

    def card_statuses(self) -> tuple[CardStatus, ...]:
        """Return what is known of each card at this moment; none where nothing is reserved."""
        models, now = self._models.values(), self._clock.monotonic()
        held = claims([m.facts(now) for m in models], self._cards.facts())
        return self._cards.statuses(models, held, self._clock.wall() - now)

    def presence(self, name: str) -> Presence | None:
        """Return where a model stands at this moment; None where there is none of that name."""
        model = self._models.get(name)
        return None if model is None else presence(model, self._clock)

    def coming_on(self, terms: Mapping[str, Terms], rules: Rules) -> dict[str, Coming | None]:
        """Say what the calendars of other terms want soon, of each model that is there."""
        return coming_on(terms, self._models, self._clock.wall(), self._shelf, rules.pools)

    def outlook(
        self,
        name: str,
        terms: Terms | None,
        known: Known | None = None,
        coming: Coming | None = None,
    ) -> Outlook:
        """Say what a model would be on other terms, or without them.

        `known` is what earlier lives knew of a model that is new; `coming` as `coming_on` says it.
        """
        model = self._models.get(name)
        if model is not None:
            return outlook(model, terms, self._clock, coming)
        known, wall = known or Known(), self._clock.wall()
        idle_s = math.inf if known.last_request is None else wall - known.last_request
        if terms is None:
            raise LookupError(f"there is no model {name}, and no terms for one")
        return outlook_of_new(name, terms, known.override, known.starts, idle_s=idle_s, wall=wall)

    def room_ahead(
        self, terms: Mapping[str, Terms], outlooks: Mapping[str, Outlook], rules: Rules
    ) -> Room:
        """Say which replicas would be put aside or find no room where they shall be, and why."""
        now = self._clock.monotonic()
        facts = [
            prospective_facts(name, self._models.get(name), each, outlooks[name], now)
            for name, each in terms.items()
        ]
        ram, cards = self._scene().ram, self._cards.facts()
        return room_ahead(Scene(facts, ram, now, rules.pools, rules.fairness, cards))
