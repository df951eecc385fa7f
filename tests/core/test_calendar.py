"""The calendar as a function of time: days of more or fewer hours, the rule, who slept and woke."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from math import inf, nextafter
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import given, settings
from hypothesis import strategies as st

from warmd.cron import Cron
from warmd.ladder import Rung
from warmd.policy import Calendar, Stretch, Transition, Window

BERLIN, NEW_YORK, LORD_HOWE, APIA = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Pacific/Apia",
)
ZONES = (BERLIN, NEW_YORK, LORD_HOWE)


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def utc(*moments: float | None) -> list[str | None]:
    return [None if m is None else f"{datetime.fromtimestamp(m, UTC):%m-%d %H:%M}" for m in moments]


def a_window(start: str, to: str, zone: str = "UTC", **more: object) -> Window:
    ends = None if to == "24:00" else time.fromisoformat(to)
    text = f"{start}-{to} {sorted(map(str, more.values()))}"
    whole = Window(text, zone, time.fromisoformat(start), ends)
    return replace(whole, **more)  # type: ignore[arg-type]


def a_transition(
    text: str, rung: Rung, zone: str = "UTC", replicas: int | None = None
) -> Transition:
    return Transition(Cron(text, zone), rung, replicas)


# The days on which clocks are put forward and back


@pytest.mark.parametrize(
    ("zone", "day", "hours", "opens", "closes"),
    [
        # Forward at 02:00 by an hour: 01:00 UTC.
        (BERLIN, "2026-03-29", "02:30-03:15", "03-29 01:00", "03-29 01:15"),
        (BERLIN, "2026-03-29", "01:00-04:00", "03-29 00:00", "03-29 02:00"),
        (BERLIN, "2026-03-28", "22:00-02:30", "03-28 21:00", "03-29 01:00"),
        (BERLIN, "2026-03-29", "00:00-24:00", "03-28 23:00", "03-29 22:00"),
        (NEW_YORK, "2026-03-08", "02:30-09:00", "03-08 07:00", "03-08 13:00"),
        (LORD_HOWE, "2026-10-04", "02:15-02:45", "10-03 15:30", "10-03 15:45"),
        (LORD_HOWE, "2026-10-04", "00:00-24:00", "10-03 13:30", "10-04 13:00"),
        # Back at 03:00 by an hour: what is there twice counts from the first to the last.
        (BERLIN, "2026-10-25", "02:30-02:45", "10-25 00:30", "10-25 01:45"),
        (BERLIN, "2026-10-25", "03:00-09:00", "10-25 02:00", "10-25 08:00"),
        (BERLIN, "2026-10-25", "00:00-24:00", "10-24 22:00", "10-25 23:00"),
        (NEW_YORK, "2026-11-01", "01:00-02:00", "11-01 05:00", "11-01 07:00"),
        (LORD_HOWE, "2026-04-05", "01:30-01:45", "04-04 14:30", "04-04 15:15"),
    ],
)
def test_a_window_on_a_day_with_more_or_fewer_hours(
    zone: str, day: str, hours: str, opens: str, closes: str
) -> None:
    start, to = hours.split("-")
    dates = frozenset({date.fromisoformat(day)})
    window = a_window(start, to, zone, days=frozenset(), dates=dates)
    before = window.phase(at(day, zone) - 86400)
    assert utc(before.until) == [opens]
    assert not before.is_open
    assert utc(window.phase(before.until).until) == [closes]
    assert window.around(before.until) is not None
    assert window.phase(window.phase(before.until).until).until == inf


@pytest.mark.parametrize(
    ("zone", "text", "since", "fires"),
    [
        (BERLIN, "30 2 * * *", "2026-03-28 12:00", ["03-29 01:00", "03-30 00:30"]),
        (BERLIN, "0 2 29 3 *", "2026-03-28 12:00", ["03-29 01:00"]),
        (BERLIN, "30 * * * *", "2026-03-29 00:00", ["03-29 00:30", "03-29 01:30", "03-29 02:30"]),
        (BERLIN, "30 2 * * *", "2026-10-24 12:00", ["10-25 00:30", "10-26 01:30"]),
        (BERLIN, "30 * * * *", "2026-10-25 00:00", ["10-25 00:30", "10-25 01:30", "10-25 02:30"]),
        (
            NEW_YORK,
            "0 1,2,3 * * *",
            "2026-03-08 00:00",
            ["03-08 06:00", "03-08 07:00", "03-09 05:00"],
        ),
        (NEW_YORK, "59 1 * * *", "2026-10-31 12:00", ["11-01 05:59", "11-02 06:59"]),
        (LORD_HOWE, "15 2 * * *", "2026-10-03 00:00", ["10-03 15:30", "10-04 15:15"]),
        (
            LORD_HOWE,
            "*/20 * * * *",
            "2026-04-04 14:30",
            ["04-04 14:40", "04-04 15:10", "04-04 15:30"],
        ),
        (BERLIN, "0 0 last * *", "2026-02-01 00:00", ["02-27 23:00", "03-30 22:00", "04-29 22:00"]),
        (BERLIN, "0 0 29 feb *", "2026-01-01 00:00", ["02-28 23:00", "02-28 23:00"]),
    ],
)
def test_when_an_entry_fires(zone: str, text: str, since: str, fires: list[str]) -> None:
    cron, now = Cron(text, zone), at(since)
    for expected in fires:
        then = cron.next_after(now)
        assert then is not None
        assert utc(then) == [expected]
        assert cron.last_until(then) == then
        assert cron.last_until(then - 1) != then
        now = then


def test_a_zone_without_a_whole_day_runs_through_it_at_once() -> None:
    """Pacific/Apia had no 30 December 2011, a Friday."""
    cold = a_transition("0 18 * * fri", Rung.COLD, APIA)
    hot = a_transition("0 9 * * fri", Rung.HOT, APIA)
    calendar = Calendar((), (hot, cold), APIA)
    after = at("2011-12-31 00:00", APIA)
    assert calendar.at(after).rung is Rung.COLD
    assert calendar.at(after - 1).rung is Rung.COLD
    assert cold.cron.last_until(after) == hot.cron.last_until(after) == after
    friday = a_window("09:00", "18:00", APIA, days=frozenset({4}))
    assert utc(friday.next_after(after - 86400)) == utc(at("2012-01-06 09:00", APIA))
    night = a_window("18:00", "06:00", APIA)
    assert night.around(after - 1) == (at("2011-12-29 18:00", APIA), at("2011-12-31 00:00", APIA))
    assert night.around(after) is None


def test_what_clocks_are_put_forward_over_fires_in_its_order() -> None:
    calendar = Calendar(
        (),
        (
            a_transition("0 2 * * *", Rung.HOT, BERLIN),
            a_transition("30 2 * * *", Rung.COLD, BERLIN),
            a_transition("15 3 * * *", Rung.STAGED, BERLIN),
        ),
        BERLIN,
    )
    jump = at("2026-03-29 03:00", BERLIN)
    assert calendar.at(jump).rung is Rung.COLD
    assert calendar.at(jump + 900).rung is Rung.STAGED


# The rule


def test_an_open_window_goes_before_what_fired_and_the_warmest_window_before_the_others() -> None:
    day = at("2026-11-23 00:00")
    calendar = Calendar(
        (
            a_window("09:00", "18:00", rung=Rung.HOT, replicas=1),
            a_window("09:00", "11:00", rung=Rung.HOT, replicas=2),
            a_window("08:00", "24:00", rung=Rung.ASLEEP, replicas=5),
        ),
        (a_transition("0 10 * * *", Rung.HOT), a_transition("0 20 * * *", Rung.COLD)),
    )
    told = [
        (hour, s.rung, s.replicas, s.rule.partition(" [")[0])
        for hour in (0, 8, 9, 11, 18, 24)
        for s in (calendar.at(day + hour * 3600),)
    ]
    night = 'cron entry "0 20 * * *"'
    assert told == [
        (0, Rung.COLD, None, night),
        (8, Rung.ASLEEP, 5, "window 08:00-24:00"),
        (9, Rung.HOT, 2, "window 09:00-11:00"),
        (11, Rung.HOT, 1, "window 09:00-18:00"),
        (18, Rung.ASLEEP, 5, "window 08:00-24:00"),
        (24, Rung.COLD, None, night),
    ]
    changes = calendar.changes(day + 3600)
    seen = [next(changes) for _ in range(6)]
    assert [utc(each.until)[0] for each in seen] == [
        f"11-{clock}"
        for clock in ("23 08:00", "23 09:00", "23 11:00", "23 18:00", "24 00:00", "24 08:00")
    ]
    assert utc(seen[0].began, seen[5].began) == ["11-22 20:00", "11-23 20:00"]


def test_of_entries_that_fire_at_once_the_warmest_holds() -> None:
    entries = [
        a_transition("0 9 * * *", Rung.STAGED),
        a_transition("0 9 * * mon", Rung.HOT, replicas=1),
        a_transition("0 9 23 11 *", Rung.HOT, replicas=2),
    ]
    says = Calendar((), tuple(entries)).at(at("2026-11-23 12:00"))
    assert (says.rung, says.replicas) == (Rung.HOT, 2)
    assert says.why == 'its cron entry "0 9 23 11 *" set it so at 09:00 on Mon 2026-11-23'


def test_days_that_follow_each_other_are_one_stretch_and_one_that_never_ends_has_no_end() -> None:
    always = Calendar((a_window("00:00", "24:00"),))
    assert next(always.changes(at("2026-11-23 12:00"))).until > at("2027-12-01 00:00")
    work = Calendar((a_window("00:00", "24:00", days=frozenset({4, 5})),))
    weekend = next(work.changes(at("2026-11-27 12:00")))
    assert utc(weekend.began, weekend.until) == ["11-27 00:00", "11-29 00:00"]
    assert list(Calendar().changes(0.0)) == [Stretch(-inf, inf)]


def test_a_window_of_dates_alone_is_known_as_far_as_its_dates_go() -> None:
    dates = frozenset({date(2026, 12, 24), date(2032, 2, 29)})
    window = a_window("18:00", "02:00", days=frozenset(), dates=dates)
    assert utc(window.next_after(at("2026-11-23"))) == ["12-24 18:00"]
    assert window.next_after(at("2026-12-25")) == at("2032-02-29 18:00")
    assert window.next_after(at("2032-03-02")) is None
    assert window.phase(at("2033-01-01")).since == at("2032-03-01 02:00")


# Whatever the calendar, whoever looks, and when

SOME_DATES = st.dates(date(2026, 3, 1), date(2026, 4, 15))
ENTRIES = st.builds(
    lambda minute, hour, day, weekday, rung, replicas: (
        f"{minute} {hour} {day} * {weekday}",
        rung,
        replicas,
    ),
    st.sampled_from(["0", "30", "*/20", "59"]),
    st.sampled_from(["*", "2", "1-3", "9", "23", "*/6"]),
    st.sampled_from(["*", "*", "29", "last", "1,15"]),
    st.sampled_from(["*", "*", "mon-fri", "0", "sat"]),
    st.sampled_from(list(Rung)),
    st.sampled_from([None, 2]),
)
WINDOWS = st.builds(
    lambda zone, start, to, days, dates, skipped, rung, replicas: Window(
        f"{start}-{to}", zone, start, to, days, dates, skipped, rung, replicas
    ),
    st.just(BERLIN),
    st.times(),
    st.none() | st.times(),
    st.frozensets(st.integers(0, 6)),
    st.frozensets(SOME_DATES, max_size=3),
    st.frozensets(SOME_DATES, max_size=3),
    st.sampled_from(list(Rung)),
    st.sampled_from([None, 2]),
).filter(lambda window: window.start != window.to)
CALENDARS = st.builds(
    lambda windows, entries, zone: Calendar(
        tuple(replace(each, zone=zone) for each in windows),
        tuple(Transition(Cron(text, zone), rung, n) for text, rung, n in entries),
        zone,
    ),
    st.lists(WINDOWS, max_size=4),
    st.lists(ENTRIES, max_size=4),
    st.sampled_from((*ZONES, "UTC")),
)
MOMENTS = st.floats(at("2026-03-01"), at("2026-04-15")) | st.floats(
    at("2026-10-01"), at("2026-11-10")
)


def anew(calendar: Calendar) -> Calendar:
    """Return an equal calendar that has found nothing yet."""
    return Calendar(
        tuple(replace(each) for each in calendar.windows),
        tuple(replace(each, cron=replace(each.cron)) for each in calendar.transitions),
        calendar.zone,
    )


@given(CALENDARS, st.lists(MOMENTS, min_size=1, max_size=8))
def test_who_slept_and_who_woke_often_stand_at_the_same(
    calendar: Calendar, looks: list[float]
) -> None:
    """Also where the clock was set back between two looks."""
    for now in looks:
        says = calendar.at(now)
        assert says == anew(calendar).at(now)
        assert says.since <= now < says.until


@given(CALENDARS, MOMENTS, st.randoms(use_true_random=False))
def test_the_order_of_windows_and_entries_says_nothing(
    calendar: Calendar, now: float, chance: random.Random
) -> None:
    windows, transitions = list(calendar.windows), list(calendar.transitions)
    chance.shuffle(windows)
    chance.shuffle(transitions)
    shuffled = anew(Calendar(tuple(windows), tuple(transitions), calendar.zone))
    assert shuffled.at(now) == calendar.at(now)


@given(CALENDARS, MOMENTS)
@settings(max_examples=50)
def test_nothing_changes_within_a_stretch_and_they_follow_on_each_other(
    calendar: Calendar, now: float
) -> None:
    stretches = list(calendar.stretches(now, now + 3 * 86400))[:200]
    for one, other in pairwise(stretches):
        assert one.until == other.since
    for each in stretches[:20]:
        for share in (0.0, 0.3, 0.999):
            begin, end = max(each.since, now), min(each.until, now + 3 * 86400)
            within = min(
                begin + share * (end - begin), nextafter(end, begin)
            )  # a float may round up
            assert anew(calendar).at(within) == each


@given(ENTRIES, MOMENTS)
def test_where_clocks_stay_entries_fire_as_apscheduler_has_them(
    entry: tuple[str, Rung, int | None], now: float
) -> None:
    cron = Cron(re.sub(r" 0$", " sun", entry[0]), "UTC")  # its days count from Monday
    minute, hour, day, month, weekday = cron.text.split()
    trigger = CronTrigger(
        minute=minute, hour=hour, day=day, month=month, day_of_week=weekday, timezone=UTC
    )
    now = round(now, 3)  # finer than a microsecond it can't be asked
    after = datetime.fromtimestamp(now, UTC) + timedelta(microseconds=1)
    expected = trigger.get_next_fire_time(None, after)
    then = cron.next_after(now)
    assert then is not None
    assert then == expected.timestamp()
    assert cron.last_until(then) == then
    before = cron.last_until(now)
    assert before is None or cron.next_after(before) == then
