"""From the rows of a past to an account: what waited, what stood, what the calendar is worth."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from warmd.history import Asked, Failed, KeptOpening, Occupied, Past, Took, Waited
from warmd.policy import Window
from warmd.reckoning import Account, Lateness, Manner, Why, account, reckon

HOUR = 3600.0
MONDAY = datetime(2026, 11, 2, tzinfo=UTC).timestamp()
NOTHING = Past("m", [], Asked(), [], [], [], [], [], [])
UTC_MANNER = Manner("UTC")


def stood(at: float, rung: str, seconds: float = HOUR, cause: str = "rests") -> Occupied:
    return Occupied(int(at // HOUR), rung, cause, seconds, seconds, seconds * 2)


def replace_since(occupied: Occupied, since: float) -> Occupied:
    return occupied._replace(since=since)


def test_nothing_is_known_of_nothing() -> None:
    told = reckon(NOTHING, UTC_MANNER, MONDAY, MONDAY + HOUR)
    assert (told.requests, told.not_hot_share, told.first_delays, told.others) == (
        0,
        None,
    ) + (None,) * 2
    assert (told.unknown_s, told.days, told.advice) == (0.0, {}, None)


def test_waits_are_ranked_apart_from_the_rest() -> None:
    waited = [Waited(MONDAY, "staged", float(n), vain=False) for n in range(1, 101)]
    waited.append(Waited(MONDAY, "staged", 180.0, vain=True))
    counts = Asked(
        requests=800,
        met_hot=500,
        met_staged=300,
        first_delays=240,
        first_bytes=400,
        ttfb_sum=50.0,
        ttfb_max=2.5,
        vain=2,
    )
    past = replace(NOTHING, waited=waited, asked=counts)
    told = reckon(past, UTC_MANNER, MONDAY, MONDAY + HOUR)
    assert (told.requests, told.not_hot, told.not_hot_share, told.vain) == (800, 300, 0.375, 2)
    delays = told.first_delays
    assert delays is not None
    assert (delays.p50, delays.p95, delays.p99, delays.max) == (50.0, 95.0, 99.0, 100.0)
    assert (delays.count, delays.all) == (100, 240)
    assert sum(delays.by_bound) == 100
    assert delays.by_bound[4:8] == [3, 5, 10, 20], "up to 5, 10, 20, 40 s"
    assert told.others is not None
    assert (told.others.count, told.others.mean, told.others.max) == (400, 0.125, 2.5)


def test_what_the_calendar_added_and_took_away() -> None:
    past = replace(
        NOTHING,
        occupied=[
            stood(MONDAY, "hot", cause="calendar"),
            stood(MONDAY + HOUR, "hot", cause="demand"),
            stood(MONDAY + 2 * HOUR, "asleep", 1800.0, "calendar"),
        ],
        asked=Asked(requests=4, met_hot=4, spared_asleep=2, spared_staged=1),
        starts=[Took("staged", each, {}) for each in (40.0, 41.0, 99.0)],
        known_starts=[Took("staged", 7.0, {})],
        known_wakes=[Took("asleep", 1.5, {})],
    )
    told = reckon(past, UTC_MANNER, MONDAY, MONDAY + 3 * HOUR)
    assert told.seconds == {"cold": 0.0, "staged": 0.0, "asleep": 1800.0, "hot": 2 * HOUR}
    assert (told.gpu_hours_hot, told.gpu_hours_added) == (4.0, 2.0)
    assert told.unknown_s == 1800.0
    assert (told.removed_s, told.removed_by_estimate) == (2 * 1.5 + 41.0, False)
    assert told.removed_s_per_gpu_hour == 22.0


@pytest.mark.parametrize(
    ("starts", "removed"),
    [([], 90.0), ([Took("staged", 41.0, {})], 41.0)],
)
def test_what_was_never_measured_is_an_estimate_and_said_so(
    starts: list[Took], removed: float
) -> None:
    past = replace(NOTHING, asked=Asked(requests=1, spared_cold=1), known_starts=starts)
    told = reckon(past, UTC_MANNER, MONDAY, MONDAY + HOUR)
    assert (told.removed_s, told.removed_by_estimate) == (removed, True)
    assert told.removed_s_per_gpu_hour is None


def test_starts_and_wakes_by_stage() -> None:
    starts = [
        Took("staged", 41.0, {"imports": 24.0, "weights": 6.0}),
        Took("staged", 43.0, {"imports": 26.0}),
        Took("cold", 90.0, {"weights": 40.0}),
    ]
    wakes = [Took("asleep", 1.1, {"engine": 0.8})]
    told = reckon(replace(NOTHING, starts=starts, wakes=wakes), UTC_MANNER, MONDAY, MONDAY)
    assert told.starts["staged"].stages == {"imports": 25.0, "weights": 6.0}
    assert (told.starts["staged"].count, told.starts["staged"].p50) == (2, 42.0)
    assert told.starts["cold"].p50 == 90.0
    assert told.wakes is not None
    assert told.wakes.stages == {"engine": 0.8}


def test_how_well_a_calendar_was_kept() -> None:
    def opened(day: int, late: float | None, why: str | None = None) -> KeptOpening:
        at = MONDAY + day * 24 * HOUR
        said = None if why is None else f"{why} on day {day}"
        return KeptOpening(at, at + HOUR, "w", 1, late, why, said)

    days = [
        *(opened(0, 0.0), opened(1, 60.0, "starting"), opened(2, 420.0, "starting")),
        *(opened(3, None, "held-up"), opened(4, 0.0), opened(5, None, "failing")),
    ]
    failed = Failed(3, MONDAY, "no such file")
    past = replace(NOTHING, openings=days, failed=failed)
    for now, never, awaited in ((days[-1].at + 60.0, 1, 1), (days[-1].at + HOUR, 2, 0)):
        account = reckon(past, UTC_MANNER, MONDAY, now)
        told = account.windows
        assert told is not None
        assert (told.opened, told.ready, told.never, told.awaited) == (6, 2, never, awaited)
        assert told.late == Lateness(2, 60.0, 420.0)
        assert list(told.reasons) == ["starting", "held-up", "failing"]
        assert told.reasons["starting"] == Why(2, days[2].at, "starting on day 2")
        assert account.failed_starts == Why(3, MONDAY, "no such file")
    nothing = reckon(NOTHING, UTC_MANNER, MONDAY, MONDAY)
    assert (nothing.windows, nothing.failed_starts) == (None, None)


def test_time_without_warmd_is_unknown_but_before_the_first_one_there_was_nothing() -> None:
    first = [stood(MONDAY + HOUR, "cold", 600.0), stood(MONDAY + 2 * HOUR, "cold", 900.0)]
    told = reckon(replace(NOTHING, occupied=first), UTC_MANNER, MONDAY, MONDAY + 3 * HOUR)
    assert told.unknown_s == 2700.0
    young = [replace_since(first[0], MONDAY + HOUR + 60.0)]
    told = reckon(replace(NOTHING, occupied=young), UTC_MANNER, MONDAY, MONDAY + HOUR + 900.0)
    assert told.unknown_s == 240.0, "it was killed and stood still for as long"
    told = reckon(replace(NOTHING, occupied=first), UTC_MANNER, MONDAY + HOUR, MONDAY + 3 * HOUR)
    assert told.unknown_s == 3000.0 + 2700.0


def test_hours_are_those_of_the_models_users_on_both_days_of_a_change() -> None:
    zone = ZoneInfo("Europe/Berlin")
    for day, hours, expected in (
        ((2026, 10, 25), 25, "s" * 9 + "h" * 9 + "a" * 6),
        ((2026, 3, 29), 23, "ss-" + "s" * 6 + "h" * 9 + "a" * 6),
    ):
        begin = datetime(*day, tzinfo=zone).timestamp()
        occupied = []
        for n in range(hours):
            at = begin + n * HOUR
            hour = datetime.fromtimestamp(at, zone).hour
            rung = "staged" if hour < 9 else "hot" if hour < 18 else "asleep"
            occupied.append(stood(at, rung))
        past = replace(NOTHING, occupied=occupied)
        told = reckon(past, Manner("Europe/Berlin"), begin, begin + hours * HOUR)
        assert told.days == {f"{day[0]}-{day[1]:02}-{day[2]:02}": expected}
        assert told.unknown_s == 0.0


def test_an_hour_is_told_by_what_lasted_longest_and_gaps_are_shown() -> None:
    occupied = [
        stood(MONDAY, "hot", 2000.0),
        stood(MONDAY, "cold", 1600.0),
        stood(MONDAY + HOUR, "hot", 1000.0),
        stood(MONDAY + 2 * 24 * HOUR, "cold"),
    ]
    told = reckon(replace(NOTHING, occupied=occupied), UTC_MANNER, MONDAY, MONDAY + 49 * HOUR)
    assert told.days == {
        "2026-11-02": "h" + "-" * 23,
        "2026-11-03": "-" * 24,
        "2026-11-04": "c" + "-" * 23,
    }


def test_two_weeks_of_a_late_window_are_one_sentence() -> None:
    """By the clock of the model's users: 08:37 in Berlin is 07:37 in UTC."""
    zone = ZoneInfo("Europe/Berlin")
    begin = datetime(2026, 11, 1, tzinfo=zone)
    window = Window("mon-fri 09:00-18:00", zone.key, time(9), time(18), frozenset(range(5)))
    days = [begin + timedelta(n) for n in range(16)]
    work = [day for day in days[1:-1] if day.weekday() < 5]
    waited = [Waited(d.replace(hour=8, minute=37).timestamp(), "asleep", 6.0, False) for d in work]
    hot = Waited(work[0].replace(hour=7, minute=50).timestamp(), "hot", 0.2, vain=False)
    minutes = [int(d.replace(hour=h).timestamp() // 60) for d in work for h in (9, 17)]
    past = replace(
        NOTHING,
        occupied=[stood(begin.timestamp() + n * HOUR, "asleep") for n in range(16 * 24)],
        use=[(minute, minute + 14) for minute in minutes],
        waited=[hot, *waited],
    )
    manner = Manner(zone.key, (window,))
    told: Account = account(
        iter([past, replace(NOTHING, model="gone")]),
        {"m": manner},
        "UTC",
        begin.timestamp(),
        begin.timestamp() + 15.5 * 24 * HOUR,
    )
    assert told.models["m"].advice == (
        "the rush begins at 08:37; the window's 09:00 is late on 10 of 10 workdays: "
        'write from = "08:30"'
    )
    assert told.models["gone"].zone == "UTC"
    assert told.models["gone"].advice is None
