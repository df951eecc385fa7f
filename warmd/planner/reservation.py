"""Who may use how much VRAM of which GPUs: one value, made when the config is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from warmd.ladder import HOST, VramBy, replica_name
from warmd.spoken import size

_NOWHERE: Mapping[str, frozenset[str]] = {}


@dataclass(frozen=True)
class Figure:
    """What `vram = "auto"` comes to: bytes of one engine on each GPU.

    `basis` names all that it was reckoned from but for what earlier starts told: as long as that
    stays as it is, so does the figure, lest a reload make an engine anew.
    """

    vram: int
    by: VramBy
    basis: str

    @staticmethod
    def found(noted: Mapping[str, Any] | None) -> Figure | None:
        """Read what was written down of one; None where that is nothing."""
        if noted is None:
            return None
        try:
            return Figure(int(noted["vram"]), VramBy(noted["by"]), str(noted["basis"]))
        except (TypeError, ValueError, KeyError):
            return None


@dataclass(frozen=True)
class Holding:
    """What one model may use: `vram` bytes on each card of an engine, of its pool.

    `engines`: for each of its engines the keys of its cards; none as long as the GPUs aren't known.
    `where` says in words on what cards. `basis`: see `Figure`. `extra`: so many of its engines, the
    last, needn't have room beside the others.
    """

    pool: str
    vram: int
    by: VramBy
    engines: tuple[tuple[str, ...], ...]
    where: str = ""
    basis: str = ""
    extra: int = 0

    @property
    def firm(self) -> tuple[tuple[str, ...], ...]:
        """The cards of those engines that must have room together."""
        return self.engines[: len(self.engines) - self.extra]

    @property
    def figure(self) -> Mapping[str, object] | None:
        """What a later daemon must know of the figure, as JSON takes it; None where declared."""
        if self.by is VramBy.DECLARED:
            return None
        return {"vram": self.vram, "by": self.by, "basis": self.basis}

    @property
    def words(self) -> str:
        """Say how much it is, and where."""
        return f"{size(self.vram)} on {self.where}" if self.where else size(self.vram)


@dataclass(frozen=True)
class Reservations:
    """What is reserved. A model that is in neither mapping has no reservation and needs none.

    `pools`: bytes of VRAM on each card of a pool, also of pools that are a model's own; `grounds`:
    the keys of these cards, none as long as the GPUs aren't known. `unsized`: why a model has none
    though it needs one, and can't be started. `lines`: who has what, card by card, none where there
    is no reservation or no card is known. `warnings`: what the models of a pool want and can't
    have, in sentences; `missing`: which GPUs the driver doesn't list, and what to do.
    """

    pools: Mapping[str, int] = field(default_factory=dict)
    grounds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    models: Mapping[str, Holding] = field(default_factory=dict)
    unsized: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def cards_of(
        self,
        model: str,
        index: int,
        without: frozenset[str] = frozenset(),
        stands: Mapping[str, frozenset[str]] = _NOWHERE,
    ) -> tuple[str, ...]:
        """Return the keys of the cards that the `index`-th engine of `model` uses; none: any.

        `without`: cards that are out of service. An engine whose place is there has another one in
        its pool, where the model's engines fit beside each other; else it keeps its own. `stands`:
        by replica, the cards of the engines that are up, which need not be those of their places.
        """
        holding = self.models.get(model)
        if holding is None or index >= len(holding.engines):
            return ()
        if without.isdisjoint(holding.engines[index]):
            return holding.engines[index]
        names = [replica_name(model, n) for n in range(len(holding.engines))]
        here = [stands.get(name, frozenset()) for name in names]
        return self._places(holding, without, here)[index]

    def _places(
        self, holding: Holding, without: frozenset[str], here: Sequence[frozenset[str]]
    ) -> list[tuple[str, ...]]:
        """Place the engines of a model around the cards that are out of service.

        Who stands well already has its place `here`, and nobody is sent to where another one is.
        """
        pool, places, firm = self.pools[holding.pool], [*holding.engines], len(holding.firm)
        sound = [key for key in self.grounds[holding.pool] if key not in without]
        sick = [n for n, engine in enumerate(places) if not without.isdisjoint(engine)]
        for n in sick:
            if len(here[n]) == len(places[n]) and here[n].issubset(sound):
                places[n] = tuple(sorted(here[n]))
        for n in (n for n in sick if not without.isdisjoint(places[n])):
            taken = [
                here[m].union(engine if m < firm and without.isdisjoint(engine) else ())
                for m, engine in enumerate(places)
                if m != n
            ]
            on = {key: sum(key in cards for cards in taken) for key in sound}
            able = [key for key in sound if (on[key] + 1) * holding.vram <= pool]
            if len(able) >= len(places[n]):
                chosen = sorted(able, key=lambda key: on[key])[: len(places[n])]
                places[n] = tuple(sorted(chosen))
        return places

    def ground_of(self, model: str, index: int) -> tuple[str, ...]:
        """Return the UUIDs of the GPUs on which the `index`-th engine may go on if it runs there.

        Those of its pool, but for such as the model's other engines need to themselves.
        """
        holding = self.models.get(model)
        if holding is None:
            return ()
        others = [engine for n, engine in enumerate(holding.firm) if n != index]
        room = self.pools[holding.pool] - holding.vram
        return tuple(
            key
            for key in self.grounds.get(holding.pool, ())
            if key != HOST and sum(key in engine for engine in others) * holding.vram <= room
        )

    def gpus_of(
        self,
        model: str,
        index: int,
        without: frozenset[str] = frozenset(),
        stands: Mapping[str, frozenset[str]] = _NOWHERE,
    ) -> tuple[str, ...]:
        """Return the UUIDs of the GPUs that an engine is given; none where it may see all."""
        return tuple(key for key in self.cards_of(model, index, without, stands) if key != HOST)

    def held(self, models: Iterable[str], why: str) -> Reservations:
        """Return the same where no engine of `models` may be started; `why` ends the sentence."""
        sentences = {model: f"{model} can't be started: {why}" for model in models}
        return replace(self, unsized=sentences)

    def sentences(self, since: Reservations | None = None) -> Iterator[str]:
        """Say what was found for models that don't state it, and what they want in vain.

        Only what is new `since` then.
        """
        was = since or Reservations()
        for sentence in (*self.missing, *self.warnings):
            if sentence not in (*was.missing, *was.warnings):
                yield f"warning: {sentence}"
        for model, why in self.unsized.items():
            if why != was.unsized.get(model):
                yield why
        for model, holding in self.models.items():
            if holding.by is not VramBy.DECLARED and holding != was.models.get(model):
                yield f"{model} has {holding.words} for each engine, {holding.by.words}"
