"""One sentence of advice from how a model was used: tables of days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, time, timedelta

import pytest

from warmd.ladder import Rung
from warmd.policy import Window
from warmd.policy.advice import Habits, advise

MONDAY = date(2026, 11, 2)
DAYS = [MONDAY + timedelta(n) for n in range(14)]
WORKDAYS = [day for day in DAYS if day.weekday() < 5]
NINE = Window("mon-fri 09:00-18:00", "UTC", time(9), time(18), frozenset(range(5)))
NIGHT = replace(NINE, text="mon-fri 22:00-06:00", start=time(22), to=time(6))
NIGHTLY = replace(NIGHT, days=frozenset(range(7)))


def on(days: Sequence[date], *minutes: float) -> dict[date, list[float]]:
    return {day: list(minutes) for day in days}


ALL_DAY = on(WORKDAYS, 540, 600, 1075)
"""Somebody asks from 09:00 on until shortly before 18:00."""


@pytest.mark.parametrize(
    ("habits", "said"),
    [
        (Habits(()), None),
        (Habits(DAYS, windows=(NINE,), use=ALL_DAY), None),
        (Habits(DAYS), None),
        (  # the rush before the window, and one workday without
            Habits(DAYS, on(WORKDAYS[1:], 517, 519.5), ALL_DAY, (NINE,)),
            (
                "the rush begins at 08:37; the window's 09:00 is late on 9 of 10 workdays: "
                'write from = "08:30"'
            ),
        ),
        (  # twice in two weeks is no habit
            Habits(DAYS, on(WORKDAYS[:2], 517), ALL_DAY, (NINE,)),
            None,
        ),
        (  # waits long before it opens are not its rush
            Habits(DAYS, on(WORKDAYS[:5], 300), ALL_DAY, (NINE,)),
            None,
        ),
        (
            Habits(DAYS, on(WORKDAYS[1:], 521, 700)),
            (
                "people wait at about 08:40 on 9 of 10 workdays: a window from 08:30 would have "
                "spared 9 of them"
            ),
        ),
        (
            Habits(DAYS, on(DAYS, 1210)),
            (
                "people wait at about 20:10 on 14 of 14 days: a window from 20:00 would have "
                "spared 14 of them"
            ),
        ),
        (  # who waits within a window waits for another reason
            Habits(DAYS, on(WORKDAYS, 700), ALL_DAY, (NINE,)),
            None,
        ),
        (
            Habits(
                DAYS,
                on(DAYS, 100),
                on(DAYS, 100, 1400),
                (replace(NIGHT, days=frozenset(range(7))),),
            ),
            None,
        ),
        (
            Habits(DAYS, windows=(NINE,), use=on(DAYS, 60), added=90.2),
            (
                "nobody asked for it in its windows on 10 workdays, which cost 90 GPU-hours: take "
                'them away, or let them keep it warm with rung = "asleep"'
            ),
        ),
        (Habits(DAYS, windows=(replace(NINE, rung=Rung.ASLEEP),), added=90.2), None),
        (
            Habits(DAYS, windows=(NINE,), use=on(WORKDAYS[1:], 545, 880) | on(WORKDAYS[:1], 1070)),
            (
                "window mon-fri 09:00-18:00 could end at 15:00: nobody asked after that on 9 of 10 "
                "workdays, which saves 15 GPU-hours a week"
            ),
        ),
        (
            Habits(
                DAYS,
                windows=(replace(NINE, replicas=2),),
                use=on(WORKDAYS, 660, 1075),
                gpus=4.0,
            ),
            (
                "window mon-fri 09:00-18:00 could begin at 10:30: nobody asked earlier on 10 of 10 "
                "workdays, which saves 60 GPU-hours a week"
            ),
        ),
        (Habits(DAYS[:4], windows=(NINE,), use=on(DAYS[:4], 545, 880)), None),
        (Habits(DAYS, windows=(NIGHT,), use=on(DAYS, 1400)), None),
        (
            Habits(DAYS, on(DAYS[:3], 100, 300), start_s=41.2, cannot_sleep="it is too lively"),
            (
                "6 requests waited for it, and half of its starts took 41 s or more; it could wake "
                "in seconds, but it can't sleep: it is too lively"
            ),
        ),
    ],
)
def test_what_is_said(habits: Habits, said: str | None) -> None:
    assert advise(habits) == said


def test_people_go_before_gpu_hours() -> None:
    late = Habits(
        DAYS, on(WORKDAYS, 517), on(WORKDAYS, 545, 700), (NINE,), added=90.0, cannot_sleep="x"
    )
    assert "the rush begins" in (advise(late) or "")
    assert "could end at 12:00" in (advise(replace(late, waits={})) or "")
