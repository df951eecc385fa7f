"""Replicas that are for load alone: they rise last, put nobody aside, and go first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig import House

from warmd.ladder import Phase, Rung
from warmd.planner import (
    ModelFacts,
    Plan,
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
from warmd.policy import Hygiene, Rank, Scale, Target
from warmd.supervisor import SleepPolicy

PLENTY = RamLedger(10**12, 0, 10**12, 10**12, 0)
NO_RAM = RamLedger(10**12, 0, 10**12, 0, 0)
ON_ENGINES = (StartEngine, StopEngine, SleepEngine, WakeEngine)
SLEEP = SleepPolicy(1, Hygiene(50, 100), rehearse=False, key="k")


def facts(
    name: str,
    *phases: Phase,
    extra: int = 0,
    sleepers: int = 0,
    rung: Rung = Rung.HOT,
    wait: float = 0.0,
    in_flight: Sequence[int] = (),
    vram: int = 40,
) -> ModelFacts:
    """A model whose replicas are all wanted but for `sleepers`; the last `extra` for its load."""
    busy = [*in_flight, *[0] * len(phases)]
    replicas = [
        ReplicaFacts(f"{name}.{n}", phase, in_flight=busy[n], since=-99.0, sleeps=True, pins=1)
        for n, phase in enumerate(phases)
    ]
    target = Target(rung, len(phases) - sleepers, f"{name} shall", extra=extra, sleepers=sleepers)
    staging = StagingFacts(total=0)
    waiting = 1 if wait else 0
    return ModelFacts(name, target, replicas, staging, wait, waiting, 900.0, pool="p", vram=vram)


def plan(*models: ModelFacts, ram: RamLedger = PLENTY) -> Plan:
    """The plan, what it does with engines alone."""
    made = make_plan(Scene(models, ram, now=0.0, pools={"p": 100}))
    return replace(made, actions=tuple(a for a in made.actions if isinstance(a, ON_ENGINES)))


UP, DOWN = Phase.READY, Phase.DOWN


@pytest.mark.parametrize("wait", [0.0, 500.0])
def test_it_puts_nobody_aside_and_says_why_it_is_not_there(wait: float) -> None:
    other, ours = facts("a", UP), facts("m", UP, DOWN, extra=1, wait=wait)
    made = plan(other, ours)
    assert made.actions == ()
    assert made.held_up["m"] == (
        "pool p is full: it lacks 20 bytes for m.1; a.0 is hot there, m.0 of the same model is hot "
        "there, and a replica that is for load alone puts nobody aside"
    )
    firm = facts("m", UP, DOWN, wait=500.0)
    assert plan(other, firm).actions == (
        SleepEngine("a.0", "put aside for m: a request has waited 8 min 20 s for it to make room"),
    )


def test_it_rises_after_all_others_and_never_into_the_room_of_one_to_come() -> None:
    rests = facts("z", DOWN)
    assert plan(facts("m", UP, DOWN, extra=1), rests).actions == (StartEngine("z.0", "z shall"),)
    backs_off = replace(rests, replicas=[replace(rests.replicas[0], phase=Phase.BACKING_OFF)])
    made = plan(facts("m", UP, DOWN, extra=1), backs_off)
    assert made.actions == ()
    assert "z.0 shall rise there" in made.held_up["m"]
    small = facts("z", DOWN, vram=10)
    small = replace(small, replicas=[replace(small.replicas[0], phase=Phase.BACKING_OFF)])
    assert plan(facts("m", UP, DOWN, extra=1), small).actions == (StartEngine("m.1", "m shall"),)


def test_it_makes_room_for_whoever_is_wanted_whatever_the_load() -> None:
    """No request has to wait for it: a window may have opened, or a model may rest hot."""
    made = plan(facts("m", UP, UP, extra=1, in_flight=(3, 3)), facts("z", DOWN))
    why = "put aside for z: it was for its own model's load alone"
    assert made.actions == (SleepEngine("m.1", why),)
    in_vain = plan(facts("m", UP, UP, extra=1), facts("z", DOWN, vram=90))
    assert in_vain.actions == (), "it would not be enough"
    pinned = replace(facts("m", UP, UP, extra=1), pinned=True)
    assert plan(pinned, facts("z", DOWN)).actions == (SleepEngine("m.1", why),)


def test_who_is_served_by_it_has_the_same_time_as_anywhere() -> None:
    asker = facts("z", DOWN, wait=1.0)
    busy = plan(facts("m", UP, UP, extra=1, in_flight=(1, 1)), asker)
    assert busy.actions == ()
    idle = plan(facts("m", UP, UP, extra=1, in_flight=(1, 0)), asker)
    why = "put aside for z: it was for its own model's load alone"
    assert idle.actions == (SleepEngine("m.1", why),)


def test_what_is_wanted_no_longer_sleeps_once_it_serves_nobody() -> None:
    assert plan(facts("m", UP, UP, sleepers=1, in_flight=(1, 1))).actions == ()
    idle = facts("m", UP, UP, sleepers=1, in_flight=(1, 0))
    assert plan(idle).actions == (SleepEngine("m.1", "m shall"),)
    full = plan(idle, ram=NO_RAM).actions
    assert isinstance(full[0], StopEngine)
    assert full[0].replica == "m.1"
    assert "m shall, but" in full[0].reason
    assert plan(facts("m", UP, Phase.ASLEEP, sleepers=1)).actions == ()
    assert plan(facts("m", UP, DOWN, sleepers=1)).actions == (), "none is started to sleep"
    called_off = plan(facts("m", UP, Phase.STARTING, sleepers=1))
    assert called_off.actions == (StopEngine("m.1", "m shall"),)
    stale = facts("m", UP, Phase.ASLEEP, sleepers=1)
    old = [stale.replicas[0], replace(stale.replicas[1], stale=True)]
    assert plan(replace(stale, replicas=old)).actions == (StopEngine("m.1", "m shall"),)
    assert plan(facts("m", UP, Phase.ASLEEP, extra=1)).actions == (WakeEngine("m.1", "m shall"),)


phases = st.sampled_from([UP, UP, UP, DOWN, Phase.ASLEEP, Phase.STARTING, Phase.DRAINING])
neighbours = st.builds(
    lambda phase, rung, wait, rank, vram: replace(
        facts("z", phase, rung=rung, wait=wait, vram=vram),
        target=Target(rung, 1, "z shall", rank),
    ),
    phases,
    st.sampled_from([Rung.HOT, *Rung]),
    st.sampled_from([0.0, 3.0, 900.0]),
    st.sampled_from(Rank),
    st.integers(10, 100),
)


@settings(max_examples=400)
@given(neighbours, phases, st.integers(1, 3), st.sampled_from([0.0, 900.0]), st.integers(10, 60))
def test_nobody_else_fares_any_worse_for_it(
    other: ModelFacts, first: Phase, many: int, wait: float, vram: int
) -> None:
    with_extra = facts("m", first, *[DOWN] * many, extra=many, wait=wait, vram=vram)
    without = replace(with_extra, target=replace(with_extra.target, replicas=1, extra=0))
    made, would_be = plan(other, with_extra), plan(other, without)
    more = [action for action in made.actions if action not in would_be.actions]
    assert [action for action in would_be.actions if action not in made.actions] == []
    assert {type(action) for action in more} <= {StartEngine}
    assert all(action.replica.startswith("m.") for action in more if isinstance(action, ON_ENGINES))
    if more:
        awake = [(m, r) for m in (other, with_extra) for r in m.replicas if r.phase.is_up]
        assert sum(m.vram for m, r in awake if r.phase is not Phase.ASLEEP) + vram <= 100


def scaling_house(**more: House | None) -> House:
    house = House(after=more.get("after"))
    terms = house.terms("m", Rung.HOT, 2, sleep=SLEEP)
    wish = replace(terms.wish, replicas=1, scale=Scale(2, 2, 10.0, 60.0), most=2)
    fits = tuple(replace(fit, asks_queue=1.0) for fit in terms.fits)
    house.supervisor.adopt("m", replace(terms, wish=wish, fits=fits))
    return house


async def pass_time(house: House, seconds: int) -> None:
    for _ in range(seconds):
        house.time.now += 1.0
        await house.rest()


async def test_a_queue_inside_the_engine_starts_one_more_and_nobody_meets_it_before() -> None:
    house = scaling_house()
    await house.make_ready("m.0")
    leases = [await house.supervisor.acquire("m") for _ in range(6)]
    house.makes["m.0"].waiting_inside = 4
    await pass_time(house, 9)
    assert house.phase("m.1") is DOWN
    await pass_time(house, 4)
    assert house.phase("m.1") is Phase.STARTING
    assert "m wants 2 replicas, not 1: 4 requests waited for 10 s" in house.recorder.lines
    leases.append(await house.supervisor.acquire("m"))
    house.makes["m.1"].up.set()
    await house.until(lambda: house.phase("m.1") is Phase.WARMING)
    leases.append(await house.supervisor.acquire("m"))
    assert {lease.replica for lease in leases} == {"m.0"}
    house.makes["m.1"].answers.set()
    await house.until(lambda: house.phase("m.1") is UP)
    assert (await house.supervisor.acquire("m")).replica == "m.1", "the fewest are there"


async def test_what_an_earlier_daemon_left_hot_goes_down_by_the_same_rule() -> None:
    old = scaling_house()
    await old.make_ready("m.0")
    old.supervisor.word.set_target("m", Rung.HOT, None, replicas=2)
    await old.make_ready("m.1")
    await old.die()
    house = scaling_house(after=old)
    found, _ = house.supervisor.succession.left_behind()
    house.launcher.sweep(spare=found)
    for name, record in found.items():
        house.supervisor.succession.take_over(name, record)
    await house.rest()
    assert [house.phase(name) for name in ("m.0", "m.1")] == [UP, UP]
    assert house.supervisor.models["m"].target.replicas == 2
    lease = await house.supervisor.acquire("m")
    await pass_time(house, 62)
    await house.until(lambda: house.phase("m.1") is Phase.ASLEEP)
    lease.release()
    assert not house.launcher.started
    house.time.now += 700.0
    await house.until(lambda: house.phase("m.1") is DOWN)


async def test_a_number_that_was_set_ends_by_itself_and_has_bounds() -> None:
    house = scaling_house()
    with pytest.raises(ValueError, match="m can't have 3 replicas: its config has a place for 2"):
        house.supervisor.word.set_target("m", Rung.HOT, None, replicas=3)
    said = house.supervisor.word.set_target("m", Rung.HOT, 30.0, replicas=2)
    assert said == "m is to be hot with 2 replicas for 30 s"
    for name in ("m.0", "m.1"):
        await house.make_ready(name)
    await pass_time(house, 29)
    assert house.supervisor.models["m"].target.least == 2
    await pass_time(house, 2)
    target = house.supervisor.models["m"].target
    assert (target.replicas, target.least) == (2, 1), "its load decides how soon one goes"
    await pass_time(house, 61)
    await house.until(lambda: house.phase("m.1") is Phase.ASLEEP)
