"""Quarantine: what keeps a GPU out of service, and what that moves."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

from rig import FakeGpu, House
from test_sleep import KNOWN, policy
from test_vram import NOW, card, model, plan, rises

from warmd.devices import (
    HOST,
    CardUse,
    Condition,
    GpuError,
    GpuTrouble,
    Recovery,
    SickGpu,
    Survey,
    Surveyed,
    Sweep,
    Xid,
)
from warmd.ladder import Phase, Rung, VramBy
from warmd.launch import EngineExit
from warmd.planner import (
    Card,
    CardFacts,
    Holding,
    LookAtCards,
    ModelFacts,
    Reservations,
    SleepEngine,
    StopEngine,
)
from warmd.policy import Ailment, Health, diagnose, give_back
from warmd.supervisor import CardRules, Examination, Look, Rules, as_numbered
from warmd.supervisor.wards import Wards

XID = Ailment("Xid 94: contained", "see", stamp=10.0)
ASKS = Ailment("its driver asks for a reset", "reset it")
LOST = Ailment("it is lost", "see", dead=True)


def sentences(health: Health) -> list[str]:
    return [each.sentence for each in health.ailments]


def test_what_happened_stays_until_it_is_returned_though_the_log_forgets_it() -> None:
    health = diagnose(Health(), [XID])
    health = diagnose(health, [])
    assert sentences(health) == [XID.sentence]
    health = diagnose(give_back(health), [XID])
    assert sentences(health) == []
    again = replace(XID, stamp=11.0)
    assert diagnose(health, [XID, again]).ailments == (again,)


def test_a_driver_that_is_loaded_anew_has_settled_what_was_before() -> None:
    health = diagnose(Health(), [XID])
    assert sentences(diagnose(health, [], driver_loaded=9.0)) == [XID.sentence]
    assert sentences(diagnose(health, [], driver_loaded=10.5)) == []


def test_a_state_ends_when_the_driver_says_it_no_more_and_a_reset_settles_all() -> None:
    for state in (ASKS, LOST):
        health = diagnose(diagnose(Health(), [XID]), [state])
        assert sentences(health) == [state.sentence, XID.sentence]
        later = replace(XID, stamp=12.0)  # told in the log while it was so
        assert sentences(diagnose(health, [XID, later])) == []
        assert sentences(diagnose(diagnose(health, []), [replace(XID, stamp=13.0)]))


def test_what_an_operator_lives_with_is_no_matter_until_it_comes_anew() -> None:
    health = give_back(diagnose(Health(), [ASKS]))
    health = diagnose(health, [ASKS])
    assert sentences(health) == []
    assert sentences(diagnose(health, [ASKS, LOST])) == [LOST.sentence]
    assert sentences(diagnose(diagnose(health, []), [ASKS])) == [ASKS.sentence]


def test_a_gpu_that_meets_one_error_after_the_other_is_not_remembered_without_end() -> None:
    health = Health()
    for n in range(500):
        health = diagnose(health, [replace(XID, stamp=float(n))])
    assert len(health.ailments) < 50
    assert health.ailments[0].stamp == 499.0
    assert health.settled == -math.inf


# Places elsewhere


def reserved(pool: int, vram: int, *engines: tuple[str, ...]) -> Reservations:
    holding = Holding("p", vram, VramBy.DECLARED, engines)
    return Reservations({"p": pool}, {"p": ("A", "B", "C")}, {"m": holding})


def test_engines_of_a_sick_gpu_have_another_one_of_their_pool_where_they_fit() -> None:
    three = reserved(100, 50, ("A",), ("B",), ("C",))
    places = [three.cards_of("m", n, frozenset("A")) for n in range(3)]
    assert places == [("B",), ("B",), ("C",)], "who stands well stays"
    assert [three.cards_of("m", n, frozenset("AB")) for n in range(3)] == [("C",), ("B",), ("C",)]
    full = reserved(99, 50, ("A",), ("B",), ("C",))
    assert full.cards_of("m", 0, frozenset("A")) == ("A",), "two of them don't fit on one"
    wide = reserved(100, 50, ("A", "B"))
    assert wide.cards_of("m", 0, frozenset("A")) == ("B", "C")
    assert wide.cards_of("m", 0, frozenset("BC")) == ("A", "B"), "and there is but one left"
    assert wide.cards_of("m", 0, frozenset("x")) == ("A", "B")


def test_nobody_is_sent_to_where_another_one_stands_and_who_stands_well_stays() -> None:
    two = reserved(99, 50, ("A",), ("B",))
    at_c = {"m.1": frozenset("C")}
    assert two.cards_of("m", 1, frozenset("AB"), at_c) == ("C",)
    assert two.cards_of("m", 0, frozenset("AB"), at_c) == ("A",), "there is no place left"
    four = replace(two, grounds={"p": ("A", "B", "C", "D")})
    assert four.cards_of("m", 0, frozenset("AB"), at_c) == ("D",)
    assert four.cards_of("m", 1, frozenset("B"), {"m.0": frozenset("C")}) == ("D",)
    wide = reserved(50, 50, ("A", "B"))
    assert wide.cards_of("m", 0, frozenset("A"), {"m.0": frozenset("AB")}) == ("B", "C")


def test_an_engine_may_go_on_anywhere_in_its_pool_but_where_another_one_has_no_room_then() -> None:
    assert reserved(100, 50, ("A",), ("B",)).ground_of("m", 0) == ("A", "B", "C")
    assert reserved(99, 50, ("A",), ("B",)).ground_of("m", 0) == ("A", "C")


# What is planned

SICK = card(quarantine="Xid 94: contained")
WELL = card("GPU-1")


def on_the_sick(phase: Phase, to: str, target: Rung = Rung.HOT, **more: bool) -> ModelFacts:
    facts = model("a", phase, wait=0.0 if target is Rung.HOT else None, target=target)
    [replica] = facts.replicas
    where = replace(replica, next_cards=frozenset({to}), **more)  # type: ignore[arg-type]  # by name
    return replace(facts, replicas=[where])


def test_nothing_rises_on_a_quarantined_gpu_and_nobody_looks_for_it() -> None:
    for phase in (Phase.DOWN, Phase.BACKING_OFF, Phase.ASLEEP):
        made = plan([replace(SICK, swept_at=NOW - 60.0)], on_the_sick(phase, "GPU-0"))
        assert made.actions == ()
        assert made.held_up["a"] == "GPU 0 is quarantined: Xid 94: contained"
    lost = CardFacts("GPU-0", "GPU 0", 100, 10, trouble="it is lost", quarantine="it is lost")
    made = plan([lost], on_the_sick(Phase.DOWN, "GPU-0"))
    assert not any(isinstance(each, LookAtCards) for each in made.actions)


def test_nobody_looks_for_a_wide_engine_one_of_whose_gpus_is_quarantined() -> None:
    wide = model("a", Phase.DOWN, "GPU-0", "GPU-1", wait=0.0)
    assert plan([SICK, replace(WELL, swept_at=NOW - 20.0)], wide).actions == ()


def test_nobody_is_put_aside_for_who_can_not_rise() -> None:
    other = model("b", Phase.READY, "GPU-0", vram=90, pool="p")
    asks = replace(on_the_sick(Phase.DOWN, "GPU-0"), pool="p", oldest_wait=900.0)
    assert plan([SICK], other, asks).actions == ()


def test_what_can_rise_elsewhere_leaves_the_sick_gpu_unless_it_serves() -> None:
    for phase in (Phase.ASLEEP, Phase.STARTING):
        [action] = plan([SICK, WELL], on_the_sick(phase, "GPU-1")).actions
        assert isinstance(action, StopEngine)
        assert "its next engine starts on another GPU" in action.reason
    assert plan([SICK, WELL], on_the_sick(Phase.READY, "GPU-1")).actions == ()
    assert plan([SICK, WELL], on_the_sick(Phase.STARTING, "GPU-0")).actions == ()
    asleep = on_the_sick(Phase.ASLEEP, "GPU-1", Rung.ASLEEP)
    assert plan([SICK, WELL], asleep).actions == (), "nobody asks for it"


def test_an_idle_engine_sleeps_on_a_sick_gpu_only_where_it_has_no_other() -> None:
    [there] = plan([SICK, WELL], on_the_sick(Phase.READY, "GPU-1", Rung.ASLEEP)).actions
    assert isinstance(there, StopEngine)
    [here] = plan([SICK, WELL], on_the_sick(Phase.READY, "GPU-0", Rung.ASLEEP)).actions
    assert isinstance(here, SleepEngine)


def test_an_engine_that_could_not_be_started_again_is_not_made_anew_nor_rehearsed() -> None:
    stale = on_the_sick(Phase.READY, "GPU-0", stale=True)
    made = plan([SICK], stale)
    assert made.actions == ()
    assert "goes on with its old settings: GPU 0 is quarantined" in made.held_up["a"]
    [anew] = plan([SICK, WELL], on_the_sick(Phase.READY, "GPU-1", stale=True)).actions
    assert isinstance(anew, StopEngine)
    rehearses = replace(on_the_sick(Phase.READY, "GPU-0"), rehearse=True)
    assert plan([SICK], rehearses).actions == ()
    assert rises(plan([card()], on_the_sick(Phase.DOWN, "GPU-0"))) == ["a.0"]


# The one writer


def a_house() -> House:
    house = House(gpu=FakeGpu())
    terms = house.terms("a", Rung.STAGED, sleep=policy(), pool="p", vram=60, max_wait=3600.0)
    house.supervisor.adopt("a", terms)
    house.supervisor.succession.restore("a", KNOWN)
    return house


def look(house: House, fares: Condition | None = None, trouble: GpuTrouble | None = None) -> Look:
    assert house.gpu is not None
    seen = house.gpu.look(house)
    if trouble is not None:
        sick = (SickGpu(0, GpuError(trouble)),)
        return replace(seen, sweep=Sweep({}, sick))
    return replace(seen, fares=None if fares is None else Examination({0: fares}))


async def test_a_quarantine_is_told_once_and_kept_until_somebody_has_examined_it() -> None:
    house = a_house()
    cards = house.supervisor.cards
    sick = Condition(0, recovery=Recovery.GPU_RESET)
    for seen in (look(house, sick), look(house, sick), look(house)):
        house.supervisor.seen(seen)
        assert cards.quarantined == {"GPU-0"}
    house.supervisor.seen(look(house, trouble=GpuTrouble.LOST))
    cards.wanted.clear()
    cards.to_examine = False
    house.supervisor.seen(look(house))
    assert cards.quarantined == {"GPU-0"}, "it answers, but nobody has seen how it fares"
    assert cards.to_examine
    assert cards.wanted.is_set()
    house.supervisor.seen(look(house, Condition(0)))
    assert cards.quarantined == set()
    assert house.recorder.lines == [
        "GPU 0 quarantined: its driver asks for a reset of the GPU",
        "GPU 0 quarantined: it is lost: it fell off the bus, or the driver gave it up",
        "GPU 0 quarantined: None",
    ]


async def test_a_gpu_that_fails_for_the_moment_is_in_doubt_and_not_quarantined() -> None:
    house = a_house()
    house.supervisor.seen(look(house, trouble=GpuTrouble.OTHER))
    assert house.supervisor.cards.quarantined == set()
    assert house.supervisor.cards.in_trouble
    told = house.supervisor.return_gpu("0")
    assert told.startswith("GPU 0 is in service already, but nobody can tell what it holds: the ")
    house.supervisor.seen(Look(house.time.now, Sweep({}, ())))
    assert house.supervisor.cards.quarantined == {"GPU-0"}, "the driver lists it no more"
    assert not house.supervisor.cards.in_trouble, "who resets it must find nobody at it"


THREE = tuple(Card(f"GPU-{n}", n, "a GPU", 100) for n in range(3))


def use(key: str, index: int) -> CardUse:
    return CardUse(key, index, "a GPU", 100, 0, {}, frozenset())


def test_gpus_behind_one_that_is_listed_no_more_are_known_by_their_uuid() -> None:
    """NVML counts anew once a GPU has gone: the well one went out of service for its neighbour."""
    wards = Wards()
    sweep = Sweep({"GPU-1": use("GPU-1", 0), "GPU-2": use("GPU-2", 1)}, ())
    sick = Condition(1, recovery=Recovery.GPU_RESET)
    list(wards.see(THREE, sweep, Examination({0: Condition(0), 1: sick})))
    assert wards.out == {"GPU-0", "GPU-2"}
    assert "--gpu-reset -i 1" in (wards.remedy(THREE[2]) or ""), "as nvidia-smi has it now"
    wants = SickGpu(1, GpuError(GpuTrouble.RESET_REQUIRED), "GPU-2")
    list(wards.see(THREE, Sweep({"GPU-1": use("GPU-1", 0)}, (wants,)), None))
    assert "--gpu-reset -i 1" in (wards.remedy(THREE[2]) or "")


def test_a_gpu_that_tells_nothing_is_known_by_its_place_beside_a_missing_one() -> None:
    wards = Wards()
    gone = Sweep({"GPU-2": use("GPU-2", 1)}, (SickGpu(0, GpuError(GpuTrouble.LOST)),))
    list(wards.see(THREE[1:], gone, None))
    assert (wards.why("GPU-1") or "").startswith("it is lost"), "it is the driver's GPU 0"
    list(wards.see(THREE, gone, None))
    assert wards.out == {"GPU-0", "GPU-1"}
    assert wards.why("GPU-1") == "the driver doesn't list it"
    assert "`warmctl gpu forget 1`" in (wards.remedy(THREE[1]) or "")


def test_a_survey_has_the_numbers_of_the_config() -> None:
    seen = [Surveyed(use("GPU-2", 1), (), None), Surveyed(use("GPU-0", 0), (), None)]
    found = as_numbered(Survey(tuple(seen)), THREE)
    assert [(each.use.index, each.driver_index) for each in found.cards] == [(0, None), (2, 1)]
    assert [(each.index, each.uuid, str(each.error)) for each in found.sick] == [
        (1, "GPU-1", "the driver doesn't list it")
    ]
    mute = SickGpu(1, GpuError(GpuTrouble.LOST))
    found = as_numbered(Survey((Surveyed(use("GPU-1", 0), (), None),), (mute,)), THREE[1:])
    assert [(each.index, each.uuid) for each in found.sick] == [(2, None)]
    beside = [Surveyed(use("GPU-0", 0), (), None), Surveyed(use("GPU-1", 1), (), None)]
    renamed = [Card("GPU-1", 0, "a GPU", 100)]  # GPU-0 was forgotten, and is back
    back = as_numbered(Survey(tuple(beside)), renamed)
    told = [(each.use.key, each.use.index, each.driver_index, each.is_new) for each in back.cards]
    assert told == [("GPU-1", 0, 1, False), ("GPU-0", 1, 0, True)], "no two of one number"
    assert as_numbered(Survey(tuple(beside)), []) == Survey(tuple(beside))
    host = Survey((Surveyed(CardUse(HOST, 0, "m", 1, 0, {}, frozenset()), (), None),), (), "none")
    assert as_numbered(host, [Card(HOST, 0, "m", 1)]) == host


def test_a_remedy_promises_no_return_by_itself_where_none_comes() -> None:
    wards, card = Wards(), THREE[0]
    well, xid = Sweep({"GPU-0": use("GPU-0", 0)}, ()), Xid((0, 1, 0), 94, 1.0, "bad", stamp=5.0)
    asks = Condition(0, recovery=Recovery.GPU_RESET)
    list(wards.see([card], well, Examination({0: asks})))
    assert "it comes back by itself" in (wards.remedy(card) or "")
    list(wards.give_back(card))
    list(wards.see([card], well, Examination({0: replace(asks, xids=(xid,))})))
    assert (wards.remedy(card) or "").endswith("; then `warmctl gpu return 0`")
    unknown = Card(Card.unknown(1), 1, "(unknown)", 100)
    for sick in ((), (SickGpu(1, GpuError(GpuTrouble.LOST)),)):
        list(wards.see([unknown], Sweep(well.cards, sick), None))
        assert "restart warmd" in (wards.remedy(unknown) or "")
        assert "by itself" not in (wards.remedy(unknown) or "")


async def test_an_operator_hears_of_the_quarantine_also_where_another_gpu_is_looked_at_first() -> (
    None
):
    house = a_house()
    house.supervisor.cards.fit(CardRules(THREE[:2]))
    terms = house.terms("b", Rung.HOT, pool="q", vram=60)
    fits = tuple(replace(fit, cards=frozenset({"GPU-1"})) for fit in terms.fits)
    house.supervisor.rules = Rules({"p": 100, "q": 100})
    house.supervisor.adopt("b", replace(terms, fits=fits))
    taken = CardUse("GPU-1", 1, "a GPU", 100, 90, {4711: 90}, frozenset())
    seen = look(house, Condition(0, recovery=Recovery.GPU_RESET))
    assert seen.sweep is not None
    both = Sweep({**seen.sweep.cards, "GPU-1": taken}, ())
    house.supervisor.seen(replace(seen, sweep=both))
    house.supervisor.tick()
    house.time.now += 10.0  # a stranger may have gone
    told = house.supervisor.word.set_target("a", Rung.HOT, None)
    assert "held up for now: GPU 0 is quarantined: its driver asks for a reset" in told


async def test_a_start_on_a_quarantined_gpu_is_not_foreseen_of_a_reload() -> None:
    house = a_house()
    house.supervisor.seen(look(house, Condition(0, recovery=Recovery.GPU_RESET)))
    terms = {"a": replace(house.supervisor.models["a"].terms, wish=house.terms("a", Rung.HOT).wish)}
    outlooks = {name: house.supervisor.view.outlook(name, each) for name, each in terms.items()}
    room = house.supervisor.view.room_ahead(terms, outlooks, house.supervisor.rules)
    why = "GPU 0 is quarantined: its driver asks for a reset of the GPU"
    assert room.left_out == {"a.0": why}
    house.supervisor.return_gpu("0")
    assert house.supervisor.view.room_ahead(terms, outlooks, house.supervisor.rules).left_out == {}


async def test_an_engine_that_fails_has_its_gpu_examined_before_it_starts_again() -> None:
    house = a_house()
    request = asyncio.create_task(house.supervisor.acquire("a"))
    await house.make_ready("a.0")
    (await request).release()
    house.supervisor.cards.to_examine = False
    house.launcher.started[0].end(EngineExit(None, signal=9))
    await house.until(lambda: house.phase("a.0") is Phase.BACKING_OFF)
    assert house.supervisor.cards.to_examine
    assert house.gpu is not None
    xid = Xid((0, 1, 0), 94, 1000.0, "contained", stamp=10.0)
    house.supervisor.seen(look(house, Condition(0, xids=(xid,))))
    house.time.now += 60.0
    house.supervisor.word.set_target("a", Rung.HOT, None)
    await house.rest()
    assert len(house.launcher.started) == 1
    (status,) = house.supervisor.view.card_statuses()
    assert status.quarantine == "Xid 94: contained"
    assert (status.remedy or "").endswith("then `warmctl gpu return 0`")
    assert house.supervisor.return_gpu("GPU-0") == "GPU 0 is back in service"
    await house.make_ready("a.0")


async def test_an_engine_goes_on_wherever_its_pool_is_and_its_next_one_elsewhere() -> None:
    house = a_house()
    there, here = frozenset({"GPU-0"}), frozenset({"GPU-1"})
    roams = there | here
    house.gpu = None  # what one GPU holds is not the matter here
    house.supervisor.cards.fit(CardRules())
    terms = house.supervisor.models["a"].terms
    [fit] = terms.fits
    home = replace(fit, cards=there, gpus=("GPU-0",), roams=roams)
    away = replace(fit, cards=here, gpus=("GPU-1",), roams=roams)
    house.supervisor.adopt("a", replace(terms, fits=(home,)))
    request = asyncio.create_task(house.supervisor.acquire("a"))
    await house.make_ready("a.0")
    (await request).release()
    house.supervisor.adopt("a", replace(terms, fits=(away,)))
    replica = house.one("a.0")
    assert (replica.is_stale, replica.cards) == (False, there)
    house.supervisor.adopt("a", replace(terms, fits=(replace(away, roams=here),)))
    assert replica.is_stale, "where its pool isn't any more it can't stay"
    house.supervisor.adopt("a", replace(terms, fits=(away,)))
    house.launcher.started[0].end(EngineExit(None, signal=9))
    await house.until(lambda: house.phase("a.0") is Phase.BACKING_OFF)
    assert replica.cards == here
    house.supervisor.adopt("a", replace(terms, fits=(away,)), "its next engine has another GPU")
    assert house.phase("a.0") is Phase.DOWN, "it needn't wait where nothing has failed yet"
