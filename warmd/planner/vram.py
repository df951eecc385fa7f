"""The VRAM ledger: what each card's bytes are promised to, and why an engine can't rise on it.

taken = engines that are up or come up + what sleepers keep + headroom. Foreign processes, and
what engines hold beyond their promise, take of the headroom first: that is what it is for. Before
an engine rises, its reservation must fit beside that, and the driver must say that so much is free,
in a look that is younger than the last operation on the card.

A wake takes its memory at once and needs a look of this moment. A start takes none for as long as
it imports: on a GPU that nobody has looked at for a while it begins by the last look, for a driver
that must wake first takes seconds, and the next look may still call it off.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator

from warmd.ladder import HOST, Phase
from warmd.planner.actions import LookAtCards
from warmd.planner.card_facts import LOOK_LASTS_S, CardFacts, Claim
from warmd.planner.facts import ModelFacts, ReplicaFacts, Scene
from warmd.spoken import count, size

_LOOK_AGAIN_S = 5.0
"""So often a card is looked at on which an engine finds no room: a stranger may have gone."""

_TAKES_NONE_S = 5.0
"""So long after its program began no start has taken VRAM: vLLM hasn't even been imported."""

_NAMED = 3
"""So many of those who hold a card are named in a refusal."""

_RISES_FROM = (Phase.DOWN, Phase.BACKING_OFF, Phase.ASLEEP)


def bars(scene: Scene, model: ModelFacts, replica: ReplicaFacts) -> str | None:
    """Say why `replica` can't rise even if its pool made room; None where that would help.

    Nobody is put aside for an engine that a stranger, or a sick driver, keeps from starting.
    """
    sick = quarantine(scene, replica.cards)
    if sick is not None:
        return sick
    for card in _cards(scene, model, replica):
        if not card.is_known(scene.now, _lasts(card, replica)):
            return _unknown(card)
        all_here = scene.claims[card.key]
        others = [c for c in all_here if model.pool is None or c.pool != model.pool]
        peers = sum(c.held for c in all_here if c not in others and c.replica != replica.name)
        full = _full(card, others, model, replica) or _taken(card, all_here, model, replica, peers)
        if full is not None:
            return full
    return None


def quarantine(scene: Scene, cards: Iterable[str]) -> str | None:
    """Say why nothing may rise on these cards; None where all of them are in service."""
    for key in sorted(cards):
        card = scene.cards.get(key)
        if card is not None and card.quarantine is not None:
            return f"{card.words} is quarantined: {card.quarantine}"
    return None


def moves(scene: Scene, replica: ReplicaFacts) -> str | None:
    """Say why an engine should leave its card; None where it needn't, or has no other to go to."""
    why = quarantine(scene, replica.cards)
    if why is None or quarantine(scene, replica.next_cards) is not None:
        return None
    return f"{why}; its next engine starts on another GPU"


def refuses(scene: Scene, model: ModelFacts, replica: ReplicaFacts) -> str | None:
    """Say why `replica` can't rise on its cards now; None where it can."""
    for card in _cards(scene, model, replica):
        if not card.is_known(scene.now, _lasts(card, replica)):
            return _unknown(card)
        here = scene.claims[card.key]
        full = _full(card, here, model, replica) or _taken(card, here, model, replica)
        if full is not None:
            return full
    return None


def turns_back(scene: Scene, model: ModelFacts, replica: ReplicaFacts) -> str | None:
    """Say why a start finds no room after all; None where it does, or may have taken it already."""
    cards = tuple(_cards(scene, model, replica))
    if replica.phase is not Phase.STARTING or any(card.ours.get(replica.name) for card in cards):
        return None
    begun = replica.since if replica.launched_at is None else replica.launched_at
    last = math.inf if replica.launches else begun + _TAKES_NONE_S
    for card in cards:
        if not replica.since <= card.swept_at <= last or card.trouble is not None:
            continue
        here = scene.claims[card.key]
        full = _full(card, here, model, replica) or _taken(card, here, model, replica)
        if full is not None:
            return full
    return None


def in_the_way(scene: Scene, model: ModelFacts, replica: ReplicaFacts) -> frozenset[str]:
    """Name the engines beside which `replica` finds no room, where without them it would."""
    names: set[str] = set()
    for card in _cards(scene, model, replica):
        if not card.is_known(scene.now):
            return frozenset()
        here = scene.claims[card.key]
        if _full(card, here, model, replica) or _taken(card, here, model, replica):
            freed = sum(claim.held for claim in here)
            if _full(card, (), model, replica) or _taken(card, (), model, replica, freed):
                return frozenset()
            names |= {claim.replica for claim in here}
    return frozenset(names)


def looks(scene: Scene, rises: Collection[str] = ()) -> Iterator[LookAtCards]:
    """Ask for a look where an engine that shall rise waits for one; those in `rises` don't."""
    for model in scene.models:
        for replica in (r for r in model.wanted if r.phase in _RISES_FROM):
            if replica.name in rises or quarantine(scene, replica.cards) is not None:
                continue  # who resets a GPU must find nobody at it
            for card in _cards(scene, model, replica):
                old = scene.now - card.swept_at > _LOOK_AGAIN_S or card.swept_at < card.moved_at
                names = card.key == HOST and _lacks(scene, card, model, replica)
                # One in trouble is looked at again and again as it is.
                if (old or (names and not card.named)) and card.trouble is None:
                    yield LookAtCards(f"{replica.name} shall rise on {card.words}", names=names)
                    return


def _lacks(scene: Scene, card: CardFacts, model: ModelFacts, replica: ReplicaFacts) -> bool:
    """Whether `replica` finds no room on a card, by the last look at it."""
    here = scene.claims[card.key]
    full = _full(card, here, model, replica) or _taken(card, here, model, replica)
    return card.swept_at > -math.inf and full is not None


def awaits_look(scene: Scene, model: ModelFacts) -> bool:
    """Whether an engine of `model` shall rise as soon as a card has been looked at."""
    return any(
        lacks_look(scene, model, replica)
        for replica in model.wanted
        if replica.phase in _RISES_FROM
    )


def lacks_look(scene: Scene, model: ModelFacts, replica: ReplicaFacts) -> bool:
    """Whether `replica` may rise as soon as somebody has looked at its cards."""
    if quarantine(scene, replica.cards) is not None:
        return False
    return any(
        card.trouble is None and not card.is_known(scene.now, _lasts(card, replica))
        for card in _cards(scene, model, replica)
    )


def _cards(scene: Scene, model: ModelFacts, replica: ReplicaFacts) -> Iterator[CardFacts]:
    """Yield the cards that an engine with a reservation is checked on."""
    if model.vram and scene.cards:
        for key in sorted(replica.cards):
            # One that nobody has told of yet is unknown, not free.
            yield scene.cards.get(key) or CardFacts(key, key, 0, 0)


def _lasts(card: CardFacts, replica: ReplicaFacts) -> float:
    """Return for how many seconds a look lasts that `replica` may rise by."""
    starts = replica.phase is not Phase.ASLEEP
    return math.inf if starts and card.key != HOST else LOOK_LASTS_S  # the host is seen at once


def _unknown(card: CardFacts) -> str:
    if card.trouble is not None:
        return f"nobody can tell what is free on {card.words}: {card.trouble}"
    return f"{card.words} is looked at first: what it holds may have changed"


def _full(
    card: CardFacts, others: Iterable[Claim], model: ModelFacts, replica: ReplicaFacts
) -> str | None:
    """Say what the ledger lacks."""
    beside = [claim for claim in others if claim.replica != replica.name]
    taken = card.taken(beside)
    missing = taken + model.vram - card.total
    if missing <= 0:
        return None
    blockers = [(claim.bytes, claim.said) for claim in beside]
    blockers += [(each.held, f"{each.who} holds {size(each.held)}") for each in card.foreign]
    unused = taken - sum(held for held, _ in blockers)
    blockers.append((unused, f"{size(unused)} stay free as headroom"))
    return (
        f"{card.words} lacks {size(missing)} for {replica.name}, which wants {size(model.vram)}: "
        f"of its {size(card.total)} {_the_largest(blockers)}"
    )


def _taken(
    card: CardFacts,
    others: Iterable[Claim],
    model: ModelFacts,
    replica: ReplicaFacts,
    freed: int = 0,
) -> str | None:
    """Say what the driver finds missing: what is promised to nobody may be held all the same.

    `freed`: bytes that could be had of those who make room.
    """
    keeps = card.ours.get(replica.name, replica.kept) if replica.phase is Phase.ASLEEP else 0
    needs = model.vram - keeps
    if needs <= card.free + freed:
        return None
    blockers = [(c.held, f"{c.replica} holds {size(c.held)}") for c in others]
    blockers += [(each.held, f"{each.who} holds {size(each.held)}") for each in card.foreign]
    unnamed = card.used - sum(held for held, _ in blockers)
    blockers.append((unnamed, f"{size(max(0, unnamed))} are held by nobody whom the driver names"))
    return (
        f"{card.words} has {size(card.free)} free of {size(card.total)}, and {replica.name} needs "
        f"{size(needs)}: {_the_largest(blockers)}"
    )


def _the_largest(blockers: Iterable[tuple[int, str]]) -> str:
    ranked = sorted((each for each in blockers if each[0] > 0), key=lambda each: -each[0])
    named = [words for _, words in ranked[:_NAMED]]
    rest = ranked[_NAMED:]
    if rest:
        named.append(f"{count(len(rest), 'more claim')} {size(sum(held for held, _ in rest))}")
    return ", ".join(named)
