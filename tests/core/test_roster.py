"""The GPUs of a host, of which some don't answer."""

from __future__ import annotations

from pathlib import Path

from warmd.devices import Gpu, GpuError, GpuTrouble, Inventory, SickGpu
from warmd.planner import Card
from warmd.roster import complete, note, note_settled, read, settled

GIB = 2**30
CARDS = tuple(Card(f"GPU-{n}", n, "H200", (140 + n) * GIB) for n in range(3))


def gpu(n: int) -> Gpu:
    return Gpu(n, f"GPU-{n}", "H200", (140 + n) * GIB, 0)


def lost(n: int, uuid: str | None = None, trouble: GpuTrouble = GpuTrouble.LOST) -> SickGpu:
    return SickGpu(n, GpuError(trouble), uuid)


def test_a_lost_gpu_is_what_it_was_when_it_was_noted(tmp_path: Path) -> None:
    file = tmp_path / "gpus.json"
    assert read(file) == ()
    note(file, (*CARDS, Card(Card.unknown(3), 3, "?", 1)))
    note(file, ())  # while the driver is away
    assert read(file) == CARDS
    found = Inventory("570", (gpu(0), gpu(2)), (lost(1),))
    assert complete(found, read(file)) == CARDS
    everything = Inventory("570", (), (lost(0), lost(1), lost(2, "GPU-2")))
    assert complete(everything, CARDS) == CARDS
    file.write_text('[{"key": 1}]')
    assert read(file) == ()
    note(tmp_path / "none" / "gpus.json", CARDS)


def test_one_that_nobody_has_seen_well_is_as_large_as_the_others() -> None:
    unknown = Card(Card.unknown(1), 1, "(unknown)", 142 * GIB)
    found = Inventory("570", (gpu(0), gpu(2)), (lost(1),))
    assert complete(found, ()) == (CARDS[0], unknown, CARDS[2])
    assert unknown.is_unknown
    told = Inventory("570", (gpu(0),), (lost(1, "GPU-1"),))
    assert [card.key for card in complete(told, ())] == ["GPU-0", "GPU-1"]
    assert complete(Inventory("570", (), (lost(0),)), ()) == (), "nobody knows how large"


def test_what_an_operator_has_sliced_otherwise_is_not_waited_for() -> None:
    sick = (lost(1, "MIG-1", GpuTrouble.SHARED_SLICE), lost(2, "GPU-2", GpuTrouble.NO_SLICE))
    assert complete(Inventory("570", (gpu(0),), sick), CARDS) == CARDS[:1]


def test_a_gpu_that_came_in_anothers_place_is_not_counted_twice() -> None:
    swapped = Gpu(0, "GPU-1", "H200", 141 * GIB, 0)
    assert [c.key for c in complete(Inventory("570", (swapped,), (lost(1),)), CARDS)] == [
        "GPU-1",
        "unknown 1",
    ]


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
