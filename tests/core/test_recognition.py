"""Which GPU is which, where the driver doesn't list all that were here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from test_placing import settings
from test_roster import CARDS, GIB, listing

from warmd.devices import Gpu, GpuError, GpuTrouble, Inventory, Listed, SickGpu
from warmd.placing import Sized, reserve
from warmd.planner import Card, by_order
from warmd.recognition import recognise


def lost(n: int, uuid: str | None = None, trouble: GpuTrouble = GpuTrouble.LOST) -> SickGpu:
    return SickGpu(n, GpuError(trouble), uuid)


def seen(found: Inventory, known: tuple[Card, ...] = CARDS) -> list[tuple[int, str, bool]]:
    return [(card.index, card.key, card.is_missing) for card in recognise(found, known).cards]


ALL = [(n, f"GPU-{n}", False) for n in range(4)]


def test_a_lost_gpu_is_what_it_was_when_it_was_noted() -> None:
    gpus = listing(*CARDS).gpus
    found = Inventory("570", (gpus[0], gpus[2], gpus[3]), (lost(1),))
    assert seen(found) == ALL
    assert seen(Inventory("570", (), (lost(0), lost(1), lost(2, "GPU-2"), lost(3)))) == ALL


def test_one_that_nobody_has_seen_well_is_as_large_as_the_others() -> None:
    gpus = listing(*CARDS).gpus
    found = Inventory("570", (gpus[0], gpus[2]), (lost(1),))
    unknown = Card(Card.unknown(1), 1, "(unknown)", 140 * GIB)
    assert recognise(found, ()).cards[1] == unknown
    assert unknown.is_unknown
    told = Inventory("570", (gpus[0],), (lost(1, "GPU-1"),))
    assert seen(told, ()) == ALL[:2]
    assert seen(Inventory("570", (), (lost(0),)), ()) == [], "nobody knows how large"


def test_what_an_operator_has_sliced_otherwise_is_not_waited_for() -> None:
    sick = (lost(1, "MIG-1", GpuTrouble.SHARED_SLICE), lost(2, "GPU-2", GpuTrouble.NO_SLICE))
    gpus = listing(*CARDS[:1]).gpus
    parent = (Listed(1, "GPU-1"),)
    assert seen(Inventory("570", gpus, sick, parent), CARDS[:3]) == ALL[:1]


def test_a_missing_gpu_keeps_its_number_and_so_do_those_behind_it() -> None:
    assert seen(listing(*CARDS)) == ALL
    assert seen(listing(CARDS[0], *CARDS[2:])) == [
        (0, "GPU-0", False),
        (1, "GPU-1", True),
        (2, "GPU-2", False),
        (3, "GPU-3", False),
    ]
    shifted = replace(listing(*CARDS[2:]), sick=(lost(2),))
    with_lost = Inventory("570", shifted.gpus, (), shifted.listed)
    assert [card.is_missing for card in recognise(with_lost, CARDS).cards] == [True, True, 0, 0]


def test_one_that_tells_nothing_is_known_by_its_neighbours() -> None:
    whole = (Listed(0, "GPU-0"), Listed(2, "GPU-3"))
    gpus = (Gpu(0, "GPU-0", "H200", GIB, 0), Gpu(2, "GPU-3", "H200", GIB, 0))
    found = Inventory("570", gpus, (lost(1),), whole)
    assert seen(found) == [*ALL[:2], (2, "GPU-2", True), ALL[3]], "one of the two between them"
    assert seen(replace(found, gpus=gpus[1:], sick=(lost(0), lost(1)), listed=whole[1:])) == [
        *ALL[:2],
        (2, "GPU-2", True),
        ALL[3],
    ]
    moved = replace(listing(CARDS[1]), sick=(lost(1),))
    assert seen(moved, CARDS[:3]) == [(0, "GPU-0", True), *ALL[1:3]]
    more = replace(listing(*CARDS[1:3]), sick=(lost(2), lost(3)))
    assert seen(more)[-1] == (4, "unknown 4", False), "one that was never here"
    assert by_order((0, 1), {0: None, 1: None, 2: None}) == {0: 0, 1: 1}
    assert by_order((0, 1, 2), {0: 2, 1: None, 2: 0}) == {}


def test_a_card_in_the_place_of_a_missing_one_has_its_number() -> None:
    new = replace(CARDS[1], key="GPU-new")
    found = recognise(listing(CARDS[0], new, CARDS[3]), CARDS)
    assert [(card.index, card.key, card.is_missing) for card in found.cards] == [
        (0, "GPU-0", False),
        (1, "GPU-new", False),
        (2, "GPU-2", True),
        (3, "GPU-3", False),
    ]
    assert found.told == (
        "GPU 1 is another card now, GPU-new: GPU-1, which was in its place, is forgotten",
    )


def test_a_new_card_in_another_place_takes_no_number_of_a_missing_one() -> None:
    for address in ("0000:09:00", None):
        new = Card("GPU-new", 0, "H200", GIB, address=address)
        assert seen(listing(CARDS[0], new, *CARDS[2:])) == [
            ALL[0],
            (1, "GPU-1", True),
            *ALL[2:],
            (4, "GPU-new", False),
        ]
        assert seen(listing(new, *CARDS)) == [
            (n, key, False) for n, key in enumerate(("GPU-new", *(c.key for c in CARDS)))
        ], "none is missing, and the driver's numbers hold"


def test_a_host_of_other_gpus_alone_begins_anew() -> None:
    others = [replace(card, key=f"new-{card.index}") for card in CARDS[:2]]
    found = recognise(listing(*others), CARDS)
    assert [(card.index, card.key) for card in found.cards] == [(0, "new-0"), (1, "new-1")]
    assert len(found.told) == 1
    assert "GPU-0, GPU-1, GPU-2, GPU-3 are forgotten" in found.told[0]


def sliced(parent: Card, *names: str) -> tuple[Card, ...]:
    return tuple(
        Card(name, parent.index, "H200 MIG", GIB, n, parent.address) for n, name in enumerate(names)
    )


def test_slices_are_missing_only_with_their_gpu() -> None:
    whole = listing(*CARDS[:2])
    gpu = Gpu(1, "MIG-new", "H200 MIG", GIB, 0, 0)
    known = (CARDS[0], *sliced(CARDS[1], "MIG-a", "MIG-b"))
    assert seen(replace(whole, gpus=(whole.gpus[0], gpu)), known) == [
        ALL[0],
        (1, "MIG-new", False),
    ]
    assert seen(whole, known) == ALL[:2], "it has left MIG mode"
    assert seen(replace(whole, gpus=(whole.gpus[0], gpu))) == [
        ALL[0],
        (1, "MIG-new", False),
        *((n, key, True) for n, key, _ in ALL[2:]),
    ], "it was put into MIG mode"
    assert seen(listing(CARDS[0]), known) == [ALL[0], (1, "MIG-a", True), (1, "MIG-b", True)]
    by_an_earlier_warmd = tuple(replace(card, address=None) for card in known)
    assert seen(listing(CARDS[0]), by_an_earlier_warmd) == ALL[:1], "nobody can tell"


@given(st.data())
def test_whichever_gpus_go_missing_a_number_means_the_same_gpu(data: st.DataObject) -> None:
    cards = CARDS[: data.draw(st.integers(1, 4))]
    state = st.sampled_from(("well", "sick", "mute", "missing"))
    states = [data.draw(state) for _ in cards]
    there = [(card, how) for card, how in zip(cards, states, strict=True) if how != "missing"]
    if all(how in ("mute", "missing") for how in states) and "mute" not in states:
        return  # the driver lists none: that is no list
    gpus, sick, whole = [], [], []
    for index, (card, how) in enumerate(there):
        if how == "well":
            gpus.append(Gpu(index, card.key, card.name, card.total, 0))
            whole.append(Listed(index, card.key, card.address))
        else:
            sick.append(lost(index, card.key if how == "sick" else None))
    now = recognise(Inventory("570", tuple(gpus), tuple(sick), tuple(whole)), cards).cards
    assert [(card.index, card.key) for card in now] == [(card.index, card.key) for card in cards]
    assert sum(card.is_missing for card in now) == states.count("missing")
    by_number = {f"p{n}": {"vram": "1GiB", "gpus": [n]} for n in range(len(cards))}
    grounds = reserve(settings(by_number), now, Sized()).grounds
    assert grounds == {f"p{card.index}": (card.key,) for card in cards}
    again = recognise(listing(*cards), now).cards
    assert again == cards, "and when all are back"


def test_one_that_has_another_number_than_at_the_last_start_is_told() -> None:
    """Who forgot a card that comes back finds `gpus = [0]` to mean another one."""
    back = recognise(listing(*CARDS[:2]), (replace(CARDS[1], index=0),))
    assert [(card.index, card.key) for card in back.cards] == [(0, "GPU-0"), (1, "GPU-1")]
    [told] = back.told
    assert told.startswith("GPU 0 (GPU-1) is GPU 1 now, as the driver has it: what names GPUs by")


def numbered(cards: Sequence[Card]) -> list[tuple[int, int | None, str]]:
    return [(card.index, card.slice, card.key) for card in cards if not card.is_unknown]


@given(st.data())
def test_whatever_is_found_each_has_one_number_and_keeps_it_at_the_next_start(
    data: st.DataObject,
) -> None:
    draw = data.draw
    places = st.permutations([None, None, *(f"0000:0{n}:00" for n in range(5))])
    of_known, of_listed = draw(places), draw(places)
    known: list[Card] = []
    for index in sorted(draw(st.sets(st.integers(0, 5), max_size=4))):
        where = of_known[index]
        if draw(st.booleans()):
            known.append(Card(f"GPU-{index}", index, "H200", GIB, address=where))
        else:
            known += [Card(f"MIG-{index}-{n}", index, "s", GIB, n, where) for n in range(2)]
    gpus: list[Gpu] = []
    sick: list[SickGpu] = []
    whole: list[Listed] = []
    for index, name in enumerate(draw(st.permutations(range(7)))[: draw(st.integers(1, 5))]):
        match draw(st.sampled_from(("well", "sick", "mute", "sliced", "bare", "empty"))):
            case "well":
                gpus.append(Gpu(index, f"GPU-{name}", "H200", GIB, 0))
                whole.append(Listed(index, f"GPU-{name}", of_listed[index]))
            case "bare":
                gpus.append(Gpu(index, f"GPU-{name}", "H200", GIB, 0))
            case "sick":
                sick.append(lost(index, f"GPU-{name}"))
            case "mute":
                sick.append(lost(index))
            case "sliced":
                gpus += [Gpu(index, f"MIG-{name}-{n}", "s", GIB, 0, n) for n in range(3)]
                whole.append(Listed(index, f"GPU-{name}", of_listed[index]))
            case _:
                sick.append(lost(index, f"GPU-{name}", GpuTrouble.NO_SLICE))
    found = Inventory("570", tuple(gpus), tuple(sick), tuple(whole))
    cards = recognise(found, known).cards
    assert len({card.key for card in cards}) == len(cards)
    assert len({card.place for card in cards}) == len(cards)
    assert {gpu.uuid for gpu in gpus} <= {card.key for card in cards if not card.is_missing}
    if any(each.uuid is None or each.error.trouble is GpuTrouble.NO_SLICE for each in sick):
        return  # what can't be noted is only guessed at, by its neighbours of then
    noted = [card for card in cards if not card.is_unknown]
    again = recognise(found, noted)
    assert numbered(again.cards) == numbered(noted)
    assert again.told == (), "it is told once"
