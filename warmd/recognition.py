"""Which GPU is which: those that the driver lists, held against those that were here before.

The driver numbers only what it lists: without GPU 1, GPU 2 is its GPU 1. So while a GPU is missing
all keep the numbers that they had, and the config goes on to mean the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from warmd.devices import GpuTrouble, Inventory, Listed, SickGpu
from warmd.planner import Card, by_order

_OF_SLICES = (GpuTrouble.NO_SLICE, GpuTrouble.SHARED_SLICE)
"""What an operator has made so: nothing is placed there, and nothing waits for it."""


@dataclass(frozen=True)
class Recognised:
    """The GPUs of this host, the sick and the missing ones too; `told`: what has changed."""

    cards: tuple[Card, ...]
    told: tuple[str, ...] = ()


def recognise(found: Inventory, known: Sequence[Card]) -> Recognised:
    """Return the GPUs that answer, and those that don't as they are `known`.

    One that nobody has ever seen well is taken to be as large as the largest of the others.
    """
    groups: dict[int, list[Card]] = {}
    for card in known:
        groups.setdefault(card.index, []).append(card)
    listed = {each.index: each for each in found.listed}
    keys = _keys(found)
    here: dict[int, int | None] = {index: None for index, names in keys.items() if not names}
    # A card may have another place today: its UUID comes first.
    for is_one in (_is_it, _was_sliced):
        for index in sorted(keys.keys() - here.keys()):
            left = [n for n in groups if n not in here.values()]
            names, gpu = keys[index], listed.get(index)
            number = next((n for n in left if is_one(groups[n], names, gpu)), None)
            if number is not None:
                here[index] = number
    if groups and _others(found) and not any(n is not None for n in here.values()):
        were = ", ".join(card.key for card in known)
        others = f"none of the GPUs that were here is listed, and others are: {were} are forgotten"
        return Recognised(recognise(found, ()).cards, (others,))
    told = []
    for index in sorted(keys.keys() - here.keys()):
        number = _place_of(listed.get(index), groups, here)
        if number is not None:
            here[index] = number
            old = ", ".join(card.key for card in groups[number])
            told.append(
                f"GPU {number} is another card now, {listed[index].uuid}: {old}, which was in its "
                "place, is forgotten"
            )
    numbers: dict[int, int] = {i: n for i, n in here.items() if n is not None}
    numbers |= by_order(groups, here)
    gone = [card for n in groups.keys() - set(numbers.values()) for card in groups[n]]
    # Who slices a GPU otherwise makes new UUIDs: without its address nobody can tell it is missing.
    missing = [card for card in gone if card.slice is None or card.address is not None]
    if not missing:
        called = {index: index for index in keys}
    else:
        new = iter(range(max(groups) + 1, max(groups) + 1 + len(keys)))
        called = {i: numbers[i] if i in numbers else next(new) for i in sorted(keys)}
    well = tuple(_well(found, called, listed))
    sick = tuple(_sick(found, called, {i: groups[n] for i, n in numbers.items()}, well))
    there = {card.key for card in (*well, *sick)}
    away = [replace(card, is_missing=True) for card in missing if card.key not in there]
    cards = sorted((*well, *sick, *away), key=lambda card: card.place)
    before = {card.key: card.index for card in known}
    told += [
        f"GPU {was} ({card.key}) is GPU {card.index} now, as the driver has it: what names GPUs by "
        "number may mean another one"
        for card in cards
        if (was := before.get(card.key, card.index)) != card.index
    ]
    return Recognised(tuple(cards), tuple(told))


def _keys(found: Inventory) -> dict[int, set[str]]:
    """Return all UUIDs that are told at each of the driver's indexes: the GPU's and its slices'."""
    keys: dict[int, set[str]] = {}
    told: list[tuple[int, str | None]] = [(each.index, each.uuid) for each in found.listed]
    told += [(gpu.index, gpu.uuid) for gpu in found.gpus]
    told += [(sick.index, sick.uuid) for sick in found.sick]
    for index, uuid in told:
        names = keys.setdefault(index, set())
        if uuid is not None:
            names.add(uuid)
    return dict(sorted(keys.items()))


def _others(found: Inventory) -> bool:
    """Whether a GPU is listed that tells who it is, and that warmd would use."""
    sick = (each for each in found.sick if each.error.trouble not in _OF_SLICES)
    return bool(found.gpus) or any(each.uuid is not None for each in sick)


def _is_it(group: Sequence[Card], names: set[str], _: Listed | None) -> bool:
    return any(card.key in names for card in group)


def _was_sliced(group: Sequence[Card], _: set[str], gpu: Listed | None) -> bool:
    """Whether a GPU is the one of these slices, which are other ones today."""
    sliced = group[0].slice is not None and group[0].address is not None
    return sliced and gpu is not None and gpu.address == group[0].address


def _place_of(
    new: Listed | None, groups: Mapping[int, Sequence[Card]], here: Mapping[int, int | None]
) -> int | None:
    """Return the number of the GPU in whose place a `new` one is."""
    if new is None or new.address is None:
        return None
    gone = groups.keys() - set(here.values())
    return next((n for n in sorted(gone) if groups[n][0].address == new.address), None)


def _well(
    found: Inventory, called: Mapping[int, int], listed: Mapping[int, Listed]
) -> Iterator[Card]:
    for gpu in found.gpus:
        address = None if gpu.index not in listed else listed[gpu.index].address
        yield Card(gpu.uuid, called[gpu.index], gpu.name, gpu.total, gpu.slice, address)


def _sick(
    found: Inventory,
    called: Mapping[int, int],
    were: Mapping[int, Sequence[Card]],
    well: Sequence[Card],
) -> Iterator[Card]:
    taken = {card.key for card in well}
    for sick in found.sick:
        if sick.error.trouble in _OF_SLICES:
            continue
        number = called[sick.index]
        lost = [
            replace(card, index=number)
            for card in _as_known(sick, were.get(sick.index, ()))
            if card.key not in taken
        ]
        if not lost and well:
            key = sick.uuid or Card.unknown(number)
            lost = [Card(key, number, "(unknown)", max(card.total for card in well))]
        taken |= {card.key for card in lost}
        yield from lost


def _as_known(sick: SickGpu, were: Sequence[Card]) -> Iterator[Card]:
    for card in were:
        if sick.uuid in (None, card.key):
            yield card
