"""The GPUs of this host, those too that are sick at the moment: as they were last seen when well.

So a pool that names a lost GPU has its place still, and waits there until the GPU is back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from warmd.devices import GpuTrouble, Inventory, SickGpu, inventory
from warmd.placing import cards_of
from warmd.planner import Card

ROSTER_FILE = "gpus.json"
"""Its name in `host.state_dir`."""

SETTLED_FILE = "gpus-settled.json"
"""There, too: which of the errors in the kernel's log a reset or an operator's word has settled."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")

_OF_SLICES = (GpuTrouble.NO_SLICE, GpuTrouble.SHARED_SLICE)
"""What an operator has made so: nothing is placed there, and nothing waits for it."""


def cards_now(roster: Path) -> tuple[Card, ...]:
    """List this host's GPUs. Raises `GpuError` where there is none; blocks."""
    found = inventory()
    cards = complete(found, read(roster))
    if not cards:
        raise found.sick[0].error
    return cards


def complete(found: Inventory, known: Sequence[Card]) -> tuple[Card, ...]:
    """Return the GPUs that answer, and those that don't as they are `known`.

    One that nobody has ever seen well is taken to be as large as the largest of the others.
    """
    well = cards_of(found.gpus) if found.gpus else ()
    cards = list(well)
    for sick in found.sick:
        if sick.error.trouble in _OF_SLICES:
            continue
        taken = {card.key for card in cards}
        lost = [card for card in _as_known(sick, known) if card.key not in taken]
        if not lost and well:
            key = sick.uuid or Card.unknown(sick.index)
            lost = [Card(key, sick.index, "(unknown)", max(card.total for card in well))]
        cards += lost
    return tuple(sorted(cards, key=lambda card: card.place))


def _as_known(sick: SickGpu, known: Sequence[Card]) -> Iterator[Card]:
    for card in known:
        if card.key == sick.uuid or (sick.uuid is None and card.index == sick.index):
            yield card


def read(roster: Path) -> tuple[Card, ...]:
    """Return the GPUs that were noted; none where nothing sound is there."""
    try:
        return tuple(Card(**each) for each in json.loads(roster.read_bytes()))
    except (OSError, ValueError, TypeError):
        return ()


def settled(file: Path) -> dict[str, float]:
    """Return up to which stamp of this boot's log all is settled, by UUID; empty where unknown."""
    try:
        told = json.loads(file.read_bytes())
        if told["boot"] == _BOOT.read_text():
            return {str(key): float(at) for key, at in told["settled"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    return {}


def note_settled(file: Path, stamps: Mapping[str, float]) -> None:
    """Write down what is settled. Where that fails, a later warmd asks about it once more."""
    with suppress(OSError):
        _write(file, {"boot": _BOOT.read_text(), "settled": dict(stamps)})


def note(roster: Path, cards: Sequence[Card]) -> None:
    """Write down what GPUs there are. Where that fails, one that gets lost is only less known."""
    told = [vars(card) for card in cards if not card.is_host and not card.is_unknown]
    if not told:
        return
    with suppress(OSError):
        _write(roster, told)


def _write(file: Path, told: object) -> None:
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(told))
    draft.replace(file)
