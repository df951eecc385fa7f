"""Room in a pool: who makes room for whom, when, and how warm it stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmd.ladder import Phase, Rung
from warmd.planner import (
    ModelFacts,
    RamLedger,
    ReplicaFacts,
    Scene,
    SleepEngine,
    StagingFacts,
    StartEngine,
    StopEngine,
    WakeEngine,
    make_plan,
)
from warmd.policy import Fairness, Holder, Rank, Stays, Target, Yields, judge

FAIR = Fairness(stay=3.0, hold=5.0, bound=60.0)
PLENTY = RamLedger(10**12, 0, 10**12, 10**12, 0)


def test_what_is_hot_stays_in_proportion_to_its_switch_cost() -> None:
    quiet = Holder(hot_for=5.9, switch_cost=2.0, in_flight=0, idle_s=100.0)
    assert judge(quiet, 1.0, FAIR) == Stays(
        "it has been hot for 5.9 s and would stay for 6 s", 59.0
    )
    assert isinstance(judge(replace(quiet, hot_for=6.0), 1.0, FAIR), Yields)


def test_a_tool_call_s_gap_is_no_idleness() -> None:
    agent = Holder(hot_for=900.0, switch_cost=2.0, in_flight=0, idle_s=4.0)
    assert judge(agent, 1.0, FAIR) == Stays("its last request has only just ended", 59.0)
    assert isinstance(judge(replace(agent, idle_s=5.0), 1.0, FAIR), Yields)


def test_a_pool_that_a_reload_made_smaller_keeps_nobody_beyond_its_room() -> None:
    """Nobody is evicted across pools: who has the room now would wait for it for ever."""
    a, b = facts("a", Phase.READY, idle_s=10.0), facts("b", Phase.READY, idle_s=900.0)
    why = "pool p has become smaller, and lacks 20 bytes for all that is hot"
    assert make_plan(scene(a, b)).actions == (SleepEngine("b.0", why),)
    going = facts("b", Phase.DRAINING)
    assert make_plan(scene(a, going)).actions == ()
    assert make_plan(scene(a, facts("b", Phase.ASLEEP, kept=10))).actions == ()
    pinned = replace(b, pinned=True)
    assert make_plan(scene(a, pinned)).actions == (SleepEngine("a.0", why),)
    stale = replace(a, replicas=[replace(a.replicas[0], stale=True)])
    assert make_plan(scene(stale, b)).actions == (
        StopEngine("a.0", "its settings have changed", anew=True),
    )


def test_nobody_waits_beyond_the_bound_because_another_is_busy() -> None:
    """llama-swap#612."""
    busy = Holder(hot_for=1.0, switch_cost=50.0, in_flight=7, idle_s=0.0)
    assert isinstance(judge(busy, 59.9, FAIR), Stays)
    assert isinstance(judge(busy, 60.0, FAIR), Yields)


def facts(
    name: str,
    phase: Phase,
    *,
    vram: int = 60,
    wait: float | None = None,
    pool: str | None = "p",
    hot_for: float = 1000.0,
    idle_s: float = 1000.0,
    in_flight: int = 0,
    cost: float = 1.0,
    kept: int = 0,
    sleeps: bool = True,
    target: Rung = Rung.HOT,
    rank: Rank = Rank.RESTS,
) -> ModelFacts:
    replica = ReplicaFacts(
        f"{name}.0",
        phase,
        since=-hot_for,
        in_flight=in_flight,
        sleeps=sleeps,
        kept=kept,
        pins=0 if phase is Phase.ASLEEP else 10,
    )
    return ModelFacts(
        name,
        Target(target, 1, f"{name} shall", rank),
        [replica],
        StagingFacts(total=None),
        oldest_wait=wait or 0.0,
        waiting=0 if wait is None else 1,
        idle_s=idle_s,
        pool=pool,
        vram=vram,
        switch_cost=cost,
    )


def scene(*models: ModelFacts, ram: RamLedger = PLENTY, pool: int = 100) -> Scene:
    return Scene(models, ram, 0.0, {"p": pool, "q": pool}, FAIR)


def test_what_fits_together_is_hot_together() -> None:
    made = make_plan(
        scene(facts("a", Phase.READY, vram=40), facts("b", Phase.DOWN, vram=60, wait=0.0))
    )
    assert made.actions == (StartEngine("b.0", "b shall"),)


def test_a_model_whose_size_nobody_knows_is_not_started_and_puts_nobody_aside() -> None:
    b = replace(facts("b", Phase.DOWN, pool=None, wait=0.0), unsized="its disk is away")
    made = make_plan(scene(facts("a", Phase.READY), b))
    assert (made.actions, made.held_up) == ((), {"b": "its disk is away"})


def test_an_idle_model_is_put_to_sleep_for_one_that_is_asked() -> None:
    made = make_plan(scene(facts("a", Phase.READY), facts("b", Phase.ASLEEP, wait=0.0)))
    why = "put aside for b: it makes room for a model that requests wait for"
    assert made.actions == (SleepEngine("a.0", why),)
    assert made.held_up == {
        "b": "pool p is full: it lacks 20 bytes for b.0; a.0 is put aside for it"
    }


def test_who_has_waited_longest_is_served_before_its_engine_makes_room_again() -> None:
    """Else two models whose requests are both past the bound start in turns and serve nobody."""
    late = facts("b", Phase.DOWN, wait=70.0)
    assert not make_plan(scene(facts("a", Phase.READY, wait=71.0), late)).actions
    (aside,) = make_plan(scene(facts("a", Phase.READY, wait=69.0), late)).actions
    assert isinstance(aside, SleepEngine)


def test_it_is_stopped_where_it_can_not_sleep() -> None:
    b = facts("b", Phase.ASLEEP, wait=0.0)
    (stopped,) = make_plan(scene(facts("a", Phase.READY, sleeps=False), b)).actions
    assert isinstance(stopped, StopEngine)
    poor = RamLedger(10**12, 0, 10**12, 5, 0)
    (refused,) = make_plan(scene(facts("a", Phase.READY), b, ram=poor)).actions
    assert isinstance(refused, StopEngine)
    assert refused.sleepless
    assert "ram.sleeping" in refused.reason


def test_nobody_makes_room_for_a_model_that_nobody_waits_for() -> None:
    made = make_plan(scene(facts("a", Phase.READY), facts("b", Phase.ASLEEP)))
    assert made.actions == ()
    assert made.held_up == {
        "b": "pool p is full: it lacks 20 bytes for b.0; room is made there once a request waits "
        "for it"
    }


def test_a_busy_model_is_waited_for_and_the_waiting_hear_how_long() -> None:
    a = facts("a", Phase.READY, in_flight=2, idle_s=0.0)
    early = make_plan(scene(a, facts("b", Phase.DOWN, wait=20.0)))
    assert early.actions == ()
    assert early.held_up["b"] == (
        "pool p is full: it lacks 20 bytes for b.0; a.0 is hot there: it serves 2 requests, "
        "but for 40 s more at most"
    )
    (late,) = make_plan(scene(a, facts("b", Phase.DOWN, wait=60.0))).actions
    assert isinstance(late, SleepEngine)


def test_the_one_that_idled_longest_for_what_it_costs_goes_first() -> None:
    cheap = facts("cheap", Phase.READY, vram=50, idle_s=100.0, cost=1.0)
    dear = facts("dear", Phase.READY, vram=50, idle_s=200.0, cost=60.0)
    (put,) = make_plan(scene(dear, cheap, facts("b", Phase.DOWN, vram=50, wait=0.0))).actions
    assert isinstance(put, SleepEngine)
    assert put.replica == "cheap.0"


def test_one_that_is_enough_goes_before_several_that_are_not() -> None:
    small = facts("small", Phase.READY, vram=10, idle_s=9000.0)
    big = facts("big", Phase.READY, vram=90, idle_s=100.0)
    (put,) = make_plan(scene(small, big, facts("b", Phase.DOWN, vram=80, wait=0.0))).actions
    assert isinstance(put, SleepEngine)
    assert put.replica == "big.0"


def test_what_a_sleeper_keeps_counts_and_it_goes_when_only_that_helps() -> None:
    sleeper = facts("a", Phase.ASLEEP, kept=50, target=Rung.ASLEEP)
    (stopped,) = make_plan(scene(sleeper, facts("b", Phase.DOWN, vram=60, wait=0.0))).actions
    assert isinstance(stopped, StopEngine)
    assert "asleep it keeps 50 bytes of the pool" in stopped.reason
    (begun,) = make_plan(scene(sleeper, facts("b", Phase.DOWN, vram=50, wait=0.0))).actions
    assert begun == StartEngine("b.0", "b shall")


def test_a_sleeper_that_is_enough_goes_before_anybody_waits_for_a_busy_one() -> None:
    busy = facts("a", Phase.READY, vram=50, in_flight=1)
    sleeper = facts("s", Phase.ASLEEP, kept=20, target=Rung.ASLEEP)
    (stopped,) = make_plan(scene(busy, sleeper, facts("b", Phase.DOWN, vram=40, wait=0.0))).actions
    assert isinstance(stopped, StopEngine)
    assert stopped.replica == "s.0"


def test_a_wake_that_somebody_waits_for_goes_before_cooling() -> None:
    idle = facts("a", Phase.READY, pool=None, target=Rung.ASLEEP)
    made = make_plan(scene(idle, facts("b", Phase.ASLEEP, pool=None, wait=0.0)))
    assert made.actions == (WakeEngine("b.0", "b shall"),)


PHASES = st.sampled_from([Phase.DOWN, Phase.READY, Phase.ASLEEP, Phase.BACKING_OFF, Phase.FAILED])
HOUSES = st.lists(
    st.builds(
        lambda **kw: kw,
        phase=PHASES,
        vram=st.integers(1, 100),
        wait=st.one_of(st.none(), st.floats(0, 200)),
        pool=st.sampled_from(["p", "q", None]),
        hot_for=st.floats(0, 100),
        idle_s=st.floats(0, 100),
        in_flight=st.integers(0, 2),
        cost=st.floats(0, 60),
        kept=st.integers(0, 30),
        sleeps=st.booleans(),
        target=st.sampled_from([Rung.STAGED, Rung.ASLEEP, Rung.HOT]),
        rank=st.sampled_from([Rank.RESTS, *Rank]),
    ),
    min_size=1,
    max_size=5,
)


WISHED = (Rank.CALENDAR, Rank.OPERATOR)


def is_awake(model: ModelFacts) -> bool:
    phase = model.replicas[0].phase
    return phase.is_up and phase is not Phase.ASLEEP


@given(HOUSES, st.integers(0, 200))
def test_no_eviction_crosses_a_pool_and_no_pool_overflows(
    houses: Sequence[dict[str, object]], budget: int
) -> None:
    models = [facts(f"m{n}", **kw) for n, kw in enumerate(houses)]  # type: ignore[arg-type]  # drawn to fit
    by_replica = {m.replicas[0].name: m for m in models}
    taken = {
        pool: sum(
            m.replicas[0].kept if m.replicas[0].phase is Phase.ASLEEP else m.vram
            for m in models
            if m.pool == pool and m.replicas[0].phase.is_up
        )
        for pool in ("p", "q")
    }
    ram = RamLedger(10**12, 0, 10**12, budget, 0)
    made = make_plan(scene(*models, ram=ram))
    operations = [a for a in made.actions if not hasattr(a, "model")]
    assert len(operations) <= 1, "one at a time"
    for action in operations:
        assert isinstance(action, StartEngine | StopEngine | SleepEngine | WakeEngine)
        model = by_replica[action.replica]
        replica = model.replicas[0]
        match action:
            case StartEngine() | WakeEngine() if model.pool is not None:
                after = taken[model.pool] + model.vram
                after -= replica.kept if replica.phase is Phase.ASLEEP else 0
                assert after <= 100, "a pool is never overfilled"
            case SleepEngine():
                assert replica.phase is Phase.READY
                assert replica.sleeps
                assert replica.pins <= budget
            case _:
                pass
        if isinstance(action, SleepEngine | StopEngine) and model.target.rung is Rung.HOT:
            waiting = [m for m in models if m.waiting and m.pool == model.pool and m is not model]
            awake = [m.vram for m in models if m.pool == model.pool and is_awake(m)]
            crowded = sum(awake) > 100
            planned = model.target.rank is Rank.RESTS and any(
                m.target.rank in WISHED and m.target.rung is Rung.HOT
                for m in models
                if m.pool == model.pool
            )
            assert waiting or crowded or planned, "nobody in its pool wants it, and yet it goes"
            assert model.pool is not None


def carried_out(models: Sequence[ModelFacts]) -> list[ModelFacts] | None:
    """The models once what is planned has been done; None where there is nothing to do."""
    made = make_plan(scene(*models))
    phases = {}
    for action in made.actions:
        match action:
            case StartEngine(replica=name) | WakeEngine(replica=name):
                phases[name] = Phase.READY
            case SleepEngine(replica=name):
                phases[name] = Phase.ASLEEP
            case StopEngine(replica=name):
                phases[name] = Phase.DOWN
            case _:
                pass
    found = [
        replace(m, replicas=[replace(r, phase=phases.get(r.name, r.phase)) for r in m.replicas])
        for m in models
    ]
    return found if phases else None


CALM = HOUSES.map(lambda houses: [{**each, "wait": None, "in_flight": 0} for each in houses])


@given(CALM)
def test_without_requests_a_pool_comes_to_rest_with_what_calendars_and_operators_want(
    houses: Sequence[dict[str, object]],
) -> None:
    models = [facts(f"m{n}", **kw) for n, kw in enumerate(houses)]  # type: ignore[arg-type]  # drawn to fit
    for _ in range(4 * len(models)):
        after = carried_out(models)
        if after is None:
            break
        models = after
    else:
        raise AssertionError("they put each other aside for ever")
    for model in (m for m in models if m.pool == "p" and m.target.rank in WISHED):
        replica = model.replicas[0]
        rises = model.target.rung is Rung.HOT and replica.phase in (Phase.DOWN, Phase.ASLEEP)
        others = [m for m in models if m.pool == "p" and m is not model]
        firm = sum(
            (m.replicas[0].kept if m.replicas[0].phase is Phase.ASLEEP else m.vram)
            for m in others
            if m.replicas[0].phase.is_up and m.target.rank is not Rank.RESTS
        )
        assert not rises or firm + model.vram > 100, "there would have been room for it"


def planned(name: str, phase: Phase = Phase.DOWN, **more: object) -> ModelFacts:
    """A model that its calendar wants hot, and nobody asks for."""
    return facts(name, phase, rank=Rank.CALENDAR, **more)  # type: ignore[arg-type]  # as there


def test_what_only_rests_makes_room_for_what_a_calendar_wants_hot() -> None:
    made = make_plan(scene(facts("a", Phase.READY), planned("b")))
    why = "put aside for b, which its calendar wants: it only rests there"
    assert made.actions == (SleepEngine("a.0", why),)
    assert made.held_up["b"] == FULL + "a.0 is put aside for it"
    keeps = facts("a", Phase.ASLEEP, kept=50)
    stopped = "stopped for b, which its calendar wants: asleep it keeps 50 bytes of the pool"
    assert make_plan(scene(keeps, planned("b"))).actions == (StopEngine("a.0", stopped),)
    added = [ReplicaFacts("b.0", Phase.READY), ReplicaFacts("b.1", Phase.DOWN)]
    two = replace(facts("b", Phase.DOWN, vram=40), replicas=added)
    for more, moves in ((1, True), (0, False)):
        wants = replace(two, target=Target(Rung.HOT, 2, "b shall", Rank.DEMAND, added=more))
        assert bool(make_plan(scene(facts("a", Phase.READY), wants)).actions) is moves


@pytest.mark.parametrize(
    "other",
    [
        *(facts("a", Phase.READY, rank=rank) for rank in Rank if rank is not Rank.RESTS),
        facts("a", Phase.READY, in_flight=1),
        facts("a", Phase.READY, wait=1.0),
        replace(facts("a", Phase.READY), pinned=True),
        facts("a", Phase.ASLEEP, kept=50, rank=Rank.CALENDAR, target=Rung.ASLEEP),
    ],
)
def test_nothing_else_makes_room_for_a_calendar(other: ModelFacts) -> None:
    assert make_plan(scene(other, planned("b"))).actions == ()


def test_what_only_rests_makes_room_for_what_an_operator_sets_hot_and_nothing_else_does() -> None:
    wish = facts("b", Phase.DOWN, rank=Rank.OPERATOR)
    why = "put aside for b, which an operator set hot: it only rests there"
    assert make_plan(scene(facts("a", Phase.READY), wish)).actions == (SleepEngine("a.0", why),)
    put_aside = [facts("a", Phase.ASLEEP), facts("b", Phase.READY, rank=Rank.OPERATOR)]
    assert make_plan(scene(*put_aside)).actions == (), "who was moved moves nobody by itself"
    asleep = facts("b", Phase.DOWN, rank=Rank.OPERATOR, target=Rung.ASLEEP)
    assert make_plan(scene(facts("a", Phase.READY), asleep)).actions == ()


@pytest.mark.parametrize("rank", [Rank.CALENDAR, Rank.OPERATOR])
@pytest.mark.parametrize(
    ("other", "why"),
    [
        (facts("a", Phase.READY, in_flight=2), "is hot there: it serves 2 requests"),
        (facts("a", Phase.READY, wait=1.0), "is hot there: requests wait for it"),
        (replace(facts("a", Phase.READY), pinned=True), "is hot there and pinned, it makes room "),
        (facts("a", Phase.READY, rank=Rank.OPERATOR), "is hot there: an operator set it"),
        (
            replace(facts("a", Phase.READY, rank=Rank.OPERATOR), stays_for=4800.0),
            "is hot there: an operator set it, for 1 h 20 min more",
        ),
        (
            replace(facts("a", Phase.READY, rank=Rank.DEMAND), stays_for=40.0),
            "is hot there: it was asked for lately, and only rests there in 40 s unless",
        ),
        (
            replace(facts("a", Phase.READY, rank=Rank.CALENDAR), stays_for=3600.0),
            "is hot there: its own calendar wants it for 1 h more",
        ),
        (
            facts("a", Phase.ASLEEP, kept=50, rank=Rank.CALENDAR, target=Rung.ASLEEP),
            "is asleep there: its own calendar wants it",
        ),
    ],
)
def test_who_stays_where_something_is_wished_is_named_with_why_and_for_how_long(
    other: ModelFacts, why: str, rank: Rank
) -> None:
    made = make_plan(scene(other, facts("b", Phase.DOWN, rank=rank)))
    held = made.held_up["b"]
    assert made.actions == ()
    assert f"; a.0 {why}" in held
    assert "once a request waits" not in held


def test_one_that_failed_is_told_that_it_moves_nobody() -> None:
    failed = planned("b")
    failed = replace(failed, replicas=[replace(failed.replicas[0], failures=1)])
    held = make_plan(scene(facts("a", Phase.READY), failed)).held_up["b"]
    assert held.endswith("b.0 failed to start, and puts nobody aside before it has come up")


def test_nobody_is_moved_for_a_calendar_in_vain() -> None:
    idle = facts("a", Phase.READY, vram=30)
    busy = facts("c", Phase.READY, rank=Rank.DEMAND, vram=60)
    assert make_plan(scene(idle, busy, planned("b"))).actions == ()
    failed = planned("b")
    failed = replace(failed, replicas=[replace(failed.replicas[0], failures=1)])
    assert make_plan(scene(facts("a", Phase.READY), failed)).actions == (), "it might fail again"
    asleep = planned("b", target=Rung.ASLEEP)
    assert make_plan(scene(facts("a", Phase.READY), asleep)).actions == (), "it only sleeps there"


FULL = "pool p is full: it lacks 20 bytes for b.0; "
PINNED = FULL + "a.0 is hot there and pinned, it makes room for nobody"


@pytest.mark.parametrize("wait", [None, 1000.0])
def test_a_pinned_model_makes_room_for_nobody_and_is_named(wait: float | None) -> None:
    pinned = replace(facts("a", Phase.READY), pinned=True)
    made = make_plan(scene(pinned, facts("b", Phase.DOWN, wait=wait)))
    assert made.actions == ()
    assert made.held_up["b"] == PINNED


def test_nobody_is_put_aside_in_vain_beside_a_pinned_model() -> None:
    pinned, idle = replace(facts("a", Phase.READY), pinned=True), facts("c", Phase.READY, vram=10)
    made = make_plan(scene(pinned, idle, facts("b", Phase.DOWN, wait=1000.0)))
    assert made.actions == ()
    assert made.held_up["b"] == PINNED.replace("20", "30")


def test_who_holds_a_full_pool_is_named_where_nobody_can_be_moved() -> None:
    wanted = facts("a", Phase.ASLEEP, kept=60, wait=900.0)
    newcomer = facts("b", Phase.DOWN, wait=1000.0)
    assert make_plan(scene(wanted, newcomer)).held_up["b"] == (
        FULL + "a.0 is asleep there and requests wait for it"
    )
    two = [ReplicaFacts("b.0", Phase.DOWN), ReplicaFacts("b.1", Phase.READY)]
    both = replace(newcomer, replicas=two, target=Target(Rung.HOT, 2, "b shall"))
    assert make_plan(scene(both)).held_up["b"] == FULL + "b.1 of the same model is hot there"
    taken = facts("a", Phase.ADOPTING)
    assert make_plan(scene(taken, newcomer)).held_up["b"] == FULL + "a.0 is being taken over there"


def test_no_room_is_promised_to_requests_that_are_refused() -> None:
    kept_asleep = replace(facts("b", Phase.DOWN, target=Rung.ASLEEP), refused=True)
    made = make_plan(scene(facts("a", Phase.READY), kept_asleep))
    assert made.held_up["b"] == FULL + "its requests are refused, and so nobody makes room for it"


def test_room_is_counted_card_by_card() -> None:
    def on(model: ModelFacts, *cards: str) -> ModelFacts:
        replicas = [replace(r, cards=frozenset(cards)) for r in model.replicas]
        return replace(model, replicas=replicas)

    a = on(facts("a", Phase.READY), "GPU-0")
    made = make_plan(scene(a, on(facts("b", Phase.DOWN, wait=0.0), "GPU-1")))
    assert made.actions == (StartEngine("b.0", "b shall"),)
    (put,) = make_plan(scene(a, on(facts("b", Phase.DOWN, wait=0.0), "GPU-0", "GPU-1"))).actions
    assert isinstance(put, SleepEngine)


def test_nobody_is_put_aside_on_a_card_that_lacks_nothing() -> None:
    def on(model: ModelFacts, *cards: str) -> ModelFacts:
        replicas = [replace(r, cards=frozenset(cards)) for r in model.replicas]
        return replace(model, replicas=replicas)

    in_the_way = on(facts("a", Phase.READY, cost=100.0), "GPU-0")
    beside = on(facts("b", Phase.READY, vram=30), "GPU-1")
    wide = on(facts("c", Phase.DOWN, wait=99.0), "GPU-0", "GPU-1")
    (put,) = make_plan(scene(in_the_way, beside, wide)).actions
    assert isinstance(put, SleepEngine)
    assert put.replica == "a.0"
    small = on(facts("d", Phase.ASLEEP, kept=30, target=Rung.ASLEEP), "GPU-1")
    stays = replace(in_the_way, pinned=True)
    assert make_plan(scene(stays, small, wide)).actions == ()


@pytest.mark.parametrize("phase", [p for p in Phase if p.holds_the_device])
def test_nothing_is_put_aside_while_the_device_is_busy(phase: Phase) -> None:
    made = make_plan(
        scene(facts("c", phase), facts("a", Phase.READY), facts("b", Phase.DOWN, wait=99.0))
    )
    assert made.actions == ()
