"""The GPUs that were noted: what is written down of them, and what is forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warmd.devices import Gpu, GpuError, GpuTrouble, Inventory, Listed, SickGpu
from warmd.planner import Card
from warmd.roster import forget, note, note_settled, read, settled, write

GIB = 2**30
CARDS = tuple(
    Card(f"GPU-{n}", n, "H200", 140 * GIB, address=f"0000:{n + 1:02x}:00") for n in range(4)
)


def listing(*cards: Card, sick: tuple[SickGpu, ...] = ()) -> Inventory:
    """The driver's list of these cards, which it numbers itself."""
    gpus = tuple(Gpu(i, card.key, card.name, card.total, 0) for i, card in enumerate(cards))
    whole = tuple(Listed(i, card.key, card.address) for i, card in enumerate(cards))
    return Inventory("570", gpus, sick, whole)


def test_what_is_noted_is_read_and_what_nobody_has_seen_well_is_not_noted(tmp_path: Path) -> None:
    file = tmp_path / "gpus.json"
    assert read(file) == ()
    write(file, (*CARDS, Card(Card.unknown(4), 4, "?", 1)))
    write(file, ())  # while the driver is away
    assert read(file) == CARDS


def test_what_cannot_be_noted_is_told_and_the_earlier_notes_stay(tmp_path: Path) -> None:
    file, told = tmp_path / "gpus.json", list[str]()
    write(file, CARDS)
    (tmp_path / "gpus.draft").mkdir()  # in the way, as a full disk is
    note(file, CARDS[1:], told.append)
    assert read(file) == CARDS
    assert f"which GPUs are here can't be noted in {file} (Is a directory)" in told[0]
    (tmp_path / "gpus.draft").rmdir()
    note(file, CARDS[1:], told.append)
    assert (read(file), len(told)) == (CARDS[1:], 1)


def test_a_roster_of_an_earlier_warmd_knows_no_addresses(tmp_path: Path) -> None:
    file = tmp_path / "gpus.json"
    file.write_text('[{"key": "GPU-0", "index": 0, "name": "H200", "total": 9, "slice": null}]')
    assert read(file) == (Card("GPU-0", 0, "H200", 9),)


GOOD = {"key": "GPU-0", "index": 0, "name": "H200", "total": 9, "slice": None, "address": None}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "\x00\xff",
        "null",
        "7",
        "{}x",
        '{"key": 1}',
        '[{"key": 1}]',
        "[[]]",
        '["GPU-0"]',
        *(
            json.dumps([GOOD | {name: value}])
            for name, value in (
                ("index", -1),
                ("index", True),
                ("index", "0"),
                ("total", None),
                ("name", 3),
                ("key", ""),
                ("slice", 1.5),
                ("address", 7),
            )
        ),
        json.dumps([GOOD, GOOD | {"index": 1}]),
        "[" * 100_000,
    ],
)
def test_what_is_no_roster_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gpus.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"\w"):
        read(file)


def test_one_that_is_gone_is_forgotten_and_the_numbers_are_the_drivers_again() -> None:
    left = forget("1", CARDS, listing(CARDS[0], *CARDS[2:]))
    assert [(card.index, card.key) for card in left] == [(0, "GPU-0"), (1, "GPU-2"), (2, "GPU-3")]
    two = listing(CARDS[0], CARDS[3])
    still = forget("GPU-1", CARDS, two)
    assert [(card.index, card.is_missing) for card in still] == [(0, False), (2, True), (3, False)]
    assert [card.index for card in forget("2", still, two)] == [0, 1]


def test_only_what_the_driver_does_not_list_can_be_forgotten() -> None:
    found = listing(CARDS[0], *CARDS[2:])
    with pytest.raises(ValueError, match=r"GPU 2 \(GPU-2\) isn't gone, the driver lists it"):
        forget("2", CARDS, found)
    sick = Inventory("570", (), (SickGpu(0, GpuError(GpuTrouble.LOST)),))
    with pytest.raises(ValueError, match="isn't gone"):
        forget("0", CARDS[:1], sick)
    with pytest.raises(ValueError, match="nothing is known of any other GPU"):
        forget("1", CARDS[1:2], Inventory("570", (), (SickGpu(0, GpuError(GpuTrouble.LOST), "x"),)))
    left = forget("1", CARDS, found)
    for name in ("GPU-1", "7", "", "GPU-"):
        with pytest.raises(LookupError, match=f"no GPU is named {name}: there are GPU 0"):
            forget(name, left, found)


def test_what_is_settled_holds_for_this_boot_alone(tmp_path: Path) -> None:
    file = tmp_path / "settled.json"
    assert settled(file) == {}
    note_settled(file, {"GPU-0": 12.5})
    assert settled(file) == {"GPU-0": 12.5}
    file.write_text('{"boot": "another", "settled": {"GPU-0": 12.5}}')
    assert settled(file) == {}
    for nothing in ("[]", '{"boot": 1}', "no JSON"):
        file.write_text(nothing)
        assert settled(file) == {}
