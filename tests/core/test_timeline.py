"""What is to come: foretold from calendars and measured figures, and told where it is too late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from warmd.cli.timeline import timeline
from warmd.cron import Cron
from warmd.ladder import Rung, share_a_card
from warmd.parties import Party
from warmd.planner.forecast import Late, Now, Rooms, forecast
from warmd.planner.timetable import Rise, line_up
from warmd.policy import Calendar, Override, Transition, Window
from warmd.policy.lead import Leads
from warmd.timeline import Agenda, Timeline, foretell

MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC).timestamp()  # a Monday
HOUR = 3600.0
GPUS = {"g0": "GPU 0", "g1": "GPU 1"}


def party(
    name: str,
    hours: str = "09:00-18:00",
    *,
    start: float = 60.0,
    stage: float = 0.0,
    card: str = "g0",
    rung: Rung = Rung.HOT,
    replicas: int = 1,
    **more: Any,
) -> Party:
    """A model with one window a day, whose start takes `start` seconds."""
    windows = []
    for each in hours.split(","):
        opens, closes = (time.fromisoformat(word) for word in each.split("-"))
        windows.append(Window(f"daily {each}", "UTC", opens, closes, rung=rung))
    leads = Leads(start, 3.0, 5.0, stage, stage)
    cards = [frozenset({card})] * replicas
    return Party(name, Calendar(tuple(windows)), Rung.COLD, replicas, leads, cards, **more)


def told(
    *parties: Party, since: float = 0.0, hours: float = 24.0, pools: Mapping[str, int] | None = None
) -> Timeline:
    now = MIDNIGHT + since
    return foretell(parties, pools or {}, GPUS, now, now + hours * HOUR)


def test_a_rise_begins_early_and_a_fall_at_its_time() -> None:
    plan = told(party("m", stage=30.0))
    up, down = plan.moves
    assert (up.at, up.from_rung, up.to_rung) == (MIDNIGHT + 9 * HOUR, Rung.COLD, Rung.HOT)
    assert up.begin_at == up.at - 66.0 - 35.0
    assert up.ready_at == up.at - 6.0
    assert (down.at, down.to_rung, down.begin_at) == (MIDNIGHT + 18 * HOUR, Rung.COLD, None)
    assert [(s.rung, s.until - s.since) for s in plan.models["m"].spans] == [
        (Rung.COLD, 9 * HOUR),
        (Rung.HOT, 9 * HOUR),
        (Rung.COLD, 6 * HOUR),
    ]
    assert plan.warnings == ()
    assert [(lane.words, lane.models) for lane in plan.gpus] == [("GPU 0", ("m",))]


def test_a_wake_takes_less_than_a_start() -> None:
    calendar = Calendar(
        (Window("daily 09:00-18:00", "UTC", time(9), time(18)),),
        (Transition(Cron("0 20 * * *", "UTC"), Rung.ASLEEP),),
    )
    plan = told(replace(party("m"), calendar=calendar), since=8 * HOUR)
    assert [(m.from_rung, m.to_rung) for m in plan.moves] == [
        (Rung.ASLEEP, Rung.HOT),
        (Rung.HOT, Rung.ASLEEP),
    ][: len(plan.moves)]
    assert plan.moves[0].begin_at == MIDNIGHT + 9 * HOUR - 8.0


def test_what_comes_too_late_is_told_with_the_time_at_which_it_is_ready() -> None:
    both = party("qwen3-32b", start=100.0), party("llama-70b", start=130.0)
    plan = told(*both, since=9 * HOUR - 100.0)
    assert list(plan.warnings) == [
        (
            "qwen3-32b and llama-70b both by 09:00 on GPU 0: 2 min 10 s short; qwen3-32b is "
            "ready at 09:03"
        )
    ]
    assert told(*both).warnings == ()
    assert (
        told(both[0], replace(both[1], cards=[frozenset({"g1"})]), since=9 * HOUR - 140).warnings
        == ()
    )


def test_a_pool_with_room_for_one_is_told() -> None:
    both = [party(name, pool="heavy", vram=40) for name in ("qwen3-32b", "llama-70b")]
    plan = told(*both, pools={"heavy": 70}, hours=7 * 24)
    assert list(plan.warnings) == [
        (
            "qwen3-32b and llama-70b both by 09:00 in pool heavy, which has room for one: "
            "llama-70b finds none (and 6 times more)"
        )
    ]
    assert [move.fits for move in plan.moves if move.at == MIDNIGHT + 9 * HOUR] == [False, True]
    assert told(*both, pools={"heavy": 80}).warnings == ()


def test_what_only_rests_hot_makes_room_for_a_window_and_what_is_pinned_does_not() -> None:
    rests = replace(party("rests", pool="p", vram=40), calendar=Calendar(), resting=Rung.HOT)
    wants = party("wants", pool="p", vram=40)
    assert told(rests, wants, pools={"p": 40}).warnings == ()
    (warning,) = told(replace(rests, pinned=True), wants, pools={"p": 40}).warnings
    assert "it finds no room there for as long as it is wanted: rests is hot there" in warning
    # In a window of its own, it keeps its room; and what is the same in it is no change.
    its_own = replace(party("rests", "08:00-10:00", pool="p", vram=40), resting=Rung.HOT)
    plan = told(its_own, wants, pools={"p": 40})
    assert plan.warnings
    assert [move.model for move in plan.moves] == ["wants", "rests", "wants", "rests"]


def test_a_window_begins_earlier_by_what_it_takes_to_put_aside_who_rests() -> None:
    rests = replace(party("rests", pool="p", vram=40), calendar=Calendar(), resting=Rung.HOT)
    rests = replace(rests, leads=replace(rests.leads, aside=300.0))
    wants = party("wants", pool="p", vram=40)
    both = [told(rests, wants, pools={"p": room}).moves for room in (80, 79)]
    begins = [next(m.begin_at or 0.0 for m in moves if m.model == "wants") for moves in both]
    assert begins[0] - begins[1] == 330.0  # its tenth of margin too


def test_a_number_that_an_operator_set_and_a_minimum_for_load_are_foretold() -> None:
    many = party("m", replicas=3)
    one = Calendar(tuple(replace(each, replicas=1) for each in many.calendar.windows))
    word = Override(Rung.HOT, MIDNIGHT + HOUR, replicas=2)
    spans = told(replace(many, replicas=1, override=word)).models["m"].spans
    assert [(s.rung, s.replicas) for s in spans][:2] == [(Rung.HOT, 2), (Rung.COLD, 0)]
    for least, has in ((0, 1), (2, 2)):
        spans = told(replace(many, calendar=one, least=least)).models["m"].spans
        assert (spans[1].rung, spans[1].replicas) == (Rung.HOT, has)


def test_an_earlier_window_on_the_card_makes_the_next_late() -> None:
    early = party("early", "06:00-09:00", pool="p", vram=40)
    late = party("late", "09:00-18:00", start=60.0, pool="p", vram=40)
    assert list(told(early, late, pools={"p": 40}).warnings) == [
        (
            "late by 09:00 on GPU 0: 1 min 5 s short; early has its room in pool p before, and "
            "late is ready at 09:02"
        )
    ]


def test_an_operators_word_holds_until_its_end() -> None:
    word = Override(Rung.COLD, MIDNIGHT + 9 * HOUR + 600)
    plan = told(replace(party("m"), override=word), since=8 * HOUR)
    assert plan.moves[0].at == MIDNIGHT + 9 * HOUR + 600
    assert plan.models["m"].spans[0].why == "an operator set it"
    # Nothing begins while it holds.
    assert (plan.moves[0].begin_at, plan.moves[0].short_s) == (plan.moves[0].at, 0.0)


def test_what_rests_hot_is_made_hot_when_its_night_is_over() -> None:
    night = party("m", "20:00-06:00", rung=Rung.ASLEEP)
    plan = told(replace(night, resting=Rung.HOT))
    assert [(m.from_rung, m.to_rung, m.begin_at, m.ready_at) for m in plan.moves] == [
        (Rung.ASLEEP, Rung.HOT, MIDNIGHT + 6 * HOUR, MIDNIGHT + 6 * HOUR + 3.0),
        (Rung.HOT, Rung.ASLEEP, None, None),
    ]
    assert plan.warnings == ()


def test_models_without_a_calendar_do_not_fill_the_screen() -> None:
    plain = replace(party("plain"), calendar=Calendar())
    assert told(plain).models == {}
    assert "no model has a calendar" in timeline({"timeline": asdict(told(plain)), "before": None})


def drawn(now: Timeline, before: Timeline | None = None) -> list[str]:
    return timeline(asdict(Agenda(now, before))).splitlines()


def test_the_screen_fits_and_shows_each_lane() -> None:
    plan = told(party("qwen3-32b", start=1800.0), party("other", "22:00-02:00", card="g1"))
    lines = drawn(plan)
    assert max(map(len, lines)) <= 100
    row = next(line for line in lines if line.startswith("  qwen3-32b"))
    columns = row[13:]
    assert [columns[int(len(columns) * h / 24)] for h in (3, 8.8, 12, 20)] == [".", "/", "#", "."]
    assert any(line.startswith("GPU 1, times in UTC") for line in lines)
    assert (
        "      09:00  qwen3-32b  cold -> hot: its window daily 09:00-18:00 is open; begins 08:27, "
        "ready 08:57"
    ) in lines


def test_what_is_ready_early_is_drawn_as_it_stands() -> None:
    row = next(line for line in drawn(told(party("m", start=5 * HOUR))) if line[2:4] == "m ")
    assert "/#" in row
    assert "/." not in row, "it stays up until its window opens"


def test_a_new_config_is_drawn_beside_the_old_one() -> None:
    old = told(party("m"), party("same", card="g1"))
    new = told(party("m", "08:00-18:00"), party("same", card="g1"))
    lines = drawn(new, old)
    assert [line[:3] for line in lines if line[2:4] == "m " and "#" in line] == ["+ m", "x m"]
    assert sum("same" in line and "#" in line for line in lines) == 1
    assert [line[:11] for line in lines if " m " in line and "->" in line] == [
        "+     08:00",
        "x     09:00",
        "      18:00",
    ]


def test_the_axis_keeps_to_the_clock_on_the_wall_when_clocks_change() -> None:
    berlin = replace(party("m"), calendar=Calendar(zone="Europe/Berlin"))
    calendar = Calendar((Window("d", "Europe/Berlin", time(9), time(18)),), zone="Europe/Berlin")
    since = datetime(2026, 3, 28, 23, tzinfo=UTC).timestamp()  # midnight there
    plan = foretell([replace(berlin, calendar=calendar)], {}, GPUS, since, since + 24 * HOUR)
    axis, row = drawn(plan)[3:5]
    assert abs(row.index("#") - axis.index("|09:00")) <= 1
    assert plan.moves[0].at == since + 8 * HOUR


_RISES = st.lists(
    st.builds(
        lambda name, by, start, stage, cards, wake: Rise(
            f"{name}.0",
            str(name),
            0,
            60.0 * by,
            Rung.HOT,
            Rung.ASLEEP if wake else Rung.COLD,
            Leads(start, start, 5.0, stage, stage),
            frozenset(cards),
        ),
        st.integers(0, 50),
        st.integers(1, 30),
        st.integers(1, 300).map(float),
        st.integers(0, 60).map(float),
        st.sampled_from([(), "a", "b", "ab"]),
        st.booleans(),
    ),
    max_size=10,
    unique_by=lambda rise: rise.model,
)


@given(_RISES, st.integers(0, 1800))
def test_ready_by_is_met_whenever_the_plan_said_so(rises: Sequence[Rise], now: int) -> None:
    """Played second by second by the rules of the lanes: who is due earlier goes first."""
    slots = line_up(rises)
    said = forecast(rises, slots, Rooms(), Now(float(now))).outcomes
    late = {key for key, outcome in said.items() if outcome.late is not None}
    ready = _played(rises, {key: slot.begin_at for key, slot in slots.items()}, said, float(now))
    for rise in rises:
        if rise.key not in late:
            assert ready[rise.key] <= rise.by + 1.0


def _played(
    rises: Sequence[Rise], begins: Mapping[Any, float], said: Mapping[Any, Any], now: float
) -> dict[Any, float]:
    """Begin what is due and free, the one that was to begin earliest first."""
    slots, ready = line_up(rises), {}
    files: dict[Any, float] = {}
    free = now
    for rise in sorted(rises, key=lambda r: (slots[r.key].stage_at, r.model, r.by)):
        if rise.stages:
            free = max(free, slots[rise.key].stage_at) + rise.stages
        files[rise.key] = free if rise.stages else -1.0
    waiting = sorted(rises, key=lambda r: (begins[r.key], r.replica))
    busy: list[tuple[Rise, float]] = []
    moments = iter(range(20000))
    while waiting:
        at = now + 0.5 * next(moments)
        busy = [(r, end) for r, end in busy if end > at]
        for rise in list(waiting):
            due = begins[rise.key] <= at and files[rise.key] <= at
            if due and not any(share_a_card(r.cards, rise.cards) for r, _ in busy):
                ready[rise.key] = at + rise.takes
                busy.append((rise, ready[rise.key]))
                waiting.remove(rise)
    return ready


def test_nothing_is_late_where_there_is_time_enough() -> None:
    rises = [
        Rise(
            f"m{n}.0", f"m{n}", 0, 9e3, Rung.HOT, Rung.COLD, Leads(90, 5, 5, 20, 20), frozenset("a")
        )
        for n in range(10)
    ]
    said = forecast(rises, line_up(rises), Rooms(), Now(0.0)).outcomes
    assert not any(outcome.late for outcome in said.values())
    begins = sorted(outcome.begin_at for outcome in said.values())
    assert all(b - a >= 90 for a, b in pairwise(begins))
    late = forecast(rises, line_up(rises), Rooms(), Now(8.9e3)).outcomes
    assert late["m0.0", 9e3].late is Late.LANE


def test_a_week_of_many_models_is_foretold_in_a_moment() -> None:
    parties = [party(f"m{n}", "06:00-07:30,09:00-18:00", card=f"g{n % 4}") for n in range(8)]
    plan = told(*parties, hours=7 * 24)
    assert len(plan.moves) == 8 * 7 * 4
    assert timedelta(seconds=plan.until - plan.since) == timedelta(days=7)


def test_what_would_be_ready_after_its_window_ends_there_and_keeps_nobody_waiting() -> None:
    first, short = party("first", "09:00-12:00", start=80.0), party("short", "09:00-09:01")
    after = party("zlater", "09:02-12:00", start=30.0)
    slow = replace(short, leads=Leads(300.0, 3.0, 5.0, 0.0, 0.0))
    plan = told(first, slow, since=9 * HOUR - 90)
    assert "short by 09:00 on GPU 0: it is not ready within its window" in plan.warnings
    (move,) = (m for m in plan.moves if m.model == "short" and m.to_rung is Rung.HOT)
    assert (move.ready_at, move.fits) == (None, True)
    both = told(slow, after, since=9 * HOUR - 60.0)
    (rise,) = (m for m in both.moves if m.model == "zlater" and m.to_rung is Rung.HOT)
    assert rise.ready_at is not None
    assert rise.ready_at <= MIDNIGHT + 9 * HOUR + 120.0, "the lane is free at 09:01"
