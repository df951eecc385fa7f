"""What a reload would move, foreseen without moving it, and said by `warmctl plan`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from rig import House

from warmd.cli.plan import plan
from warmd.config import Settings
from warmd.foresight import Fate, Foresight, foresee
from warmd.ladder import Phase, Rung
from warmd.planner import (
    ModelFacts,
    RamLedger,
    ReplicaFacts,
    Reservations,
    Room,
    Scene,
    SleepEngine,
    StagingFacts,
    StartEngine,
    StopEngine,
    WakeEngine,
    make_plan,
)
from warmd.policy import Hygiene, Target
from warmd.reload import applicable, changes
from warmd.status import ModelStatus, ReplicaStatus, StagingStatus
from warmd.supervisor import Outlook, Rules, SleepPolicy

SLEEPS = SleepPolicy(1, Hygiene(50, 100), rehearse=False, key="k")
HOT, ASLEEP, STAGED, COLD = Rung.HOT, Rung.ASLEEP, Rung.STAGED, Rung.COLD


def settings(models: dict[str, dict[str, Any]], **tables: Any) -> Settings:
    whole = {name: {"weights": f"/{name}"} | table for name, table in models.items()}
    return Settings.model_validate({"engine": {"python": "/p"}, "models": whole} | tables)


def outlook(
    name: str,
    target: Rung,
    *phases: Phase,
    stale: bool = False,
    replicas: int = 1,
    starts: tuple[float, ...] = (41.0,),
    **of_replica: Any,
) -> Outlook:
    facts: dict[str, Any] = {"pid": None, "since": 0.0, "reason": "CUDA error", "in_flight": 0}
    facts |= {"failures": 0, "retry_at": None, "start": None, "last_start": None}
    made = tuple(
        ReplicaStatus(f"{name}.{n}", COLD, phase, **facts | of_replica)
        for n, phase in enumerate(phases)
    )
    staging = StagingStatus(0, 1, holding=False)
    status = ModelStatus(name, (), COLD, target, "why", None, None, 0, 0.0, staging, made)
    names = frozenset(each.name for each in made) if stale else frozenset()
    shall = Target(target, replicas, f"it rests {target}")
    return Outlook(shall, status if phases else None, names, starts)


def foreseen(
    now: Settings, new: Settings, room: Room | None = None, /, **outlooks: Outlook
) -> Foresight:
    kept, later = applicable(now, new)
    found = list(changes(now, kept, Reservations(), Reservations(), has_gpu=True))
    return foresee(now, kept, found, later, outlooks, room=room or Room())


def said(foresight: Foresight) -> list[str]:
    return plan(json.loads(json.dumps(asdict(foresight)))).splitlines()


def test_a_busy_engine_of_other_args_is_drained_and_away_as_long_as_its_starts_took() -> None:
    now = settings({"a": {}, "b": {}})
    new = settings({"a": {"args": ["--x"]}, "b": {}})
    busy = outlook("a", HOT, Phase.READY, stale=True, in_flight=3)
    assert said(foreseen(now, new, a=busy, b=outlook("b", HOT, Phase.READY))) == [
        "a reload of the config would do this; nothing has been done",
        "a changes",
        '  args  [] -> ["--x"] (another engine)',
        "  a.0 is hot with 3 requests in flight: it is drained first, at most 30 s, then about 46",
        "    s without it (by its last starts)",
        "  a request that comes meanwhile is held, at most 3 min (max_wait)",
        "  the first start with other settings may take longer: what is new is compiled",
        "  shall be hot then: it rests hot",
        "in this order, one at a time, about 46 s in all and as long as drains take",
        "  a.0 is made anew, about 46 s",
        "not touched: b",
    ]


def on(card: str, outlook: Outlook) -> Outlook:
    status = outlook.status
    names = [each.name for each in status.replicas] if status else ["new.0"]
    return replace(outlook, cards={name: frozenset({card}) for name in names})


def test_steps_on_different_gpus_run_side_by_side_but_engines_are_made_anew_one_at_a_time() -> None:
    now = settings({"a": {}, "b": {}, "w": {}})
    new = settings(
        {"a": {"args": ["-x"]}, "b": {"args": ["-x"]}, "w": {"resting": "hot"}, "new": {}}
    )
    anew = {
        "a": on("GPU-0", outlook("a", HOT, Phase.READY, stale=True)),
        "b": on("GPU-1", outlook("b", HOT, Phase.READY, stale=True)),
    }
    woken = on("GPU-0", replace(outlook("w", HOT, Phase.ASLEEP), wakes=(0.1,)))
    foresight = foreseen(now, new, w=woken, new=on("GPU-1", outlook("new", HOT)), **anew)
    assert [each.cards for each in foresight.steps] == [(f"GPU-{n}",) for n in (0, 1, 0, 1)]
    assert foresight.total_s == pytest.approx(0.1 + 46 + 46), "the start of `new` beside a's"
    told = said(foresight)
    assert (
        "w.0 is asleep: it is woken, about 0.1 s (by its last wakes)"
        in told[told.index("w changes") + 2]
    )
    assert (
        "in this order on each GPU, on different ones side by side, about 1 min 32 s in all and as "
        "long as drains take"
    ) in told


def test_what_finds_no_room_is_not_announced_as_moving() -> None:
    now = settings({"s": {}, "d": {}})
    new = settings({"s": {}, "d": {}}, engine={"python": "/p", "hang_after": "9s"})
    full = Room(left_out={"s.0": "pool p is full", "d.0": "pool p is full"})
    sleeper, down = outlook("s", HOT, Phase.ASLEEP), outlook("d", HOT, Phase.DOWN)
    foresight = foreseen(now, new, full, s=sleeper, d=down)
    assert foresight.steps == ()
    assert [m.replicas[0].sentence for m in foresight.models.values()] == [
        "s.0 is asleep: it stays so for now, held up: pool p is full",
        "d.0 does not run: it stays so for now, held up: pool p is full",
    ]


def test_a_new_model_that_rests_low_starts_nothing() -> None:
    foresight = foreseen(settings({}), settings({"a": {}}), a=outlook("a", STAGED))
    [replica] = foresight.models["a"].replicas
    assert replica.sentence == "a.0 is new: no engine is started for it now"


def test_a_reload_that_changes_nothing_says_so() -> None:
    same = settings({"a": {}})
    told = said(foreseen(same, same, a=outlook("a", HOT, Phase.READY)))
    assert told == ["a reload of the config would change nothing"]


def test_the_order_is_the_device_lanes() -> None:
    now = settings({"gone": {}, "a": {}, "b": {}, "calls": {}})
    new = settings(
        {"new": {}, "a": {"args": ["--x"]}, "b": {"args": ["--x"]}, "calls": {"args": ["-y"]}}
    )
    foresight = foreseen(
        now,
        new,
        a=outlook("a", HOT, Phase.READY, stale=True),
        gone=outlook("gone", COLD, Phase.READY, replicas=0),
        b=outlook("b", ASLEEP, Phase.ASLEEP, stale=True, starts=()),
        calls=outlook("calls", HOT, Phase.STARTING, stale=True),
        new=outlook("new", HOT),
    )
    assert [(step.replica, step.fate) for step in foresight.steps] == [
        ("calls.0", Fate.BEGUN_AGAIN),
        ("gone.0", Fate.STOPPED),
        ("new.0", Fate.STARTED),
        ("a.0", Fate.MADE_ANEW),
        ("b.0", Fate.MADE_ANEW),
    ]
    assert foresight.total_s == pytest.approx(46 + 5 + 41 + 46 + 95)
    assert [step.measured for step in foresight.steps] == [True, True, True, True, False]
    assert "those after it go on with their old settings" in said(foresight)[-1]


def test_a_broken_model_that_nobody_touches_keeps_engines_as_they_are() -> None:
    now, new = settings({"a": {}, "x": {}}), settings({"a": {"args": ["--x"]}, "x": {}})
    broken = outlook("x", HOT, Phase.FAILED, renewed=True)
    old = outlook("x", HOT, Phase.FAILED)
    ready = outlook("a", HOT, Phase.READY, stale=True)
    assert foreseen(now, new, a=ready, x=old).held_up_by is None, "nobody changed it"
    foresight = foreseen(now, new, a=ready, x=broken)
    assert foresight.held_up_by == "x.0 has failed (CUDA error)"
    assert "no engine is made anew for now: x.0 has failed" in said(foresight)[-2]
    touched = settings({"a": {"args": ["--x"]}, "x": {"max_wait": "9s"}})
    assert foreseen(now, touched, a=outlook("a", HOT, Phase.READY), x=broken).held_up_by is None


def test_a_max_wait_that_is_too_short_and_replicas_that_take_turns() -> None:
    now = settings({"a": {}})
    short = settings({"a": {"args": ["--x"], "max_wait": "9s"}})
    one = foreseen(now, short, a=outlook("a", HOT, Phase.READY, stale=True))
    assert "too short for one that comes early" in one.models["a"].notes[0]
    two = outlook("a", HOT, Phase.READY, Phase.READY, stale=True, replicas=2)
    twice = settings({"a": {"args": ["--x"], "replicas": 2}})
    assert "the others answer meanwhile" in foreseen(now, twice, a=two).models["a"].notes[0]


def test_a_guess_is_called_one_and_forgotten_failures_are_told() -> None:
    now, new = settings({"a": {}}), settings({"a": {"resting": "hot"}})
    foresight = foreseen(now, new, a=outlook("a", HOT, Phase.FAILED, starts=()))
    assert foresight.models["a"].replicas[0].sentence == (
        "a.0 has failed: its failures are forgotten, it is started, about 1 min 30 s "
        "(a guess: no start was measured)"
    )


def test_settings_that_come_back_move_nothing() -> None:
    """An engine that waits for its turn runs with the very settings that return."""
    now, new = settings({"a": {"args": ["--x"]}}), settings({"a": {}})
    foresight = foreseen(now, new, a=outlook("a", HOT, Phase.READY))
    assert foresight.steps == ()
    assert foresight.models["a"].notes == ("its engine runs with these settings already",)
    same = foreseen(now, now, a=outlook("a", HOT, Phase.READY, stale=True))
    assert same.models["a"].change == "earlier"
    assert [step.fate for step in same.steps] == [Fate.MADE_ANEW]


def test_rules_for_many_models_are_said_once() -> None:
    now = settings({"a": {}, "b": {}})
    new = settings({"a": {}, "b": {}}, restart={"max_delay": "9s"})
    ready = {name: outlook(name, HOT, Phase.READY) for name in ("a", "b")}
    assert said(foreseen(now, new, **ready))[1:] == [
        "a, b change",
        '  restart.max_delay  "5m" -> "9s" (from now on)',
        "  none of their engines is started, stopped or made anew",
        "no engine is started, stopped or made anew",
    ]


def test_what_waits_for_warmds_next_start_is_told_apart() -> None:
    now, new = settings({"a": {}}), settings({"a": {}}, gateway={"max_body": "1MiB"})
    told = said(foreseen(now, new, a=outlook("a", HOT, Phase.READY)))
    assert told[1:3] == ["from warmd's next start", '  gateway.max_body  "32MiB" -> "1MiB"']


STEADY = [phase for phase in Phase if phase not in (Phase.STOPPING, Phase.ADOPTING, Phase.WAKING)]
DOES = {
    StartEngine: Fate.STARTED,
    WakeEngine: Fate.WOKEN,
    SleepEngine: Fate.PUT_TO_SLEEP,
    StopEngine: Fate.STOPPED,
}


@pytest.mark.parametrize("phase", [p for p in STEADY if not p.holds_the_device or p.is_coming_up])
@pytest.mark.parametrize("target", [HOT, ASLEEP, STAGED])
@pytest.mark.parametrize("stale", [True, False])
def test_the_foreseen_fate_is_what_the_planner_does(
    phase: Phase, target: Rung, *, stale: bool
) -> None:
    """Held against the planner itself; a failure is forgiven by the reload before it plans."""
    stale = stale and phase.is_up
    now = settings({"a": {}})
    new = settings({"a": {"args": ["--x"], "resting": "hot"}})
    is_ = outlook("a", target, phase, stale=stale)
    [fate] = [each.fate for each in foreseen(now, new, a=is_).models["a"].replicas]
    broken = phase in (Phase.FAILED, Phase.BACKING_OFF)
    facts = ReplicaFacts("a.0", Phase.DOWN if broken else phase, stale=stale, sleeps=True)
    model = ModelFacts("a", Target(target, 1, "because"), [facts], StagingFacts(1, held=True))
    ram = RamLedger(10**9, 0, 10**9, 10**9)
    actions = [a for a in make_plan(Scene([model], ram, 0.0)).actions if type(a) in DOES]
    if not actions:
        assert not fate.moves
        return
    did = DOES[type(actions[0])]
    if fate is Fate.MADE_ANEW:
        # What is to be hot wakes first, what is to sleep sleeps first: that much is the old ways.
        assert did in (Fate.STOPPED, Fate.PUT_TO_SLEEP, Fate.WOKEN)
    elif fate in (Fate.BEGUN_AGAIN, Fate.CALLED_OFF):
        assert did is Fate.STOPPED
    else:
        assert fate is did


async def test_an_outlook_changes_nothing_and_knows_engines_of_other_settings() -> None:
    house = House("m", resting=HOT)
    await house.make_ready("m.0")
    supervisor = house.supervisor
    before = supervisor.view.statuses()
    ahead = supervisor.view.outlook("m", house.terms("m", HOT, spec="other"))
    assert ahead.stale == {"m.0"}
    assert supervisor.view.outlook("m", house.terms("m", HOT)).stale == frozenset()
    assert supervisor.view.outlook("m", None).target.rung is COLD
    assert supervisor.view.outlook("new", house.terms("new", HOT)).status is None
    assert ahead.cards == {"m.0": frozenset()}
    assert supervisor.view.statuses() == before
    assert replace(ahead.target, reason="") == Target(HOT, 1, "")


async def test_who_finds_no_room_after_a_reload_is_foreseen() -> None:
    house = House()
    terms = {name: house.terms(name, HOT, pool="p", vram=60) for name in ("a", "b", "c")}
    for name in ("a", "b"):
        house.supervisor.adopt(name, terms[name])
    await house.make_ready("a.0")
    await house.rest()

    def left_out(rules: Rules, *names: str) -> set[str]:
        ahead = {name: terms[name] for name in names}
        outlooks = {name: house.supervisor.view.outlook(name, each) for name, each in ahead.items()}
        return set(house.supervisor.view.room_ahead(ahead, outlooks, rules).left_out)

    tight, wide = Rules({"p": 100}), Rules({"p": 120})
    assert left_out(tight, "a", "b", "c") == {"b.0", "c.0"}
    assert left_out(wide, "a", "b", "c") == {"c.0"}, "b takes what is left"
    assert left_out(tight, "b", "c") == {"c.0"}, "a is gone from the config"
    terms["a"] = house.terms("a", COLD, pool="p", vram=60)
    assert left_out(tight, "a", "b") == set(), "a cools"
    terms["new"] = replace(house.terms("new", HOT), unsized="its files weren't there")
    assert left_out(wide, "new") == {"new.0"}, "nobody knows its size"


@pytest.mark.parametrize("sleep", [None, SLEEPS])
async def test_who_is_put_aside_since_a_pool_becomes_smaller_is_foreseen(
    sleep: SleepPolicy | None,
) -> None:
    house = House()
    terms = {n: house.terms(n, HOT, pool="p", vram=60, sleep=sleep) for n in ("a", "b", "c")}
    house.supervisor.rules = Rules({"p": 180})
    for name, each in terms.items():
        house.supervisor.adopt(name, each)
        await house.make_ready(f"{name}.0")
    await house.rest()
    outlooks = {name: house.supervisor.view.outlook(name, each) for name, each in terms.items()}
    room = house.supervisor.view.room_ahead(terms, outlooks, Rules({"p": 60}))
    now, new = ({"p": {"vram": size}} for size in ("7GiB", "5GiB"))
    models: dict[str, dict[str, Any]] = {name: {"pool": "p", "vram": "2GiB"} for name in terms}
    was, comes = settings(models, pools=now), settings(models, pools=new)
    found = list(changes(was, comes, Reservations(), Reservations(), has_gpu=True))
    tight = ("warning: the models of pool p don't fit in it together",)
    foresight = foresee(was, comes, found, (), outlooks, room=room, warnings=tight)
    told = said(foresight)
    assert tight[0] in told
    foreseen_aside = [(step.replica, step.fate) for step in foresight.steps]
    fate, how = (Fate.PUT_TO_SLEEP, "put to sleep") if sleep else (Fate.STOPPED, "stopped")
    assert [each[1] for each in foreseen_aside] == [fate, fate], "one of three fits"
    sentences = " ".join(m.replicas[0].sentence for m in foresight.models.values())
    assert f"it is {how}: pool p has become smaller, and lacks 120 bytes for all" in sentences
    house.supervisor.rules = Rules({"p": 60})
    await house.rest()
    gone = {f"{n}.0" for n in terms if house.phase(f"{n}.0") is not Phase.READY}
    assert gone == {name for name, _ in foreseen_aside}, "what the planner does then"
