"""What is held in RAM: in the order of need, within the budget, never below the host's floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from warmd.ladder import Phase, Rung
from warmd.planner import (
    Action,
    LookAtFiles,
    ModelFacts,
    PaceFiles,
    Plan,
    RamLedger,
    ReleaseFiles,
    ReplicaFacts,
    Scene,
    StageFiles,
    StagingFacts,
    make_plan,
)
from warmd.policy import Rank, Target

ENV = "program:env"


def model(
    name: str,
    target: Rung = Rung.STAGED,
    phase: Phase = Phase.DOWN,
    *,
    total: int = 10,
    idle: float = 100.0,
    wait: float = 0.0,
    caches: int = 0,
    **staging: object,
) -> ModelFacts:
    facts = StagingFacts(total, **staging)  # type: ignore[arg-type]  # its own fields
    replica = ReplicaFacts(f"{name}.0", phase)
    return ModelFacts(
        name,
        Target(target, 1, f"{name} shall"),
        [replica],
        facts,
        wait,
        waiting=1 if wait else 0,
        idle_s=idle,
        caches=StagingFacts(caches),
        program=ENV,
    )


def plan(*models: ModelFacts, budget: int = 100, program: int = 0, **ram: int) -> Plan:
    held = sum(m.staging.taken + m.caches.taken for m in models)
    ledger = RamLedger(budget, **({"held": held, "available": 10**6} | ram))
    return make_plan(Scene(models, ledger, 0.0, programs={ENV: StagingFacts(program)}))


def disk(*models: ModelFacts, **ram: int) -> list[Action]:
    """What is planned for the disk."""
    kinds = StageFiles | ReleaseFiles | PaceFiles
    return [a for a in plan(*models, **ram).actions if isinstance(a, kinds)]


def test_a_start_gets_its_program_first_then_its_weights_then_its_caches() -> None:
    waits = model("a", Rung.HOT, Phase.STARTING, wait=1.0, caches=5)
    assert disk(waits, program=7) == [StageFiles(ENV, "a shall")]
    assert disk(waits) == [StageFiles("weights:a", "a shall")], "nothing is learnt yet"
    there = replace(waits, staging=StagingFacts(10, held=True))
    assert disk(there) == [StageFiles("compile-cache:a", "a shall")]


def test_what_an_earlier_daemon_left_counts_and_is_there_for_its_own_set() -> None:
    left, other = model("a", total=60, left=60), model("b", total=60)
    assert disk(left, held=60) == [StageFiles("weights:a", "a shall")]
    assert disk(other, held=60) == [], "that RAM isn't given away twice"
    assert disk(other, left, held=60) == [StageFiles("weights:a", "a shall")]
    in_tmpfs = {"held": 60, "gone": 60, "available": 20}
    assert disk(left, **in_tmpfs) == [StageFiles("weights:a", "a shall")]


def test_who_is_waited_for_goes_first_then_what_shall_be_hot_then_the_last_used() -> None:
    long_ago, lately = model("a", idle=900.0), model("b", idle=9.0)
    hot, waits = model("c", Rung.HOT, Phase.STARTING), model("d", wait=2.0)
    asked = []
    models = [long_ago, lately, hot, waits]
    while models:
        [stage] = disk(*models)
        assert isinstance(stage, StageFiles)
        asked.append(stage.key)
        models = [m for m in models if f"weights:{m.name}" != stage.key]
    assert asked == [f"weights:{name}" for name in "dcba"]


def test_what_a_calendar_needs_sooner_stays_and_what_was_used_last_goes() -> None:
    """Its next need is as far ahead as its last use is behind, unless a calendar knows better."""
    soon = replace(model("a", idle=9e5, total=40, held=True), needed_in=600.0)
    later = model("b", idle=3600.0, total=40, held=True)
    asks = model("c", idle=5.0, total=50)
    assert disk(soon, later, asks) == [
        ReleaseFiles("weights:b", "it makes room for the weights of c, needed sooner")
    ]
    tomorrow = replace(soon, needed_in=86400.0)
    assert disk(tomorrow, later, asks) == [
        ReleaseFiles("weights:a", "it makes room for the weights of c, needed sooner")
    ]


def test_files_of_a_second_replica_are_staged_though_the_first_has_loaded_them() -> None:
    loaded = model("a", Rung.HOT, Phase.READY)
    assert disk(loaded) == []
    assert disk(replace(loaded, files_due=True)) == [StageFiles("weights:a", "a shall", None, True)]
    refused = replace(loaded, files_due=True, target=Target(Rung.COLD, 0, "an operator said so"))
    assert disk(refused) == []


def test_program_files_stay_while_any_model_needs_them() -> None:
    held = {ENV: StagingFacts(7, held=True)}
    ram = RamLedger(100, 7, 10**6)
    hot, rests = model("a", Rung.HOT, Phase.READY), model("b", held=True)
    assert make_plan(Scene([hot, rests], ram, 0.0, programs=held)).actions == ()
    done = make_plan(Scene([hot], ram, 0.0, programs=held))
    assert done.actions == (ReleaseFiles(ENV, "no engine needs them to start"),)


def test_the_farthest_need_makes_room_and_only_as_much_as_is_needed() -> None:
    far, farther = (
        model("a", idle=50.0, total=40, held=True),
        model("b", idle=60.0, total=20, held=True),
    )
    asks = model("c", idle=5.0, total=55)
    assert disk(far, farther, asks) == [
        ReleaseFiles("weights:b", "it makes room for the weights of c, needed sooner")
    ]
    assert disk(far, farther, replace(asks, staging=StagingFacts(60))) == [
        ReleaseFiles("weights:b", "it makes room for the weights of c, needed sooner")
    ]
    larger = plan(far, farther, replace(asks, staging=StagingFacts(75)))
    assert [a.key for a in larger.actions if isinstance(a, ReleaseFiles)] == ["weights:a"], (
        "a alone makes room enough"
    )


def test_nothing_makes_room_in_vain_nor_for_a_later_need_nor_on_its_way_up() -> None:
    sooner, asks = model("a", idle=1.0, total=60, held=True), model("b", idle=9.0, total=50)
    refused = plan(sooner, asks)
    assert refused.actions == ()
    assert "don't fit in ram.staging" in refused.held_up["b"]
    rising = model("a", Rung.HOT, Phase.STARTING, total=60, held=True)
    waits = model("b", Rung.HOT, Phase.STARTING, total=50, wait=5.0)
    assert disk(rising, waits) == []
    small = model("c", idle=99.0, total=5, held=True)
    assert disk(sooner, asks, small) == [], "5 bytes more would not do"


def test_what_only_rests_gives_the_disk_to_who_is_on_its_way_up() -> None:
    rests = model("a", idle=1.0, busy=True)
    waits = model("b", Rung.HOT, Phase.STARTING, wait=1.0)
    assert disk(rests, waits) == [
        ReleaseFiles("weights:a", "its turn goes to the weights of b, needed sooner")
    ]
    assert disk(rests, model("b", idle=0.5)) == []
    launching = replace(waits, replicas=[replace(waits.replicas[0], launches=True)])
    assert disk(rests, launching) == [], "not while an engine is on its way to exec"
    giant = replace(waits, staging=StagingFacts(101))
    assert disk(rests, giant, model("c", total=100, held=True)) == [], "it would be in vain"


def test_larger_than_the_budget_is_held_as_far_as_it_fits_and_told() -> None:
    giant = model("a", idle=1.0, total=250)
    fits = model("b", idle=90.0, total=30)
    assert disk(giant, fits) == [StageFiles("weights:b", "b shall")], "half a model is no rung"
    held = replace(fits, staging=StagingFacts(30, held=True))
    assert disk(giant, held) == [StageFiles("weights:a", "a shall", limit=70)]
    partly = replace(giant, staging=StagingFacts(250, partial=True, limit=70))
    made = plan(partly, held)
    assert made.actions == ()
    assert "are larger than ram.staging (100 bytes): 70 bytes of them are held" in made.held_up["a"]
    whole = replace(giant, staging=StagingFacts(250, partial=True, limit=100))
    assert disk(whole, fits) == [
        ReleaseFiles("weights:a", "it makes room for the weights of b, needed sooner")
    ]


def test_a_part_grows_where_there_is_room_for_more_worth_mentioning() -> None:
    partly = model("a", total=250, partial=True, limit=70)
    grows = [ReleaseFiles("weights:a", "there is room for more of them")]
    assert disk(partly, budget=100) == disk(partly, budget=82) == grows
    assert disk(partly, budget=81) == []
    assert disk(partly, budget=100, available=81) == [], "the host has no more"
    assert disk(partly, model("b", total=5, busy=True)) == [], "the disk is taken"
    assert disk(replace(partly, target=Target(Rung.HOT, 1, "")), budget=100) == []
    assert disk(model("a", total=250, partial=True, limit=100)) == []
    assert disk(model("a", total=250, partial=True, limit=248), budget=250) == grows, "all of it"


def test_the_farthest_is_let_go_where_less_is_available_than_the_reserve() -> None:
    sooner, later = model("a", idle=1.0, held=True), model("b", idle=9.0, held=True)
    made = plan(sooner, later, available=34, reserve=15)
    why = (
        "memory is short: 34 bytes are available, of which 20 bytes are staged files, and "
        "ram.reserve keeps 15 bytes"
    )
    assert made.actions == (ReleaseFiles("weights:b", why, short=True),)
    assert len(disk(sooner, later, available=24, reserve=15)) == 2
    assert disk(sooner, later, available=35, reserve=15) == []
    assert disk(sooner, later, available=15, reserve=15, gone=20) == [], "the kernel knows of it"


def test_the_pace_follows_the_need() -> None:
    serves = replace(
        model("s", Rung.HOT, Phase.READY),
        replicas=[ReplicaFacts("s.0", Phase.READY, in_flight=1)],
    )
    rests = model("a", busy=True)
    assert disk(rests) == []
    assert disk(rests, serves) == [PaceFiles("weights:a", urgent=False)]
    assert disk(serves, model("a")) == [StageFiles("weights:a", "a shall", urgent=False)]
    slow = replace(rests, staging=replace(rests.staging, urgent=False))
    assert disk(slow, serves) == []
    starts = replace(slow, replicas=[ReplicaFacts("a.0", Phase.STARTING)], target=serves.target)
    assert disk(starts, serves) == [PaceFiles("weights:a", urgent=True)]


def test_a_rate_holds_for_all_that_nobody_waits_for_whether_anybody_is_served_or_not() -> None:
    rests = model("a", rated=True)
    assert disk(rests) == [StageFiles("weights:a", "a shall", urgent=False)]
    comes = model("a", busy=True, rated=True)
    assert disk(comes) == [PaceFiles("weights:a", urgent=False)]
    assert disk(model("a", Rung.HOT, Phase.STARTING, busy=True, rated=True)) == []
    assert disk(model("a", Rung.HOT, busy=True, rated=True, wait=1.0)) == []


def test_what_has_failed_makes_no_room_for_itself() -> None:
    holds = model("a", idle=50.0, total=60, held=True)
    failed = model("b", idle=1.0, total=60, problem="no such file", retry_at=-1.0)
    made = plan(holds, failed)
    assert made.actions == (LookAtFiles("weights:b"),)
    assert made.held_up["b"].startswith("no such file; once that is mended")
    assert disk(failed) == [StageFiles("weights:b", "b shall")], "where there is room it is tried"
    comes = model("a", idle=50.0, busy=True)
    waits = replace(failed, target=Target(Rung.HOT, 1, ""), oldest_wait=1.0, waiting=1)
    assert ReleaseFiles not in map(type, disk(comes, waits))


def test_what_an_operator_asked_for_goes_before_what_rests() -> None:
    rests = model("a", idle=1.0, total=60)
    asked = model("b", idle=9.0, total=60)
    asked = replace(asked, target=replace(asked.target, rank=Rank.OPERATOR))
    assert disk(rests, asked) == [StageFiles("weights:b", "b shall")]
    held = replace(rests, staging=StagingFacts(60, held=True))
    assert disk(held, asked) == [
        ReleaseFiles("weights:a", "it makes room for the weights of b, needed sooner")
    ]
    there = replace(asked, staging=StagingFacts(60, held=True))
    assert disk(rests, there) == [], "never the other way round"


def test_a_refusal_by_a_hair_says_what_is_missing() -> None:
    mib = 2**20
    refused = RamLedger(400 * mib, 100 * mib + 2, 10**12).refuses(300 * mib)
    assert refused is not None
    assert refused.endswith("are taken, which is 2 bytes too much; raise ram.staging")


def test_program_files_never_take_the_budget_from_the_weights() -> None:
    asks = model("a", total=60)
    assert disk(asks, program=40) == [StageFiles(ENV, "a shall")]
    assert disk(asks, program=41) == [StageFiles("weights:a", "a shall")]
    assert disk(asks, program=200) == [StageFiles("weights:a", "a shall")]
    held = replace(asks, staging=StagingFacts(60, held=True))
    assert disk(held, program=200) == [StageFiles(ENV, "a shall", limit=40)], "as far as it pays"
    partly = {ENV: StagingFacts(200, partial=True, limit=100)}
    made = make_plan(Scene([asks], RamLedger(100, 100, 10**6), 0.0, programs=partly))
    why = "it makes room for the weights of a, needed sooner"
    assert made.actions == (ReleaseFiles(ENV, why),)


def test_what_is_held_in_part_for_a_trouble_is_not_said_to_be_too_large() -> None:
    trouble = "b.safetensors: can't be read"
    assert plan(model("a", partial=True, problem=trouble)).held_up == {"a": trouble}


def test_a_part_of_what_fits_is_not_said_to_be_too_large() -> None:
    assert plan(model("a", partial=True)).held_up == {"a": "not all of its weights are in RAM"}
    shrunk = model("a", partial=True, limit=70, problem="w: was truncated")
    assert plan(shrunk).held_up == {"a": "w: was truncated"}
    giant = model("a", total=200, partial=True, limit=70, problem="w: was truncated")
    told = plan(giant).held_up["a"]
    assert "larger than ram.staging" in told
    assert told.endswith("; w: was truncated")


def test_why_weights_cannot_be_verified_yet_is_told() -> None:
    waits = replace(model("a", Rung.HOT, total=60, wait=1.0), unverified="they are verified first")
    assert plan(waits).held_up == {"a": "they are verified first"}
    told = plan(waits, budget=60, available=59).held_up["a"]
    assert told == (
        "they are verified first; its weights (60 bytes) don't fit in RAM: 59 bytes are to spare"
    )
    wrong = replace(waits.staging, problem="they are", retry_at=30.0)
    assert plan(replace(waits, staging=wrong)).held_up == {"a": "they are verified first"}, "once"
    late = replace(waits, staging=replace(waits.staging, retry_at=30.0))
    assert plan(late).held_up["a"] == "they are verified first; it is tried again in 30 s"


# A host that does what the plan says, while nothing else changes.


@dataclass
class Host:
    """Sets in RAM by key; what is gone is locked there, and the kernel counts it as used."""

    models: Sequence[ModelFacts]
    budget: int
    available: int
    reserve: int
    locked: frozenset[str] = frozenset()
    sets: dict[str, StagingFacts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in self.models:
            self.sets[f"weights:{each.name}"] = each.staging
            self.sets[f"compile-cache:{each.name}"] = each.caches

    @property
    def held(self) -> int:
        return sum(facts.taken for facts in self.sets.values())

    @property
    def gone(self) -> int:
        return sum(facts.taken for key, facts in self.sets.items() if key in self.locked)

    def plan(self) -> list[Action]:
        seen = [
            replace(
                each,
                staging=self.sets[f"weights:{each.name}"],
                caches=self.sets[f"compile-cache:{each.name}"],
            )
            for each in self.models
        ]
        available = self.available - self.gone
        ram = RamLedger(self.budget, self.held, available, reserve=self.reserve, gone=self.gone)
        programs = {ENV: self.sets[ENV]}
        made = make_plan(Scene(seen, ram, 0.0, programs=programs)).actions
        return [a for a in made if isinstance(a, StageFiles | ReleaseFiles | PaceFiles)]

    def carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case StageFiles(key=key, limit=limit, urgent=urgent):
                    had, free = self.held, self.available - self.held - self.reserve
                    self.sets[key] = replace(self.sets[key], busy=True, limit=limit, urgent=urgent)
                    assert self.held <= max(had, self.budget), "within the budget"
                    assert self.sets[key].taken <= max(0, free), "never below the floor"
                case ReleaseFiles(key=key, short=short):
                    retry = 1.0 if short else None
                    total = self.sets[key].total
                    self.sets[key] = StagingFacts(total, retry_at=retry)
                case PaceFiles(key=key, urgent=urgent):
                    self.sets[key] = replace(self.sets[key], urgent=urgent)
                case _:
                    raise AssertionError(f"the disk lane plans {action}")
        busy = {key: facts for key, facts in self.sets.items() if facts.busy}
        assert len(busy) <= 1, "one at a time"
        if not actions:
            for key, facts in busy.items():  # it is done at last
                held = facts.limit is None
                self.sets[key] = replace(facts, busy=False, held=held, partial=not held)


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    names = "abcd"[: draw(st.integers(1, 4))]
    sizes = st.integers(0, 60)
    models = []
    for name in names:
        each = model(
            name,
            draw(st.sampled_from(Rung)),
            draw(st.sampled_from(Phase)),
            total=draw(sizes),
            idle=draw(st.sampled_from([1.0, 2.0, float("inf")])),
            wait=draw(st.sampled_from([0.0, 0.0, 1.0, 2.0])),
            caches=draw(sizes),
        )
        if each.staging.total and draw(st.booleans()):
            each = replace(each, staging=replace(each.staging, held=True))
        need = draw(st.sampled_from([0.0, 1.5, float("inf")]))
        models.append(replace(each, needed_in=need, files_due=draw(st.booleans())))
    locked = frozenset(f"weights:{name}" for name in names if draw(st.booleans()))
    host = Host(models, draw(sizes), draw(st.integers(0, 120)), draw(st.integers(0, 20)), locked)
    host.sets[ENV] = StagingFacts(draw(sizes))
    return host


@given(hosts())
@settings(max_examples=300)
def test_while_nothing_changes_the_plan_comes_to_its_end_and_keeps_budget_and_floor(
    host: Host,
) -> None:
    for _ in range(80):
        actions = host.plan()
        if not actions and not any(facts.busy for facts in host.sets.values()):
            break
        host.carry_out(actions)
    else:
        raise AssertionError(f"it never ends: {host.sets}")
    assert host.available - host.held >= host.reserve or not host.held


def test_with_no_budget_nothing_is_staged_and_that_is_said() -> None:
    none = plan(model("a"), budget=0)
    assert none.actions == ()
    assert none.held_up == {"a": "ram.staging is 0, so no files are staged"}
