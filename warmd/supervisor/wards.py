"""Which cards are out of service, from what looks find of their health; one writer, `Cards`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from warmd.devices import (
    XID_REMEDY,
    Condition,
    GpuError,
    GpuTrouble,
    SickGpu,
    Survey,
    Sweep,
    reset_of,
)
from warmd.planner import Card, by_order
from warmd.policy import Ailment, Health, diagnose, give_back
from warmd.spoken import count
from warmd.supervisor.events import Quarantine

_LOST = (
    "journalctl -k | grep -i xid tells the cause; switch the host off and on, and if it comes back "
    "look at the card's seat, power and heat"
)


@dataclass(frozen=True)
class Examination:
    """How each GPU that answers fares, by its index.

    `driver_loaded`: when that was, in seconds by the kernel's log.
    """

    found: Mapping[int, Condition] = field(default_factory=dict)
    driver_loaded: float = -math.inf


class Wards:
    """What is known of each card's health."""

    def __init__(self) -> None:
        self._known: dict[str, Health] = {}
        self._settled: dict[str, float] = {}

    @property
    def out(self) -> frozenset[str]:
        """The keys of the cards that are out of service."""
        return frozenset(key for key, health in self._known.items() if health.ailments)

    @property
    def settled(self) -> Mapping[str, float]:
        """Up to which stamp what happened to a card counts no more, by its key."""
        now = {key: health.settled for key, health in self._known.items()}
        return {key: at for key, at in (self._settled | now).items() if at > -math.inf}

    @settled.setter
    def settled(self, known: Mapping[str, float]) -> None:
        self._settled = dict(known)

    def keep(self, cards: Iterable[Card]) -> None:
        """Forget all cards but these."""
        self._known = {c.key: self._known[c.key] for c in cards if c.key in self._known}

    def is_in_doubt(self, sweep: Sweep) -> bool:
        """Whether a card answers again, of which only an examination says that it is well."""
        return any(self._known[key].is_dead for key in self.out & sweep.cards.keys())

    def why(self, key: str) -> str | None:
        """Say why a card is out of service; None where it isn't."""
        ailments = self._known.get(key, Health()).ailments
        if not ailments:
            return None
        others = count(len(ailments) - 1, "other trouble")
        return ailments[0].sentence + (f" (and {others})" if ailments[1:] else "")

    def remedy(self, card: Card) -> str | None:
        """Say what to do about a card that is out of service; None where it isn't."""
        health = self._known.get(card.key, Health())
        if not health.ailments:
            return None
        back = f"`warmctl gpu return {card.label.removeprefix('GPU ')}`"
        gravest = health.ailments[0]
        if card.is_unknown:
            return f"{gravest.remedy}; then restart warmd, which takes it up at its start"
        if gravest.stamp is None:
            after = "; it comes back by itself"
            return gravest.remedy + after + ("" if health.is_dead else f", or by {back}")
        return f"{gravest.remedy}; then {back}"

    def see(
        self, cards: Iterable[Card], sweep: Sweep, fares: Examination | None
    ) -> Iterator[Quarantine]:
        """Take what a look found; yield what goes out of service by it, and what comes back."""
        there = tuple(cards)
        sick = sick_of(there, sweep)
        for card in there:
            seen = sweep.cards.get(card.key)
            dead = _dead(card, sick.get(card.key)) if seen is None else None
            if dead is not None:
                yield from self._set(card, diagnose(self._of(card), [dead]))
            # By its index of now: a card that the driver lists no more moves those behind it up.
            elif fares is not None and seen is not None and seen.index in fares.found:
                found = list(_ailments(fares.found[seen.index]))
                yield from self._set(card, diagnose(self._of(card), found, fares.driver_loaded))

    def give_back(self, card: Card) -> Iterator[Quarantine]:
        """Take a card back into service; yield that."""
        yield from self._set(card, give_back(self._of(card)))

    def is_dead(self, card: Card) -> bool:
        """Whether nobody's word can bring it back."""
        return self._of(card).is_dead

    def _of(self, card: Card) -> Health:
        before = self._settled.get(card.key, -math.inf)
        return self._known.get(card.key, Health(settled=before))

    def _set(self, card: Card, health: Health) -> Iterator[Quarantine]:
        was, self._known[card.key] = self._of(card), health
        # Of one that is out already, no line for each further Xid.
        more = [each for each in health.ailments if each.sentence in health.standing - was.standing]
        if more or bool(was.ailments) is not bool(health.ailments):
            yield Quarantine(card.words, self.why(card.key), self.remedy(card) or "")


def sick_of(cards: Sequence[Card], sweep: Sweep) -> Mapping[str, SickGpu]:
    """Return what the driver says of cards that it lists and that don't answer, by their keys.

    One that doesn't tell its UUID either is known by its place among those that do.
    """
    numbers = {card.key: card.index for card in cards}
    listed: dict[int, int | None] = {
        use.index: numbers[use.key] for use in sweep.cards.values() if use.key in numbers
    }
    for each in sweep.sick:
        if each.uuid is None:
            listed[each.index] = None
        elif each.uuid in numbers:
            listed[each.index] = numbers[each.uuid]
    places = by_order(set(numbers.values()), listed)
    return {
        card.key: each
        for each in sweep.sick
        for card in cards
        if card.key == each.uuid or (each.uuid is None and card.index == places.get(each.index))
    }


def as_numbered(found: Survey, cards: Sequence[Card]) -> Survey:
    """Return a survey with the numbers by which the config names GPUs, the missing ones too.

    A GPU that came after warmd has a number that no other one has, until a start gives it its own.
    """
    uses = {each.use.key: each.use for each in found.cards}
    numbers = {card.key: card.index for card in cards}
    sick = sick_of(cards, Sweep(uses, found.sick))
    places = {each: numbers[key] for key, each in sick.items()}
    known = {use.index for key, use in uses.items() if key in numbers} | {s.index for s in places}
    listed = {use.index for use in uses.values()} | {each.index for each in found.sick}
    come = sorted(listed - known) if cards else []
    free = max(numbers.values(), default=-1) + 1
    new = {index: number for number, index in enumerate(come, free)}
    told = [
        replace(each, index=places.get(each, new.get(each.index, each.index)))
        for each in found.sick
    ]
    told += [
        SickGpu(card.index, GpuError(GpuTrouble.MISSING), card.key)
        for card in cards
        if not card.is_host and card.key not in uses.keys() | sick.keys()
    ]
    surveyed = [
        replace(
            each,
            use=replace(each.use, index=number),
            driver_index=each.use.index if number != each.use.index else None,
            is_new=each.use.index in new,
        )
        for each in found.cards
        for number in (numbers.get(each.use.key, new.get(each.use.index, each.use.index)),)
    ]
    surveyed.sort(key=lambda each: (each.use.index, each.use.slice or 0))
    told.sort(key=lambda each: each.index)
    return replace(found, cards=tuple(surveyed), sick=tuple(told))


def _dead(card: Card, sick: SickGpu | None) -> Ailment | None:
    """Say why a card that a look didn't find can't be used; None where that may pass by itself."""
    if sick is not None:
        match sick.error.trouble:
            case GpuTrouble.LOST:
                return Ailment(str(sick.error), _LOST, dead=True)
            case GpuTrouble.RESET_REQUIRED:
                return Ailment(str(sick.error), reset_of(sick.index), dead=True)
            case _:
                return None
    if card.is_unknown:
        return Ailment("warmd has never seen it well", "see nvidia-smi whether it works", dead=True)
    number = card.label.removeprefix("GPU ")
    remedy = (
        f"where it was taken out for good, `warmctl gpu forget {number}`; else look at its seat, "
        "power and heat, then switch the host off and on"
    )
    return Ailment(str(GpuError(GpuTrouble.MISSING)), remedy, dead=True)


def _ailments(fares: Condition) -> Iterator[Ailment]:
    for each in fares.unfit():
        yield Ailment(each.sentence, each.remedy)
    for xid in fares.xids or ():
        if xid.is_grave:
            yield Ailment(f"Xid {xid.number}: {xid.said}", XID_REMEDY, stamp=xid.stamp)
