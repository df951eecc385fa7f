"""Pools on GPUs: what binds is checked before anything starts, and is the same each time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmd.planner.placement import MisfitError, crowded, place
from warmd.planner.pools import Card, OwnPool, PoolWish, Tenant

GIB = 2**30
H200 = [Card(f"GPU-{n}", n, "NVIDIA H200", 140 * GIB) for n in range(2)]


def pool(name: str, gib: int, *cards: str, **tenant: Any) -> PoolWish:
    tenants = (Tenant(f"{name}-model", **tenant),) if tenant else ()
    return PoolWish(name, gib * GIB, cards or None, tenants)


def tenant(name: str, gib: int, **more: Any) -> Tenant:
    return Tenant(name, gib * GIB, **more)


def shared(*tenants: Tenant) -> PoolWish:
    """A pool of 10 GiB on each of two GPUs."""
    return PoolWish("p", 10 * GIB, ("GPU-0", "GPU-1"), tenants)


def test_who_can_not_be_hot_together_is_told_and_accepted() -> None:
    """The second engine of `a` has a GPU of its own."""
    a, b = tenant("a", 6, rests_hot=True, replicas=2), tenant("b", 5, rests_hot=True)
    assert list(crowded([shared(a, tenant("c", 9))])) == []
    (told,) = crowded([shared(a, b)])
    assert told.startswith(
        "the models of pool p that rest hot don't fit in it together, 1.0 GiB are missing: "
        "a (6.0 GiB for each of 2 engines), b (5.0 GiB); only some of them"
    )
    place(H200, [shared(a, b)], GIB)
    assert list(crowded([shared(replace(a, pinned=True), tenant("c", 9))])) == [
        (
            "c (9.0 GiB) can't be hot beside what is pinned and rests hot in pool p (a): there is "
            "no room for both"
        )
    ]


def test_named_gpus_are_taken_as_they_are_named() -> None:
    placed = place(H200, [pool("heavy", 96, "GPU-1"), pool("light", 24, "GPU-1")], GIB)
    assert placed.pools == {"heavy": ("GPU-1",), "light": ("GPU-1",)}


def test_the_others_go_where_they_fit_best_the_largest_first() -> None:
    wishes = [pool("small", 20), pool("named", 100, "GPU-0"), pool("big", 120)]
    assert place(H200, wishes, GIB).pools == {
        "named": ("GPU-0",),
        "big": ("GPU-1",),
        "small": ("GPU-0",),  # 39 left there, 19 beside the big one
    }


def test_a_wide_engine_gets_as_many_gpus() -> None:
    placed = place(H200, [pool("wide", 100, vram=100 * GIB, cards=2)], GIB)
    assert placed.pools == {"wide": ("GPU-0", "GPU-1")}
    assert placed.cards_of("wide", Tenant("m", 1, cards=2), 0) == ("GPU-0", "GPU-1")


@pytest.mark.parametrize(
    ("gib", "replicas", "beside", "cards", "each"),
    [
        (40, 1, 0, ("GPU-0",), 40),
        (40, 2, 0, ("GPU-0", "GPU-1"), 40),
        (40, 3, 0, ("GPU-0", "GPU-1"), 80),
        (40, 2, 110, ("GPU-1",), 80),  # there is no room beside that on the other
    ],
)
def test_a_pool_of_its_own_is_as_large_as_the_model_s_engines(
    gib: int, replicas: int, beside: int, cards: tuple[str, ...], each: int
) -> None:
    model = Tenant("m", gib * GIB, replicas=replicas)
    placed = place(H200, [pool("p", beside, "GPU-0"), OwnPool.of(model)], GIB)
    assert placed.pools["m (its own)"] == cards
    assert placed.vram["m (its own)"] == each * GIB


def test_a_model_without_a_size_has_what_is_left_of_the_emptiest_gpus() -> None:
    small, big = Tenant("small", 0), Tenant("big", 0, cards=2, replicas=2)
    placed = place(H200, [pool("p", 100, "GPU-0")], GIB, [small])
    most = int(0.92 * 140 * GIB)  # as vLLM itself would take of an empty GPU
    assert (placed.pools["small (its own)"], placed.left) == (("GPU-1",), {"small": most})
    placed = place(H200, [pool("p", 100, "GPU-0")], GIB, [big])
    assert placed.pools["big (its own)"] == ("GPU-0", "GPU-1")
    assert placed.vram["big (its own)"] == 39 * GIB
    assert placed.left == {"big": 39 * GIB // 2}, "its two engines stand on both"


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (
            [Tenant("b", 0), Tenant("a", 0), Tenant("c", 0)],
            (
                "a, b and c say nothing of their VRAM, so each wants all that is left of a GPU to "
                "itself, and there are 2 GPUs: state `vram` for them, or put them into one pool:"
            ),
        ),
        ([Tenant("w", 0, cards=3)], "w runs on 3 GPUs at once, and there are 2 GPUs:"),
        ([Tenant("a", 0), Tenant("b", 0)], "nothing is left for b: state its `vram`, and"),
    ],
)
def test_models_without_a_size_that_want_the_same_gpu_are_told(
    rest: list[Tenant], words: str
) -> None:
    with pytest.raises(MisfitError) as misfit:
        place(H200, [pool("p", 139, "GPU-0")], GIB, rest)
    assert str(misfit.value).startswith(words)


def test_engines_are_spread_over_the_pool() -> None:
    placed = place(H200, [pool("p", 100, "GPU-0", "GPU-1")], 0)
    model = Tenant("m", 50 * GIB, replicas=3)
    assert [placed.cards_of("p", model, n) for n in range(3)] == [
        ("GPU-0",),
        ("GPU-1",),
        ("GPU-0",),
    ]


SLICES = [Card(f"MIG-{n}", 0, "NVIDIA H200 MIG 3g.71gb", 70 * GIB, slice=n) for n in range(2)]


def test_slices_are_devices_that_no_wide_engine_can_use() -> None:
    cards = [*SLICES, Card("GPU-1", 1, "NVIDIA H200", 140 * GIB)]
    placed = place(cards, [pool("a", 60), pool("b", 60), pool("wide", 60, "GPU-1")], GIB)
    assert placed.pools == {"a": ("MIG-0",), "b": ("MIG-1",), "wide": ("GPU-1",)}
    with pytest.raises(MisfitError, match="on 2 GPUs, and there is 1:"):
        place(cards, [pool("wide", 60, vram=GIB, cards=2)], GIB)
    with pytest.raises(MisfitError, match="GPU 0:1 of pool wide is a MIG slice"):
        place(cards, [pool("wide", 60, "GPU-1", "MIG-1", vram=GIB, cards=2)], GIB)
    with pytest.raises(MisfitError, match=r"on GPU 0:1: 1\.0 GiB are missing"):
        place(cards, [pool("a", 70, "MIG-1")], GIB)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ([pool("a", 100, "GPU-0"), pool("b", 60, "GPU-0")], "GPU 0: 21.0 GiB are missing"),
        ([pool("a", 140)], "the best place lacks 1.0 GiB"),
        ([pool("a", 10, vram=GIB, cards=3)], "on 3 GPUs, and there are 2:"),
        ([pool("a", 10, vram=11 * GIB)], "1.0 GiB are missing"),
        ([pool("a", 10, "GPU-0", vram=GIB, cards=2)], "on 2 GPUs at once, and pool a has 1"),
        (
            [pool("a", 10, vram=6 * GIB, replicas=2)],
            (
                "2 of 6.0 GiB share a GPU of pool a: 2.0 GiB are missing; give the pool more "
                "`vram` or more `gpus`, or the model fewer `replicas`:\n"
                "  pool a: 10.0 GiB on each GPU\n"
                "    a-model: 6.0 GiB for each of 2 engines"
            ),
        ),
        (
            [shared(tenant("a", 6, pinned=True, replicas=2), tenant("b", 5, pinned=True))],
            (
                "the pinned models of pool p don't fit in it together: 1.0 GiB are missing:\n"
                "  pool p: 10.0 GiB on each GPU\n"
                "    a: 6.0 GiB for each of 2 engines\n"
                "    b: 5.0 GiB"
            ),
        ),
    ],
)
def test_what_does_not_fit_is_told_with_what_is_missing(wishes: list[PoolWish], words: str) -> None:
    with pytest.raises(MisfitError) as misfit:
        place(H200, wishes, GIB)
    assert words in str(misfit.value)


def test_engines_without_a_place_are_told_by_what_lacks_the_least() -> None:
    """Beside each other they lack 41 GiB, all on one GPU 71: only the latter was told."""
    many = OwnPool.of(Tenant("b", 30 * GIB, replicas=5))
    cards = [Card(f"GPU-{n}", n, "a GPU", 80 * GIB) for n in range(2)]
    with pytest.raises(MisfitError) as misfit:
        place(cards, [pool("a", 30, "GPU-0"), many], GIB)
    assert str(misfit.value).splitlines()[0] == (
        "b, a pool of its own wants 90.0 GiB on 2 GPUs, and the best place lacks "
        "41.0 GiB; give it less `vram`, or make room on a GPU:"
    )


def test_a_card_too_small_for_the_headroom_is_none_of_the_pools_concern() -> None:
    small = Card("d", 3, "T400", GIB // 2)
    placed = place([*H200, small], [pool("p", 60, "GPU-0"), pool("q", 60)], GIB)
    assert placed.pools == {"p": ("GPU-0",), "q": ("GPU-0",)}


def test_a_headroom_that_leaves_nothing_is_blamed_itself() -> None:
    with pytest.raises(MisfitError) as misfit:
        place(H200, [pool("p", 60)], 200 * GIB)
    assert (misfit.value.key, str(misfit.value)) == (
        "gpus.headroom",
        "is 200.0 GiB, and GPU 0 has 140.0 GiB: nothing is left for models; lower it",
    )
    assert place(H200, [], 200 * GIB).pools == {}, "nothing is reserved"


def test_the_table_shows_who_wants_what() -> None:
    with pytest.raises(MisfitError) as misfit:
        place(H200[:1], [pool("heavy", 96, "GPU-0"), pool("light", 48, "GPU-0")], GIB)
    assert str(misfit.value).splitlines() == [
        (
            "the pools don't fit on GPU 0: 5.0 GiB are missing; lower a `vram`, or let other "
            "`gpus` be used:"
        ),
        "  GPU 0 NVIDIA H200: 140.0 GiB",
        "    pool heavy: 96.0 GiB",
        "    pool light: 48.0 GiB",
        "    headroom: 1.0 GiB",
        "    missing: 5.0 GiB",
    ]


WISHES = st.lists(
    st.tuples(
        st.integers(1, 150),
        st.one_of(st.none(), st.sets(st.sampled_from(["GPU-0", "GPU-1", "GPU-2"]), min_size=1)),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=6,
)
REST = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3)), max_size=3)


@given(WISHES, REST, st.integers(0, 5))
def test_no_gpu_ever_promises_more_than_it_has(
    drawn: list[tuple[int, set[str] | None, int, bool]],
    undrawn: list[tuple[int, int]],
    headroom: int,
) -> None:
    cards = [Card(f"GPU-{n}", n, "card", (100 + 20 * n) * GIB) for n in range(3)]
    wishes = [
        OwnPool.of(Tenant(f"m{n}", vram * GIB, replicas=width))
        if own
        else PoolWish(
            f"p{n}",
            vram * GIB,
            None if named is None else tuple(sorted(named)),
            (Tenant("m", GIB, cards=1 if named else width),),
        )
        for n, (vram, named, width, own) in enumerate(drawn)
    ]
    rest = [Tenant(f"r{n}", 0, *shape) for n, shape in enumerate(undrawn)]
    try:
        placed = place(cards, wishes, headroom * GIB, rest)
    except MisfitError:
        return  # what it says is held above
    takes = {card.key: headroom * GIB for card in cards}
    for name, keys in placed.pools.items():
        for key in keys:
            takes[key] += placed.vram[name]
    assert all(takes[card.key] <= card.total for card in cards)
    for wish in wishes:
        if not isinstance(wish, OwnPool):
            assert placed.vram[wish.name] == wish.vram
            assert len(placed.pools[wish.name]) == (len(wish.cards) if wish.cards else wish.width)
    alone = [key for tenant in rest for key in placed.pools[tenant.own_pool]]
    assert len(alone) == len(set(alone)), "one to a card"
    everyone = [*(w.tenants[0] for w in wishes if isinstance(w, OwnPool)), *rest]
    for tenant in everyone:
        each = placed.left.get(tenant.name, tenant.vram)
        on = dict.fromkeys(placed.pools[tenant.own_pool], 0)
        for n in range(tenant.replicas):
            for key in placed.cards_of(tenant.own_pool, tenant, n):
                on[key] += each
        assert max(on.values()) <= placed.vram[tenant.own_pool], "all its engines fit at once"
    again = place(cards, list(reversed(wishes)), headroom * GIB, list(reversed(rest)))
    assert again.pools == placed.pools, "the same config, the same places"
