"""The GPUs of this host, those too that are sick or missing: as they were last seen when well.

So a pool that names a lost GPU has its place still, and waits there until the GPU is back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from warmd.devices import Inventory, inventory
from warmd.planner import Card
from warmd.recognition import recognise

SETTLED_FILE = "gpus-settled.json"
"""There, too: which of the errors in the kernel's log a reset or an operator's word has settled."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def cards_now(roster: Path, report: Callable[[str], None]) -> tuple[Card, ...]:
    """List this host's GPUs. Raises `GpuError` where there is none; blocks.

    `report` is told, in sentences, where GPUs are others than those that were noted, or none is
    known for a fault of the file.
    """
    found = inventory()
    known: tuple[Card, ...] = ()
    told = []
    try:
        known = read(roster)
    except (OSError, ValueError) as error:
        told.append(
            f"which GPUs were here before can't be read from {roster}: {error}; one that the "
            "driver doesn't list is not known"
        )
    recognised = recognise(found, known)
    if not recognised.cards:
        raise found.sick[0].error
    for sentence in (*told, *recognised.told):
        report(sentence)
    return recognised.cards


def read(roster: Path) -> tuple[Card, ...]:
    """Return the GPUs that were noted; none where nobody has noted any.

    Raises `OSError`, and `ValueError` where nothing sound is there.
    """
    try:
        told = json.loads(roster.read_bytes())
    except FileNotFoundError:
        return ()
    except RecursionError:
        raise ValueError("it isn't what warmd writes") from None
    try:
        cards = tuple(map(_sound, told))
    except (TypeError, KeyError, AttributeError):
        raise ValueError("it isn't what warmd writes") from None
    if len({card.key for card in cards}) < len(cards):
        raise ValueError("a GPU is there twice")
    # GPUs that have changed their places while one was sick: which had which number nobody knows.
    return cards if len({card.place for card in cards}) == len(cards) else ()


def _sound(told: Mapping[str, object]) -> Card:
    key, name, address = told["key"], told["name"], told.get("address")
    index, total, part = told["index"], told["total"], told.get("slice")
    texts = all(isinstance(each, str) for each in (key, name, address or ""))
    numbers = [index, total, 0 if part is None else part]
    if not key or not texts or not all(type(each) is int and each >= 0 for each in numbers):
        raise TypeError
    return Card(key, index, name, total, part, address)  # type: ignore[arg-type]  # seen above


def forget(name: str, known: Sequence[Card], found: Inventory) -> tuple[Card, ...]:
    """Return the GPUs without one that is gone for good, by the number or UUID that it had.

    Raises `LookupError` where there is none of that name, `ValueError` where it isn't gone.
    """
    named = [card for card in known if card.is_named(name)]
    if not named:
        listed = ", ".join(f"{card.label} ({card.key})" for card in known)
        raise LookupError(f"no GPU is named {name}: there are {listed or 'none'}")
    noted = [card for card in known if not card.is_unknown]
    here = {card.key for card in recognise(found, noted).cards if not card.is_missing}
    for card in named:
        if card.key in here:
            raise ValueError(
                f"{card.label} ({card.key}) isn't gone, the driver lists it: only a GPU that it "
                "doesn't list can be forgotten. For a GPU that no pool shall use, name it in none"
            )
    left = recognise(found, [card for card in noted if card not in named]).cards
    if not left:
        raise ValueError("nothing is known of any other GPU: mend one first, see nvidia-smi")
    return left


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


def note(roster: Path, cards: Sequence[Card], report: Callable[[str], None]) -> None:
    """Write down what GPUs there are; where that fails, `report` is told."""
    try:
        write(roster, cards)
    except OSError as error:
        report(
            f"which GPUs are here can't be noted in {roster} ({error.strerror}): one that the "
            "driver doesn't list at the next start may not be known then; mend that, then restart "
            "warmd"
        )


def write(roster: Path, cards: Sequence[Card]) -> None:
    """Write down what GPUs there are, nothing where there is none. Raises `OSError`."""
    told = [
        {name: value for name, value in vars(card).items() if name != "is_missing"}
        for card in cards
        if not card.is_host and not card.is_unknown
    ]
    if told:
        _write(roster, told)


def _write(file: Path, told: object) -> None:
    draft = file.with_suffix(".draft")
    try:
        draft.write_text(json.dumps(told))
        draft.replace(file)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
