"""The planner: two lanes, no neighbour disturbed, a reason for everything that can't move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from warmd.ladder import Phase, Rung
from warmd.planner import (
    ModelFacts,
    Plan,
    RamLedger,
    ReleaseFiles,
    ReplicaFacts,
    Scene,
    SleepEngine,
    StageFiles,
    StagingFacts,
    StartEngine,
    StopEngine,
    WakeEngine,
    make_plan,
)
from warmd.policy import Fairness, Rank, Target

PLENTY = RamLedger(budget=10**12, held=0, available=10**12)


def model(
    name: str,
    target: Rung,
    *phases: Phase,
    staging: StagingFacts | None = None,
    replicas: int = 1,
    wait: float = 0.0,
) -> ModelFacts:
    facts = [ReplicaFacts(f"{name}.{i}", p, 0.0, "because") for i, p in enumerate(phases)]
    staged = staging or StagingFacts(total=10)
    shall = Target(target, replicas, f"{name} shall")
    return ModelFacts(name, shall, facts, staged, wait, waiting=1 if wait else 0)


def plan(*models: ModelFacts, ram: RamLedger = PLENTY, now: float = 0.0) -> Plan:
    return make_plan(Scene(models, ram, now))


HELD = StagingFacts(total=10, held=True)


def launching(starting: ModelFacts) -> ModelFacts:
    """Its start has begun, and no program runs yet."""
    return replace(starting, replicas=[replace(r, launches=True) for r in starting.replicas])


def test_a_cold_model_starts_at_once_and_its_weights_come_beside_once_its_program_runs() -> None:
    """The process that stages cost a start 5 to 15 ms on its way to exec (issue 2)."""
    made = plan(model("a", Rung.HOT, Phase.DOWN))
    assert made.actions == (StartEngine("a.0", "a shall"),)
    assert made.held_up == {}
    starting, waits = model("a", Rung.HOT, Phase.STARTING), model("b", Rung.STAGED, Phase.DOWN)
    assert plan(launching(starting), waits).actions == (), "nobody takes its turn at the disk"
    assert plan(starting, waits).actions == (StageFiles("weights:a", "a shall"),)


def test_who_shall_answer_rises_before_who_shall_sleep_however_long_that_is_overdue() -> None:
    """A sleeper of a cron entry at noon kept waiting whose window opens in seconds (issue 6)."""
    night = replace(model("night", Rung.ASLEEP, Phase.DOWN, staging=HELD), begin_at=0.0)
    work = replace(model("work", Rung.HOT, Phase.DOWN, staging=HELD), begin_at=1000.0)
    house = [
        replace(each, target=replace(each.target, rank=Rank.CALENDAR)) for each in (night, work)
    ]
    house[0] = replace(house[0], replicas=[replace(house[0].replicas[0], sleeps=True)])
    assert [a for a in plan(*house).actions if isinstance(a, StartEngine)] == [
        StartEngine("work.0", "work shall")
    ]


def test_what_an_operator_set_comes_up_before_what_only_rests_hot() -> None:
    """One whose engine was killed lost its place in the pool to the first of the config."""
    rests, was_set = model("a", Rung.HOT, Phase.DOWN), model("b", Rung.HOT, Phase.BACKING_OFF)
    was_set = replace(was_set, target=replace(was_set.target, rank=Rank.OPERATOR))
    made = plan(rests, was_set)
    assert [a.replica for a in made.actions if isinstance(a, StartEngine)] == ["b.0"]


def test_one_operation_on_the_device_at_a_time() -> None:
    for busy in (Phase.STARTING, Phase.WARMING, Phase.DRAINING, Phase.STOPPING):
        made = plan(
            model("a", Rung.HOT, busy, staging=HELD), model("b", Rung.HOT, Phase.DOWN, staging=HELD)
        )
        assert made.actions == ()
        assert made.held_up["b"] == f"a.0 is {busy} on the same device"


def test_what_shall_cool_says_what_its_stop_waits_for() -> None:
    """status showed nothing while a model that was set lower was hot for 9 s more."""
    made = plan(model("a", Rung.HOT, Phase.STARTING), model("b", Rung.STAGED, Phase.READY))
    assert made.held_up == {"b": "its stop waits: a.0 is starting on the same device"}
    drowsy = model("b", Rung.ASLEEP, Phase.READY)
    drowsy = replace(drowsy, replicas=[replace(drowsy.replicas[0], sleeps=True)])
    made = plan(model("a", Rung.HOT, Phase.STARTING), drowsy)
    assert made.held_up == {"b": "its sleep waits: a.0 is starting on the same device"}


def test_engines_on_other_cards_do_not_wait_for_each_other() -> None:
    def on(facts: ModelFacts, *cards: str) -> ModelFacts:
        replicas = [replace(r, cards=frozenset(cards)) for r in facts.replicas]
        return replace(facts, replicas=replicas)

    a = on(model("a", Rung.HOT, Phase.STARTING, staging=HELD), "GPU-0")
    b = on(model("b", Rung.HOT, Phase.DOWN, staging=HELD), "GPU-1")
    c = on(model("c", Rung.HOT, Phase.DOWN, staging=HELD), "GPU-1", "GPU-2")
    d = on(model("d", Rung.STAGED, Phase.READY, staging=HELD), "GPU-3")
    made = plan(a, b, c, d)
    assert made.actions == (StopEngine("d.0", "d shall"), StartEngine("b.0", "b shall"))
    anywhere = on(d)
    assert plan(a, anywhere).actions == (), "it may be on the card that starts"


def test_two_sleeps_at_once_do_not_take_the_same_ram() -> None:
    sleepers = [
        replace(
            model(name, Rung.ASLEEP, Phase.READY),
            replicas=[
                ReplicaFacts(f"{name}.0", Phase.READY, sleeps=True, pins=60, cards=frozenset(name))
            ],
        )
        for name in "ab"
    ]
    ram = RamLedger(10**12, 0, 10**12, sleeping_budget=100, pinned=0)
    slept = [a for a in plan(*sleepers, ram=ram).actions if isinstance(a, SleepEngine)]
    assert [action.replica for action in slept] == ["a.0"], "the next one sees what it has taken"


def test_a_sleep_under_way_on_another_card_has_not_shown_yet_what_it_takes_of_the_ram() -> None:
    def sleeper(name: str, phase: Phase) -> ModelFacts:
        replica = ReplicaFacts(f"{name}.0", phase, sleeps=True, pins=60, cards=frozenset(name))
        return replace(model(name, Rung.ASLEEP, phase), replicas=[replica])

    ram = RamLedger(10**12, 0, 10**12, sleeping_budget=100, pinned=0)
    for phase in (Phase.DRAINING, Phase.FALLING_ASLEEP):
        made = plan(sleeper("a", phase), sleeper("b", Phase.READY), ram=ram)
        assert not any(isinstance(action, SleepEngine) for action in made.actions)


def test_a_start_that_is_no_longer_wanted_is_called_off() -> None:
    made = plan(model("a", Rung.COLD, Phase.STARTING))
    assert made.actions == (StopEngine("a.0", "a shall"),)


def test_a_hot_model_that_may_rest_is_stopped_and_staged() -> None:
    made = plan(model("a", Rung.STAGED, Phase.READY))
    assert made.actions == (StopEngine("a.0", "a shall"), StageFiles("weights:a", "a shall"))


def test_the_longest_wait_goes_first() -> None:
    made = plan(
        model("a", Rung.HOT, Phase.DOWN, staging=HELD, wait=1.0),
        model("b", Rung.HOT, Phase.DOWN, staging=HELD, wait=9.0),
    )
    assert made.actions == (StartEngine("b.0", "b shall"),)


def test_replicas_beyond_the_target_are_stopped_from_the_end() -> None:
    made = plan(model("a", Rung.HOT, Phase.READY, Phase.READY, replicas=1))
    assert made.actions == (StopEngine("a.1", "a shall"),)


def test_weights_are_let_go_once_every_engine_has_loaded_them() -> None:
    loaded = plan(model("a", Rung.HOT, Phase.READY, staging=HELD))
    assert loaded.actions == (ReleaseFiles("weights:a", "its engines have loaded them"),)
    failed = plan(model("a", Rung.HOT, Phase.FAILED, staging=HELD))
    assert failed.actions == (), "an operator's next try may find them in RAM"
    half = plan(model("a", Rung.HOT, Phase.READY, Phase.STARTING, staging=HELD, replicas=2))
    assert half.actions == ()


def test_back_off_is_waited_for_and_said() -> None:
    failed = model("a", Rung.HOT, Phase.BACKING_OFF, staging=HELD)
    failed = replace(failed, replicas=[replace(failed.replicas[0], retry_at=10.0)])
    early = plan(failed, now=6.0)
    assert early.actions == ()
    assert early.held_up == {"a": "a.0 is tried again in 4 s: because"}
    assert plan(failed, now=10.0).actions == (StartEngine("a.0", "a shall"),)


def test_a_crash_loop_is_not_restarted_and_its_name_is_said() -> None:
    made = plan(model("a", Rung.HOT, Phase.FAILED))
    assert not any(isinstance(a, StartEngine) for a in made.actions)
    assert made.held_up == {"a": "a.0 failed: because"}


def test_one_model_is_staged_at_a_time_the_wanted_one_first() -> None:
    made = plan(model("a", Rung.STAGED, Phase.DOWN), model("b", Rung.HOT, Phase.READY, Phase.DOWN))
    assert made.actions == (StageFiles("weights:a", "a shall"),)
    made = plan(model("a", Rung.STAGED, Phase.DOWN), model("b", Rung.HOT, Phase.STARTING))
    assert made.actions == (StageFiles("weights:b", "b shall"),)
    busy = StagingFacts(total=10, busy=True)
    assert plan(model("a", Rung.STAGED, Phase.DOWN, staging=busy)).actions == ()


def test_what_does_not_fit_is_not_staged_and_says_why() -> None:
    big = model("a", Rung.STAGED, Phase.DOWN, staging=StagingFacts(total=6 * 2**30))
    small = model("b", Rung.STAGED, Phase.DOWN, staging=StagingFacts(total=2**30))
    ram = RamLedger(budget=8 * 2**30, held=3 * 2**30, available=2**40)
    made = plan(big, small, ram=ram)
    assert made.actions == (StageFiles("weights:b", "b shall"),)
    assert made.held_up == {
        "a": "its weights (6.0 GiB) don't fit in ram.staging: 3.0 GiB of 8.0 GiB are taken, which "
        "is 1.0 GiB too much; raise ram.staging"
    }
    scarce = plan(big, ram=RamLedger(budget=2**40, held=0, available=2**30))
    assert "1.0 GiB are to spare" in scarce.held_up["a"]


def test_what_is_the_hosts_own_is_neither_staged_over_nor_pinned() -> None:
    ram = RamLedger(10**12, 2**30, 8 * 2**30, sleeping_budget=10**12, reserve=2 * 2**30)
    assert ram.refuses(5 * 2**30) is None
    assert ram.refuses_sleep(5 * 2**30) is None
    told = "5.0 GiB are to spare, and ram.reserve keeps 2.0 GiB"
    assert told in (ram.refuses(5 * 2**30 + 1) or "")
    assert told in (ram.refuses_sleep(5 * 2**30 + 1) or "")
    assert ram.refuses_sleep(0) is None, "what it takes is taken"
    assert replace(ram, reserve=2**40).refuses(1) is not None


def test_failed_staging_is_tried_again_after_a_while_and_holds_up_no_start() -> None:
    broken = StagingFacts(total=10, retry_at=30.0, problem="the disk is gone")
    made = plan(model("a", Rung.HOT, Phase.DOWN, staging=broken), now=1.0)
    assert made.actions == (StartEngine("a.0", "a shall"),)
    assert made.held_up == {"a": "the disk is gone"}
    later = plan(
        model("a", Rung.HOT, Phase.READY, Phase.STARTING, staging=broken, replicas=2), now=30.0
    )
    assert later.actions == (StageFiles("weights:a", "a shall"),)


def with_stale(facts: ModelFacts) -> ModelFacts:
    return replace(facts, replicas=[replace(r, stale=True) for r in facts.replicas])


def test_engines_with_changed_settings_are_made_anew_one_by_one_when_all_else_is_done() -> None:
    a, b = (with_stale(model(name, Rung.HOT, Phase.READY)) for name in "ab")
    assert plan(a, b).actions == (StopEngine("a.0", "its settings have changed", anew=True),)
    anew = model("a", Rung.HOT, Phase.DOWN, staging=HELD)
    assert plan(anew, b).actions == (StartEngine("a.0", "a shall"),), "it comes back first"
    assert plan(model("a", Rung.HOT, Phase.STARTING, staging=HELD), b).actions == ()
    ready = model("a", Rung.HOT, Phase.READY)
    assert plan(ready, b).actions == (StopEngine("b.0", "its settings have changed", anew=True),)


def test_what_served_and_is_made_anew_is_the_next_to_rise() -> None:
    """A newcomer was tried twice before a hot model came back, whose requests got 503."""
    [down] = model("a", Rung.HOT, Phase.DOWN).replicas
    anew = replace(
        model("a", Rung.HOT, Phase.DOWN, staging=HELD), replicas=[replace(down, anew=True)]
    )
    asked = model("t", Rung.HOT, Phase.DOWN, staging=HELD, wait=50.0)
    assert plan(asked, anew).actions == (StartEngine("a.0", "a shall"),)
    failed = replace(anew, replicas=[replace(down, anew=True, failures=1)])
    assert plan(asked, failed).actions == (StartEngine("t.0", "t shall"),)
    with_b = with_stale(model("b", Rung.HOT, Phase.READY))
    assert plan(with_b).actions == (StopEngine("b.0", "its settings have changed", anew=True),)


def test_engines_are_made_anew_one_by_one_over_all_cards() -> None:
    def on(card: str, facts: ModelFacts, **changes: object) -> ModelFacts:
        [replica] = facts.replicas
        made = replace(replica, cards=frozenset({card}), renewed=True, **changes)  # type: ignore[arg-type]  # its own fields
        return replace(facts, replicas=[made])

    a = on("GPU-0", model("a", Rung.HOT, Phase.READY), stale=True)
    b = on("GPU-1", model("b", Rung.HOT, Phase.READY), stale=True)
    assert plan(a, b).actions == (StopEngine("a.0", "its settings have changed", anew=True),)
    for phase in (Phase.STOPPING, Phase.STARTING, Phase.WARMING):
        assert plan(on("GPU-0", model("a", Rung.HOT, phase, staging=HELD)), b).actions == ()


def test_changed_settings_that_do_not_work_take_one_engine_not_all() -> None:
    b = with_stale(model("b", Rung.HOT, Phase.READY))
    failed = model("a", Rung.HOT, Phase.FAILED, staging=HELD)
    renewed = replace(failed, replicas=[replace(failed.replicas[0], renewed=True)])
    made = plan(renewed, b)
    assert made.actions == ()
    assert made.held_up["b"] == "b.0 goes on with its old settings: a.0 is failed"
    assert plan(failed, b).actions == (
        StopEngine("b.0", "its settings have changed", anew=True),
    ), "what failed with the settings that it always had says nothing of the new ones"


def test_what_can_not_rise_at_all_keeps_no_engine_on_its_old_settings() -> None:
    down = ReplicaFacts("a.0", Phase.DOWN, renewed=True, sleeps=True, pins=60)
    sleepless = replace(model("a", Rung.ASLEEP, Phase.DOWN), replicas=[down])
    hot = model("a", Rung.HOT, Phase.DOWN, staging=HELD)
    roomless = replace(hot, replicas=[down], pool="p", vram=200)
    b = with_stale(model("b", Rung.HOT, Phase.READY))
    for a in (sleepless, roomless):
        made = make_plan(Scene([a, b], PLENTY, 0.0, {"p": 100}))
        assert StopEngine("b.0", "its settings have changed", anew=True) in made.actions


def test_a_start_only_to_sleep_makes_way_for_who_asks() -> None:
    drowsy = model("a", Rung.ASLEEP, Phase.STARTING, staging=HELD)
    asked = model("b", Rung.HOT, Phase.DOWN, staging=HELD, wait=1.0)
    assert plan(drowsy, asked).actions == (
        StopEngine("a.0", "its start makes way: a request waits for b"),
    )
    assert plan(drowsy, model("b", Rung.HOT, Phase.DOWN, staging=HELD)).actions == ()
    resting = model("a", Rung.HOT, Phase.STARTING, staging=HELD)
    assert plan(resting, asked).actions == (), "it shall be hot as well"


def test_nothing_is_started_only_to_sleep_while_somebody_waits_out_a_back_off() -> None:
    down = ReplicaFacts("a.0", Phase.DOWN, sleeps=True)
    drowsy = replace(model("a", Rung.ASLEEP, Phase.DOWN), replicas=[down])
    failed = model("b", Rung.HOT, Phase.BACKING_OFF, staging=HELD, wait=1.0)
    failed = replace(failed, replicas=[replace(failed.replicas[0], retry_at=1.0)])
    assert not any(isinstance(a, StartEngine) for a in plan(drowsy, failed).actions)
    assert StartEngine("a.0", "a shall") in plan(drowsy).actions


def test_a_start_with_settings_that_have_changed_is_called_off() -> None:
    starting = model("m", Rung.HOT, Phase.STARTING, Phase.DOWN, staging=HELD, replicas=2)
    stale = replace(
        starting, replicas=[replace(starting.replicas[0], stale=True), starting.replicas[1]]
    )
    assert plan(stale).actions == (StopEngine("m.0", "its settings have changed"),)


def test_weights_that_nobody_has_looked_at_yet_are_not_staged() -> None:
    assert plan(model("a", Rung.STAGED, Phase.DOWN, staging=StagingFacts(total=None))).actions == ()


RUNGS = st.sampled_from([Rung.COLD, Rung.STAGED, Rung.HOT])
STAGINGS = st.builds(StagingFacts, total=st.integers(0, 40), held=st.booleans(), busy=st.booleans())


@st.composite
def houses(draw: st.DrawFn) -> Sequence[ModelFacts]:
    return [
        model(
            f"m{n}",
            draw(RUNGS),
            *draw(st.lists(st.sampled_from(Phase), min_size=1, max_size=3)),
            staging=draw(STAGINGS),
            replicas=draw(st.integers(1, 3)),
            wait=draw(st.floats(0, 100)),
        )
        for n in range(draw(st.integers(1, 4)))
    ]


@given(houses(), st.integers(0, 100), st.integers(0, 100))
def test_no_plan_breaks_a_promise(house: Sequence[ModelFacts], budget: int, held: int) -> None:
    made = plan(*house, ram=RamLedger(budget, held, available=10**9))
    replicas = {r.name: r for m in house for r in m.replicas}
    begun = [a for a in made.actions if isinstance(a, StartEngine)]
    ended = [a for a in made.actions if isinstance(a, StopEngine)]
    staged = [a for a in made.actions if isinstance(a, StageFiles)]
    busy = any(r.phase.holds_the_device for r in replicas.values())
    new = begun + [a for a in ended if replicas[a.replica].phase is Phase.READY]
    assert len(new) <= (0 if busy else 1), "one operation on the device at a time"
    assert all(replicas[a.replica].phase in (Phase.DOWN, Phase.BACKING_OFF) for a in begun)
    totals = {f"weights:{m.name}": m.staging.total or 0 for m in house}
    sizes = [totals[a.key] if a.limit is None else a.limit for a in staged]
    assert sum(sizes) + held <= max(budget, held), "within the budget"
    assert len(staged) <= 1
    wanted = {f"weights:{m.name}" for m in house if m.target.rung is not Rung.COLD}
    assert all(a.key in wanted for a in staged)
    assert all(reason.strip() for reason in made.held_up.values())


def test_what_is_not_verified_is_staged_first_and_loaded_by_nobody() -> None:
    cold = replace(model("a", Rung.HOT, Phase.DOWN), unverified="its weights are verified first")
    made = plan(cold)
    assert made.actions == (StageFiles("weights:a", "a shall"),)
    assert made.held_up == {"a": "its weights are verified first"}
    sleeper = replace(model("a", Rung.HOT, Phase.ASLEEP), unverified="they are others")
    assert WakeEngine("a.0", "a shall") in plan(sleeper).actions, "it has them in RAM"
    assert plan(replace(sleeper, sleep_level=2)).held_up == {"a": "they are others"}
    assert plan(replace(cold, unverified=None)).actions == (StartEngine("a.0", "a shall"),)
    for phase in (Phase.STARTING, Phase.WARMING):  # begun before a reload asked for it
        comes = replace(model("a", Rung.HOT, phase), unverified="they are verified first")
        assert StopEngine("a.0", "they are verified first") in plan(comes).actions
    runs = replace(model("a", Rung.HOT, Phase.READY), unverified="they are verified first")
    assert not any(isinstance(each, StopEngine) for each in plan(runs).actions)


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(1.0, 99.0), st.booleans()), min_size=1))
def test_what_has_just_failed_goes_after_all_whom_others_wait_for(
    waiters: list[tuple[int, float, bool]],
) -> None:
    house = []
    for n, (failures, wait, later) in enumerate(waiters):
        phase = Phase.BACKING_OFF if failures else Phase.DOWN
        facts = model(f"m{n}", Rung.HOT, phase, staging=HELD, wait=wait)
        [replica] = facts.replicas
        retry_at = 9.0 if failures and later else 0.0
        house.append(
            replace(facts, replicas=[replace(replica, failures=failures, retry_at=retry_at)])
        )
    [*begun] = [a.replica for a in plan(*house).actions if isinstance(a, StartEngine)]
    can = [m for m in house if not m.replicas[0].failures or not m.replicas[0].retry_at]
    # Beyond the bound nobody waits longer for having failed: who is hot makes room for it then, and
    # would come back first, be put aside again, and so on for ever.
    bound = Fairness().bound
    first = sorted(
        can, key=lambda m: (m.replicas[0].failures > 0 and m.oldest_wait < bound, -m.oldest_wait)
    )
    assert begun == [m.replicas[0].name for m in first[:1]]
