"""What is to come, from what is at this moment: who is late already, in the way, or moved aside."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import time
from typing import Any

from test_timeline import HOUR, MIDNIGHT, drawn, party, told

from warmd.cli.timeline import timeline
from warmd.ladder import Rung
from warmd.parties import Party
from warmd.policy import Calendar, Override, Window
from warmd.supervisor import Presence, Standing

NINE = MIDNIGHT + 9 * HOUR
COLD = Standing(Rung.COLD)
READY = Standing(Rung.HOT, "ready", NINE - 300, awake=True)
BY_NINE = 9 * HOUR
POOL = {"p": 40}


def there(each: Party, *replicas: Standing, **more: Any) -> Party:
    return replace(each, presence=Presence(replicas, **more))


def row(lines: list[str], name: str) -> str:
    return next(line for line in lines if line.startswith(f"  {name} "))[4 + len(name) :]


def resting(name: str = "rests", **more: Any) -> Party:
    plain = party(name, pool="p", vram=40, **more)
    return replace(plain, calendar=Calendar(), resting=Rung.HOT)


def test_what_is_held_up_in_its_window_is_drawn_so_and_its_warning_stays() -> None:
    sick = there(party("m"), COLD, held_up="GPU 0 is out of service: Xid 79")
    plan = told(sick, since=BY_NINE + 1800, hours=6.0)
    assert plan.warnings == ("m is late since 09:00 on GPU 0: GPU 0 is out of service: Xid 79",)
    assert plan.overdue == plan.warnings
    (span,) = plan.models["m"].spans
    assert (span.rung, span.by) == (Rung.COLD, "now")
    lines = drawn(plan)
    assert set(row(lines, "m").strip()) == {"!"}
    assert "      09:00  m  cold -> hot: its window daily 09:00-18:00 is open; GPU 0 is out of" in (
        "\n".join(lines)
    )
    given_up = there(party("m"), Standing(Rung.COLD, "failed", trouble="no CUDA", given_up=True))
    assert told(given_up, since=BY_NINE + 60).warnings == (
        "m is late since 09:00 on GPU 0: it was given up: no CUDA",
    )
    assert told(there(party("m"), READY), since=BY_NINE + 60).warnings == ()
    unstaged = there(party("m", rung=Rung.STAGED), COLD, held_up="there is no RAM for its files")
    assert told(unstaged, since=BY_NINE + 60).warnings == (
        "m is late since 09:00 on GPU 0: there is no RAM for its files",
    )


def test_a_start_that_began_late_is_drawn_late_and_told_when_it_is_ready() -> None:
    now = NINE + 600
    began = Standing(
        Rung.STAGED,
        "starting",
        now - 100,
        began_at=now - 100,
        ready_at=now + 1800,
        free_at=now + 1800,
        awake=True,
    )
    plan = told(there(party("m"), began), since=BY_NINE + 600, hours=2.0)
    assert plan.warnings == (
        "m is late since 09:00 on GPU 0: it is starting; it is ready at 09:40",
    )
    (up,) = plan.moves
    assert (up.at, up.begin_at, up.ready_at, up.short_s) == (NINE, now - 100, now + 1800, 2400.0)
    lines = drawn(plan)
    assert "began 09:08:20, ready 09:40, 40 min late" in " ".join(" ".join(lines).split())
    cells = row(lines, "m").strip()
    assert set(cells) == {"/", "#"}
    assert abs(cells.index("#") - len(cells) / 4) <= 1
    # Who else is to be there waits for its turn on the same card, and not before that.
    other = there(party("other"), COLD)
    plan = told(there(party("m"), began), other, since=BY_NINE + 600, hours=2.0)
    late = next(move for move in plan.moves if move.model == "other")
    assert (late.begin_at, late.ready_at) == (now + 1800, now + 1860)
    assert "other is late since 09:00 on GPU 0: it waits for its turn" in plan.warnings[1]


def test_a_start_that_its_window_will_not_outlast_gives_its_lane_back_at_the_close() -> None:
    now = NINE + 600
    began = replace(starting(now), ready_at=now + 3600, free_at=now + 3600)
    slow = there(party("slow", "09:00-09:20"), began)
    plan = told(slow, there(party("other"), COLD), since=BY_NINE + 600, hours=3.0)
    assert any("slow is late since 09:00" in each for each in plan.warnings)
    (up,) = [move for move in plan.moves if move.model == "other" and move.to_rung is Rung.HOT]
    assert up.begin_at == NINE + 1200 + 5.0, "the start is called off, and ended"


def test_a_start_after_a_failed_one_is_promised_for_no_time() -> None:
    now = NINE + 60
    again = there(party("m"), replace(starting(now), trouble="/srv/m holds no weights"))
    plan = told(again, there(party("other"), COLD), since=BY_NINE + 60, hours=2.0)
    why = "it is starting, and failed before: /srv/m holds no weights"
    assert plan.warnings[0] == f"m is late since 09:00 on GPU 0: {why}"
    (up,) = [move for move in plan.moves if move.model == "m" and move.to_rung is Rung.HOT]
    assert (up.ready_at, up.waits) == (None, why)
    assert set(row(drawn(plan), "m").strip()) == {"!"}
    # Its device is busy with it all the same.
    (late,) = [move for move in plan.moves if move.model == "other" and move.to_rung is Rung.HOT]
    assert late.begin_at == now + 20


def test_one_that_is_to_be_tried_again_says_when() -> None:
    failed = Standing(Rung.COLD, "backing off", retry_at=NINE + 120, trouble="no CUDA")
    plan = told(there(party("m"), failed), since=BY_NINE + 60)
    assert plan.warnings == (
        (
            "m is late since 09:00 on GPU 0: it is tried again at 09:02: no CUDA; it is ready at "
            "09:03"
        ),
    )


def test_what_failed_and_waits_for_room_now_tells_both() -> None:
    failed = there(party("m", pool="p", vram=40), Standing(Rung.COLD, trouble="no CUDA"))
    (late, *_) = told(failed, there(resting(), READY), since=BY_NINE + 60, pools=POOL).warnings
    assert "it waits, for rests has its room in pool p; it failed before: no CUDA" in late


def test_what_is_in_use_makes_no_room_and_is_named() -> None:
    """As `planner/room` has it: a calendar moves without a request only what rests."""
    until = NINE + 1200
    wants = there(party("wants", pool="p", vram=40), COLD)
    used = there(resting("busy"), READY, used_until=until)
    plan = told(used, wants, since=BY_NINE - 1800, pools=POOL)
    assert plan.warnings == (
        (
            "wants by 09:00 on GPU 0: 21 min 10 s short: it waits, for busy is in use and has its "
            "room in pool p; wants is ready at 09:22 at the earliest"
        ),
    )
    up = next(move for move in plan.moves if move.model == "wants")
    assert up.begin_at == until + 5.0  # not before
    assert up.waits == "it waits, for busy is in use and has its room in pool p"
    plan = told(used, wants, since=BY_NINE + 60, pools=POOL)
    assert plan.warnings[0].startswith("wants is late since 09:00 on GPU 0: it waits, for busy is")
    assert "at the earliest" in plan.warnings[0]
    # Once nobody asks for it any more it only rests, and goes.
    rests = told(there(resting("busy"), READY), wants, since=BY_NINE - 1800, pools=POOL)
    assert rests.warnings == ()


def test_what_is_put_aside_is_drawn_though_it_has_no_calendar_and_comes_back() -> None:
    rests, wants = there(resting(), READY), there(party("wants", pool="p", vram=40), COLD)
    plan = told(rests, wants, since=6 * HOUR, hours=18.0, pools=POOL)
    away, back = (move for move in plan.moves if move.model == "rests")
    assert (away.from_rung, away.to_rung, away.begin_at) == (Rung.HOT, Rung.ASLEEP, None)
    assert away.at == next(m.begin_at for m in plan.moves if m.model == "wants")
    assert away.why == (
        "it is put aside in pool p for wants, which its calendar wants: it only rests there"
    )
    assert (back.to_rung, back.at, back.short_s) == (Rung.HOT, NINE + 9 * HOUR + 5.0, 0.0)
    assert back.why == "it rests hot, and wants has gone from there"
    spans = [(s.rung, s.by) for s in plan.models["rests"].spans]
    assert spans == [(Rung.HOT, "rests"), (Rung.ASLEEP, "room"), (Rung.HOT, "rests")]
    assert plan.gpus[0].models == ("rests", "wants")
    cells = row(drawn(plan), "rests").strip()
    assert cells.startswith("##")
    assert "==" in cells
    assert cells.endswith("#")
    # What failed to start moves nobody, and so nobody is foretold to go.
    failed = Standing(Rung.COLD, "backing off", retry_at=NINE + 1, trouble="no CUDA")
    late = told(rests, there(wants, failed), since=BY_NINE + 60, hours=8.0, pools=POOL)
    assert not [move for move in late.moves if move.model == "rests"]


def test_what_rests_hot_and_finds_no_room_waits_and_moves_nobody() -> None:
    holds = there(party("holds", pool="p", vram=40), READY)
    rests = there(resting(), COLD)
    plan = told(holds, rests, since=BY_NINE + 60, pools=POOL)
    up = next(move for move in plan.moves if move.model == "rests")
    assert up.begin_at == NINE + 9 * HOUR + 5.0
    assert (up.short_s, up.waits) == (0.0, "it waits, for holds has its room in pool p")
    assert plan.warnings == ()
    aside = told(holds, there(resting(), Standing(Rung.ASLEEP)), since=BY_NINE + 60, pools=POOL)
    assert row(drawn(aside), "rests").strip().startswith("===="), "it is asleep, and not late"


def test_a_window_that_is_shorter_than_a_column_is_seen() -> None:
    for opens in ("03:00-03:02", "03:07-03:08", "23:58-23:59"):
        plan = told(party("m", opens, start=5.0))
        cells = row(drawn(plan), "m").strip()
        assert "#" in cells or "*" in cells, opens
        assert len(cells) == 100 - 5
        assert len(plan.moves) == 2
    gap = row(drawn(told(party("m", "03:00-03:10,03:12-09:00", start=5.0))), "m")
    assert "*" in gap or "#.#" in gap.replace("/", "")
    lines = drawn(told(party("m", "03:00-03:02,03:04-03:06", start=5.0)))
    assert "*" in row(lines, "m")
    assert any(line.startswith("* several changes") for line in lines)


def test_the_end_of_an_operators_word_is_a_change_of_its_own() -> None:
    down = replace(party("m"), override=Override(Rung.STAGED, NINE + 2 * HOUR))
    plan = told(there(down, Standing(Rung.STAGED)), since=BY_NINE + 60)
    assert (plan.moves[0].at, plan.moves[0].to_rung) == (NINE + 2 * HOUR, Rung.HOT)
    assert plan.moves[0].why == (
        "the time that an operator set is over: its window daily 09:00-18:00 is open"
    )
    assert plan.warnings == ()
    slow = told(there(replace(down, leads=replace(down.leads, stage=90.0)), Standing(Rung.STAGED)))
    assert slow.moves[0].begin_at == NINE + 2 * HOUR, "its files are in RAM already"
    up = replace(down, override=Override(Rung.HOT, NINE + 2 * HOUR))
    plan = told(there(up, READY), since=BY_NINE + 60)
    assert (plan.moves[0].at, plan.moves[0].from_rung) == (NINE + 2 * HOUR, Rung.HOT)
    lines = drawn(plan)
    assert any("11:00  m  stays hot: the time that an operator set is over" in x for x in lines)


def test_times_name_their_zone_where_it_is_not_the_hosts() -> None:
    zone = "America/New_York"
    opens = Window("daily 04:00-13:00", zone, time(4), time(13))
    far = replace(party("m"), calendar=Calendar((opens,), (), zone, names_zone=True))
    plan = told(there(far, COLD, held_up="no"), since=BY_NINE + 60)
    assert plan.warnings == ("m is late since 04:00 America/New_York on GPU 0: no",)
    assert plan.moves[0].why == "its window daily 04:00-13:00 America/New_York is open"
    assert far.calendar.clock(NINE, NINE) == "04:00 America/New_York"
    both = told(there(far, COLD), party("here"), since=BY_NINE + 60)
    lines = timeline({"timeline": asdict(both), "before": None}).splitlines()
    assert any(line.strip().startswith("18:00 UTC  here  hot -> cold") for line in lines)


def test_what_was_made_ready_early_is_drawn_as_it_is() -> None:
    plan = told(there(party("m"), READY), since=BY_NINE - 120, hours=1.0)
    assert set(row(drawn(plan), "m").strip()) == {"#"}
    assert plan.moves[0].ready_at == NINE - 300
    # Until tomorrow it has gone to sleep, and is woken then.
    assert told(there(party("m"), READY), since=20 * HOUR).moves[0].ready_at == NINE + 24 * HOUR - 5


def test_what_was_hot_and_goes_down_before_its_window_rises_again_for_it() -> None:
    """A reload has moved its window: the target of now says that it isn't kept until then."""
    stays = there(party("m"), READY, shall=Rung.COLD)
    (up,) = told(stays, since=BY_NINE - 120, hours=1.0).moves
    assert (up.begin_at, up.ready_at) == (NINE - 66.0, NINE - 6.0)


def starting(now: float) -> Standing:
    began, ready = now - 10, now + 20
    return Standing(Rung.STAGED, "starting", began, began, ready, free_at=ready, awake=True)


def test_what_starts_for_a_window_to_come_is_late_for_nothing_before_it_nor_after() -> None:
    m = replace(party("m"), resting=Rung.STAGED)
    early = there(m, starting(NINE - 60))
    (up,) = told(early, since=BY_NINE - 60, hours=1.0).moves
    assert (up.at, up.to_rung, up.ready_at) == (NINE, Rung.HOT, NINE - 40)
    late = there(m, starting(NINE + 60))
    up, down = told(late, since=BY_NINE + 60, hours=12.0).moves
    assert (up.to_rung, up.ready_at) == (Rung.HOT, NINE + 80)
    assert (down.to_rung, down.begin_at, down.ready_at) == (Rung.STAGED, None, None)


def test_what_is_held_up_before_its_time_is_told_though_nobody_knows_until_when() -> None:
    sick = there(party("m"), COLD, held_up="GPU 0 is out of service: Xid 79")
    plan = told(sick, since=BY_NINE - 30)
    assert plan.warnings[0] == "m by 09:00 on GPU 0: GPU 0 is out of service: Xid 79"


def test_an_operators_word_moves_what_rests_as_a_calendar_does_and_stands_in_its_way() -> None:
    rests = there(resting(), starting(NINE - 1800))
    word = Override(Rung.HOT, NINE + 600)
    holds = there(replace(party("holds", pool="p", vram=40), calendar=Calendar()), COLD)
    wants = there(party("wants", pool="p", vram=40), COLD)
    plan = told(rests, replace(holds, override=word), wants, since=BY_NINE - 1800, pools=POOL)
    aside = next(move for move in plan.moves if move.to_rung is Rung.ASLEEP)
    assert aside.model == "rests"
    assert aside.why == (
        "it is put aside in pool p for holds, which an operator set hot: it only rests there"
    )
    assert plan.warnings[0].startswith("wants by 09:00 on GPU 0: 11 min 5 s short; holds has its")


def test_of_who_waits_for_the_same_room_a_calendars_rise_goes_before_what_only_rests() -> None:
    holds = replace(party("holds", pool="p", vram=40), calendar=Calendar())
    holds = there(replace(holds, override=Override(Rung.HOT, NINE + 20)), READY)
    wants = there(party("wants", pool="p", vram=40), COLD)
    plan = told(holds, wants, there(resting(), COLD), since=BY_NINE - 30, hours=12.0, pools=POOL)
    rises = {m.model: m for m in plan.moves if m.to_rung is Rung.HOT}
    assert rises["wants"].begin_at == NINE + 25.0
    assert rises["rests"].begin_at == NINE + 9 * HOUR + 5.0
