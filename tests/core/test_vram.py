"""The VRAM ledger: what may rise on a card, and who is in the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from warmd.ladder import Phase, Rung
from warmd.planner import (
    CardFacts,
    LookAtCards,
    ModelFacts,
    Plan,
    RamLedger,
    ReplicaFacts,
    Scene,
    SleepEngine,
    StagingFacts,
    StartEngine,
    StopEngine,
    Stranger,
    WakeEngine,
    make_plan,
)
from warmd.planner.card_facts import LOOK_LASTS_S
from warmd.policy import Fairness, Target

NOW = 1000.0
PLENTY = RamLedger(10**12, 0, 10**12, 10**12, 0)
FAIR = Fairness(stay=3.0, hold=5.0, bound=60.0)
RISES = (StartEngine, WakeEngine)


def card(key: str = "GPU-0", used: int = 0, **more: object) -> CardFacts:
    facts: dict[str, object] = {"total": 100, "headroom": 10, "swept_at": NOW - 1.0}
    return CardFacts(key, key.replace("-", " "), used=used, **facts | more)  # type: ignore[arg-type]  # by name


def model(
    name: str,
    phase: Phase,
    *cards: str,
    vram: int = 40,
    pool: str | None = None,
    wait: float | None = None,
    kept: int = 0,
    target: Rung = Rung.HOT,
    pinned: bool = False,
) -> ModelFacts:
    replica = ReplicaFacts(
        f"{name}.0",
        phase,
        retry_at=0.0,
        sleeps=True,
        kept=kept,
        cards=frozenset(cards or ("GPU-0",)),
        next_cards=frozenset(cards or ("GPU-0",)),
    )
    return ModelFacts(
        name,
        Target(target, 1, f"{name} shall"),
        [replica],
        StagingFacts(total=None),
        oldest_wait=wait or 0.0,
        waiting=0 if wait is None else 1,
        idle_s=1000.0,
        pool=pool or f"of {name}",
        vram=vram,
        pinned=pinned,
        switch_cost=1.0,
    )


def plan(cards: Sequence[CardFacts], *models: ModelFacts, pool: int = 100) -> Plan:
    pools = {m.pool: pool for m in models if m.pool}
    return make_plan(Scene(models, PLENTY, NOW, pools, FAIR, {c.key: c for c in cards}))


def rises(made: Plan) -> list[str]:
    return [each.replica for each in made.actions if isinstance(each, RISES)]


def test_what_fits_beside_the_others_rises() -> None:
    a, b = model("a", Phase.READY, vram=40), model("b", Phase.DOWN, vram=50, wait=0.0)
    assert rises(plan([card(used=40)], a, b)) == ["b.0"]


def test_a_reservation_holds_though_little_of_it_is_used_yet() -> None:
    a, b = model("a", Phase.READY, vram=60), model("b", Phase.DOWN, vram=50, wait=0.0)
    made = plan([card(used=5, ours={"a.0": 5})], a, b)
    assert made.actions == ()
    assert made.held_up["b"] == (
        "GPU 0 lacks 20 bytes for b.0, which wants 50 bytes: of its 100 bytes "
        "a.0 reserves 60 bytes, 10 bytes stay free as headroom"
    )


def test_a_sleeper_counts_what_it_keeps_and_a_wake_needs_the_rest_alone() -> None:
    a, b = model("a", Phase.ASLEEP, vram=80, kept=30, wait=0.0), model("b", Phase.DOWN, vram=60)
    seen = card(used=35, ours={"a.0": 30})
    assert rises(plan([seen], a)) == ["a.0"], "80 - 30 of the 65 that are free"
    made = plan([seen], b, replace(a, target=Target(Rung.ASLEEP, 1, ""), waiting=0))
    assert rises(made) == ["b.0"]
    made = plan([seen], replace(b, vram=61), replace(a, target=Target(Rung.ASLEEP, 1, "")))
    assert "a.0 keeps 30 bytes" in made.held_up["b"]


def test_a_stranger_is_named_and_never_started_over() -> None:
    who = Stranger("process 4711 (python)", 61)
    made = plan([card(used=61, foreign=(who,))], model("a", Phase.DOWN, wait=0.0))
    assert made.actions == ()
    assert made.held_up["a"] == (
        "GPU 0 lacks 1 bytes for a.0, which wants 40 bytes: of its 100 bytes "
        "process 4711 (python) holds 61 bytes"
    )


def test_a_small_stranger_fits_into_the_headroom() -> None:
    who = Stranger("process 812 (Xorg)", 9)
    whole = model("a", Phase.DOWN, wait=0.0, vram=90)
    assert rises(plan([card(used=9, foreign=(who,))], whole)) == ["a.0"]
    assert rises(plan([card(used=11, foreign=(replace(who, held=11),))], whole)) == []


def test_what_the_driver_names_nobody_for_is_not_free_either() -> None:
    made = plan([card(used=70)], model("a", Phase.DOWN, wait=0.0))
    assert made.held_up["a"] == (
        "GPU 0 has 30 bytes free of 100 bytes, and a.0 needs 40 bytes: "
        "70 bytes are held by nobody whom the driver names"
    )


def test_an_engine_that_took_more_than_its_reservation_counts_with_what_it_took() -> None:
    a, b = model("a", Phase.READY, vram=40), model("b", Phase.DOWN, vram=46, wait=0.0)
    made = plan([card(used=55, ours={"a.0": 55})], a, b)
    assert "a.0 holds 55 bytes" in made.held_up["b"]


def test_what_an_engine_takes_beyond_its_reservation_fits_into_the_headroom_first() -> None:
    """Else 1 MiB more than promised, which nobody tells of, kept the neighbour of a full card."""
    a, b = model("a", Phase.READY, vram=40), model("b", Phase.DOWN, vram=50, wait=0.0)
    assert rises(plan([card(used=43, ours={"a.0": 43})], a, b)) == ["b.0"]
    small = Stranger("process 812 (Xorg)", 8)
    made = plan([card(used=51, ours={"a.0": 43}, foreign=(small,))], a, b)
    assert made.held_up["b"] == (
        "GPU 0 lacks 1 bytes for b.0, which wants 50 bytes: of its 100 bytes a.0 holds 43 bytes, "
        "process 812 (Xorg) holds 8 bytes"
    )


def test_every_card_of_a_wide_engine_must_have_room() -> None:
    wide = model("a", Phase.DOWN, "GPU-0", "GPU-1", wait=0.0)
    cards = [card(), card("GPU-1", used=60, foreign=(Stranger("process 7 (x)", 70),))]
    assert "GPU 1 lacks 10 bytes" in plan(cards, wide).held_up["a"]


def test_a_look_that_is_too_old_is_no_leave_to_rise() -> None:
    for asked, old in (
        (model("a", Phase.ASLEEP, wait=0.0), card(swept_at=NOW - 60.0)),
        (model("a", Phase.DOWN, "host", wait=0.0), card("host", swept_at=NOW - 60.0)),
        (model("a", Phase.DOWN, wait=0.0), card(moved_at=NOW)),
        (model("a", Phase.DOWN, wait=0.0), card(swept_at=-math.inf)),
    ):
        made = plan([old], asked)
        assert made.actions == (LookAtCards(f"a.0 shall rise on {old.words}"),)
        looked_at = f"{old.words} is looked at first: what it holds may have changed"
        assert made.held_up["a"] == looked_at
    asked = model("a", Phase.DOWN, wait=0.0)
    assert rises(plan([card(moved_at=NOW - 2.0)], asked)) == ["a.0"]


def test_a_start_does_not_wait_for_a_driver_to_wake_but_for_its_word_before_it_takes_memory() -> (
    None
):
    """It imports for seconds first, and so long users wait for nothing else."""
    made = plan([card(swept_at=NOW - 3600.0)], model("a", Phase.DOWN, wait=0.0))
    assert made.actions == (StartEngine("a.0", "a shall"),), "a look comes once its program runs"
    starting = model("a", Phase.STARTING, wait=0.0)
    begun = replace(starting, replicas=[replace(starting.replicas[0], since=NOW - 4.0)])
    taken = card(used=90, foreign=(Stranger("process 7 (x)", 90),))
    [called_off] = plan([taken], begun).actions
    assert isinstance(called_off, StopEngine)
    assert "process 7 (x) holds 90 bytes" in called_off.reason
    assert plan([replace(taken, swept_at=NOW - 4.5)], begun).actions == (), "seen before it began"
    loading = replace(starting, replicas=[replace(starting.replicas[0], since=NOW - 30.0)])
    assert plan([replace(taken, ours={"a.0": 1})], begun).actions == (), "it has begun to take its"
    assert plan([taken], loading).actions == (), "what is held now may be its own"
    # A disk that is slow to show the model's headers holds up a start before its program runs.
    for late in ({"launches": True}, {"launched_at": NOW - 3.0}):
        read = replace(loading.replicas[0], **late)
        [called_off] = plan([taken], replace(starting, replicas=[read])).actions
        assert isinstance(called_off, StopEngine)


def test_nothing_is_started_where_nobody_can_tell_and_nobody_is_asked_more_often_for_it() -> None:
    made = plan([card(trouble="the driver is gone")], model("a", Phase.DOWN, wait=0.0))
    assert made.actions == ()
    assert made.held_up["a"] == "nobody can tell what is free on GPU 0: the driver is gone"


def test_a_model_without_a_reservation_is_not_asked_for_room() -> None:
    a = replace(model("a", Phase.DOWN, wait=0.0, vram=0), pool=None)
    assert rises(plan([card(used=100)], a)) == ["a.0"]


def test_nobody_is_put_aside_for_one_that_could_not_start_all_the_same() -> None:
    a, b = (
        model("a", Phase.READY, pool="p", vram=40),
        model("b", Phase.DOWN, pool="p", vram=40, wait=90.0),
    )
    (aside,) = plan([card(used=40, ours={"a.0": 40})], a, b, pool=60).actions
    assert isinstance(aside, SleepEngine)
    for blocked in (
        card(used=100, ours={"a.0": 35}, foreign=(Stranger("process 7 (x)", 65),)),
        card(used=100, ours={"a.0": 30}),
        card(trouble="the driver is gone"),
    ):
        made = plan([blocked], a, b, pool=60)
        assert made.actions == ()
        assert made.held_up["b"]


# Over random hosts


def is_awake(model: ModelFacts) -> bool:
    phase = model.replicas[0].phase
    return phase.is_up and phase is not Phase.ASLEEP


CARDS = ("GPU-0", "GPU-1")
SIZE = st.integers(0, 70)
PHASES = st.sampled_from([Phase.DOWN, Phase.READY, Phase.ASLEEP, Phase.STARTING, Phase.STOPPING])
MODEL = st.tuples(
    PHASES,
    st.integers(1, 60),  # vram
    st.integers(0, 30),  # kept
    st.sampled_from(["p", "q", None]),
    st.sampled_from([("GPU-0",), ("GPU-1",), CARDS]),
    st.sampled_from([None, 0.0, 90.0]),
    st.sampled_from([Rung.HOT, Rung.ASLEEP, Rung.STAGED]),
    st.booleans(),
)
CARD = st.tuples(
    SIZE,  # what a stranger holds
    SIZE,  # what nobody is named for
    st.sampled_from([NOW - 1.0, NOW - 60.0]),
    st.sampled_from([NOW - 30.0, NOW - 0.5]),
    st.sampled_from([None, None, None, "the driver is gone"]),
    st.sampled_from([None, None, None, "Xid 94"]),
    st.lists(st.integers(0, 70), min_size=6, max_size=6),  # what each replica holds
)


@settings(max_examples=300, deadline=None)
@given(st.lists(MODEL, min_size=1, max_size=6), st.tuples(CARD, CARD), st.integers(0, 20))
def test_no_plan_promises_more_than_a_card_has(
    drawn: list[tuple[Phase, int, int, str | None, tuple[str, ...], float | None, Rung, bool]],
    seen: tuple[tuple[int, int, float, float, str | None, str | None, list[int]], ...],
    headroom: int,
) -> None:
    models = [
        model(
            f"m{n}",
            phase,
            *cards,
            vram=vram,
            kept=kept,
            pool=pool,
            wait=wait,
            target=Rung.HOT if wait is not None else rung,
            pinned=pinned,
        )
        for n, (phase, vram, kept, pool, cards, wait, rung, pinned) in enumerate(drawn)
    ]
    cards = []
    for key, told in zip(CARDS, seen, strict=True):
        foreign, hidden, swept, moved, trouble, sick, holds = told
        up = [m for m in models if m.replicas[0].phase.is_up and key in m.replicas[0].cards]
        ours = {m.replicas[0].name: h for m, h in zip(up, holds, strict=False) if h}
        used = min(100, foreign + hidden + sum(ours.values()))
        stranger = (Stranger("process 7 (x)", foreign),) if foreign else ()
        cards.append(
            CardFacts(key, key, 100, headroom, used, ours, stranger, swept, moved, trouble, sick)
        )
    made = plan(cards, *models)
    by_replica = {m.replicas[0].name: m for m in models}
    rising = set(rises(made))
    for each in cards:
        taken, beyond = 0, sum(s.held for s in each.foreign)
        newcomers = [
            by_replica[name] for name in rising if each.key in by_replica[name].replicas[0].cards
        ]
        for other in models:
            replica = other.replicas[0]
            if each.key in replica.cards and replica.phase.is_up and replica.name not in rising:
                promised = replica.kept if replica.phase is Phase.ASLEEP else other.vram
                taken += promised
                beyond += max(0, each.ours.get(replica.name, 0) - promised)
        for newcomer in newcomers:
            replica = newcomer.replicas[0]
            keeps = each.ours.get(replica.name, replica.kept)
            lasts = LOOK_LASTS_S if replica.phase is Phase.ASLEEP else math.inf
            assert each.is_known(NOW, lasts), "nothing rises on a card that nobody has looked at"
            assert each.quarantine is None
            assert newcomer.vram <= each.free + (keeps if replica.phase is Phase.ASLEEP else 0)
        if newcomers:
            set_aside = max(each.headroom, beyond)
            assert taken + set_aside + sum(m.vram for m in newcomers) <= each.total
            assert len(newcomers) == 1, "one operation on a card at a time"
    asked = {m.pool for m in models if m.waiting}
    for action in made.actions:
        if isinstance(action, StopEngine | SleepEngine):
            aside = by_replica[action.replica]
            if aside.target.rung is Rung.HOT:
                of_pool = [m for m in models if m.pool == aside.pool and is_awake(m)]
                on = [sum(m.vram for m in of_pool if k in m.replicas[0].cards) for k in CARDS]
                crowded = max(on) > 100
                assert aside.pool in asked or crowded, "nobody is evicted across pools"
                assert not aside.pinned, "a pinned model is never evicted"
    begun = [by_replica[name] for a in made.actions if (name := getattr(a, "replica", None))]
    for shall in models:
        replica = shall.replicas[0]
        meets = any(replica.meets(other.replicas[0]) for other in begun)
        if shall.waiting and replica.phase in (Phase.DOWN, Phase.ASLEEP) and not meets:
            assert made.held_up.get(shall.name), "every refused start carries a reason"


# What a reload has moved or resized


def changed(facts: ModelFacts, *, stale: bool = False) -> ModelFacts:
    replica = replace(facts.replicas[0], stale=stale, renewed=True)
    return replace(facts, replicas=[replica])


def test_a_stale_engine_makes_way_for_one_that_a_reload_gave_its_place_to() -> None:
    """`a` may be smaller from now on and `b` larger: `b` was made anew first, and finds no room."""
    a = changed(model("a", Phase.READY, vram=30), stale=True)
    b = changed(model("b", Phase.DOWN, vram=55))
    other = changed(model("other", Phase.READY, "GPU-1"), stale=True)
    cards = [card(used=60, ours={"a.0": 60}), card("GPU-1")]
    for asked in (b, replace(b, waiting=1, oldest_wait=50.0)):
        made = plan(cards, other, asked, a)
        assert made.actions == (StopEngine("a.0", "its settings have changed", anew=True),)
    # Until somebody has looked nobody knows whether it is in the way.
    made = plan([replace(cards[0], moved_at=NOW), cards[1]], other, b, a)
    assert made.actions == (LookAtCards("b.0 shall rise on GPU 0"),)
    # Where a stranger is in the way all the same, the others wait for the changed one.
    made = plan([card(used=60, foreign=(Stranger("process 7 (x)", 60),)), cards[1]], other, b, a)
    assert made.actions == ()


def rehearsing(facts: ModelFacts) -> ModelFacts:
    return replace(facts, replicas=[replace(r, rehearses=True) for r in facts.replicas])


def test_what_sleeps_for_its_rehearsal_keeps_its_reservation_and_wakes_before_all_others() -> None:
    slept = rehearsing(model("a", Phase.ASLEEP, "GPU-0", pool="p", kept=5, pinned=True))
    asks = model("b", Phase.DOWN, "GPU-0", pool="p", vram=60, wait=55.0)
    seen = card(used=5, ours={"a.0": 5})
    made = plan([seen], asks, slept, pool=90)
    assert made.actions == (WakeEngine("a.0", "a shall"),)
    assert "pool p is full" in made.held_up["b"]
    barred = plan([replace(seen, used=90)], asks, slept, pool=90)
    assert not barred.actions, "a stranger keeps it from waking, and still nobody has its place"
    unseen = replace(seen, moved_at=NOW)
    free = model("c", Phase.DOWN, "GPU-0", vram=0, wait=9.0)
    made = plan([unseen], free, slept, pool=90)
    assert [type(action) for action in made.actions] == [LookAtCards], "nor before that look"


def test_no_rehearsal_begins_while_somebody_waits_or_rises_on_its_card() -> None:
    quiet = replace(model("a", Phase.READY, "GPU-0", pool="p", pinned=True), rehearse=True)
    seen = [card(used=40, ours={"a.0": 40}), card("GPU-1")]
    begun = SleepEngine(
        "a.0",
        "a rehearsal: nobody asks for it, and what its sleep takes was never measured",
        rehearsal=True,
    )
    assert plan(seen, quiet).actions == (begun,)
    full = model("b", Phase.DOWN, "GPU-0", pool="p", vram=60, wait=1.0)
    assert plan(seen, quiet, full, pool=90).actions == ()
    elsewhere = model("b", Phase.DOWN, "GPU-1", pool="p", vram=95, wait=1.0)
    assert plan(seen, quiet, elsewhere, pool=90).actions == (begun,)
    late = model("b", Phase.BACKING_OFF, "GPU-0", vram=20)
    late = replace(late, replicas=[replace(late.replicas[0], retry_at=NOW + 9.0)])
    assert plan(seen, quiet, late).actions == ()
    nobody_asks = model("b", Phase.DOWN, "GPU-0", pool="p", vram=60)
    assert plan(seen, quiet, nobody_asks, pool=90).actions == (begun,)


def test_who_holds_the_hosts_memory_is_named_where_that_keeps_an_engine_from_starting() -> None:
    rest = Stranger("the rest of this host", 70)
    host = card(key="host", used=70, foreign=(rest,), named=False)
    asks = model("a", Phase.DOWN, "host", vram=40, wait=1.0)
    made = plan([host], asks)
    assert made.actions == (LookAtCards("a.0 shall rise on host", names=True),)
    assert plan([replace(host, named=True)], asks).actions == (), "they were looked for"
    fits = replace(host, used=10, foreign=())
    assert rises(plan([fits], asks)) == ["a.0"]
    old = replace(fits, swept_at=NOW - 60.0)
    assert plan([old], asks).actions == (LookAtCards("a.0 shall rise on host"),)
