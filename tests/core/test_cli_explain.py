"""`warmctl explain` in words."""

from __future__ import annotations

import time
from typing import Any

from warmd.cli.explain import explanation
from warmd.cli.words import staged_lines

GIB = 2**30
REPLICA: dict[str, Any] = {
    "name": "m.0",
    "rung": "staged",
    "phase": "backing-off",
    "since": 95.0,
    "reason": "CUDA out of memory",
    "retry_at": 104.0,
    "failures": 2,
    "start": None,
}
MODEL: dict[str, Any] = {
    "name": "m",
    "rung": "staged",
    "target": "hot",
    "reason": "1 request waits for it",
    "held_up_by": "m.0 is tried again in 4 s: CUDA out of memory",
    "override_until": None,
    "replicas": [REPLICA],
    "staging": {"done": 0, "total": 10, "holding": True},
}
MOVED = {
    "at": 60.0,
    "replica": "m.0",
    "from_rung": "cold",
    "to_rung": "staged",
    "reason": "it rests staged",
    "seconds": None,
}


def explained(model: dict[str, Any], *decisions: dict[str, Any], **more: Any) -> str:
    answer = {"time": 100.0, "model": model, "decisions": decisions, "history_trouble": None}
    return explanation(answer | more, time.gmtime)


def test_what_it_waits_for_and_what_moved_it_oldest_first() -> None:
    later = MOVED | {"at": 70.0, "from_rung": "staged", "to_rung": "hot", "seconds": 41.25}
    assert explained(MODEL, later, MOVED).splitlines() == [
        "m is staged and shall be hot: 1 request waits for it",
        "  m.0: backing off, next try in 4 s",
        "    for 5 s: CUDA out of memory (2 failures in a row)",
        "what moved it",
        "  1970-01-01 00:01:00  m.0  cold -> staged: it rests staged",
        "  1970-01-01 00:01:10  m.0  staged -> hot in 41.2 s: it rests staged",
    ]


def test_what_holds_it_up_is_told_once_and_whole() -> None:
    held_up = "c.0 is starting on the same device"
    waits = MODEL | {"held_up_by": held_up, "replicas": [REPLICA | {"retry_at": 99.0}]}
    assert explained(waits).splitlines()[1:3] == [
        f"  held up: {held_up}",
        "  m.0: failed, waits for its next try",
    ]


def test_a_model_that_stands_where_it_shall() -> None:
    calm = REPLICA | {"phase": "down", "reason": "it was not needed yet", "failures": 0}
    model = MODEL | {"target": "staged", "reason": "it rests staged", "held_up_by": None}
    said = explained(model | {"replicas": [calm]})
    assert said.startswith("m is staged, as it shall be: it rests staged\n")
    assert "    for 5 s; what led there: it was not needed yet\n" in said
    assert said.endswith("nothing has moved it yet")


def test_what_a_sleeper_holds_and_its_pool() -> None:
    wake = {"engine": 1.0, "first_answer": 0.2, "canary": 0.3}
    slept = {"cycles": 3, "seconds": 0.8, "host_ram": 45 * 2**30, "device_kept": 2**30}
    sleeper = REPLICA | {"rung": "asleep", "phase": "asleep", "reason": "it is idle", "failures": 0}
    sleeper |= {"sleep": slept | {"last_wake": wake}, "stale": True}
    model = MODEL | {"rung": "asleep", "target": "asleep", "held_up_by": None}
    model |= {"pool": "heavy", "vram": 60 * 2**30, "replicas": [sleeper]}
    assert explained(model).splitlines()[1:-1] == [
        "  takes 60.0 GiB of pool heavy for each engine, as declared",
        "  m.0: asleep, holds 45.0 GiB of RAM and 1.0 GiB of VRAM",
        "    for 5 s; what led there: it is idle",
        "    its settings have changed: it is made anew when its turn comes",
        "    slept 3 times: its last fall took 0.8 s, its last wake 1.5 s",
    ]


def test_who_says_what_it_takes() -> None:
    model = MODEL | {"pool": "m (its own)", "vram": 60 * 2**30, "vram_by": "left"}
    takes = "  takes 60.0 GiB of pool m (its own) for each engine, what is left there for vLLM, as"
    assert f"{takes} it states neither pool nor vram\n" in explained(model)


def test_a_model_that_can_not_sleep_says_why() -> None:
    model = MODEL | {"cannot_sleep": "no NVIDIA GPU works here"}
    said = explained(model)
    assert "  can't sleep: no NVIDIA GPU works here\n" in said


def test_a_history_that_can_not_be_kept_is_told_and_nothing_denied() -> None:
    lines = explained(MODEL, history_trouble="the disk is\nfull").splitlines()
    assert lines[-2:] == ["what moved it is not known", "warning: the disk is full"]


def test_each_kind_of_files_has_its_line() -> None:
    def kind(name: str, done: int, **more: Any) -> dict[str, Any]:
        none = {"held": False, "busy": False, "partial": False, "paused": None, "problem": None}
        return {"kind": name, "done": done, "total": 10 * GIB, "resident": done, **none, **more}

    staged = [
        kind("program", 10 * GIB, held=True),
        kind("weights", 2 * GIB, busy=True, paused="memory is under pressure"),
        kind("compile-cache", 0, total=0),
    ]
    assert staged_lines({"staged": staged}) == [
        "program: 10.0 of 10.0 GiB in RAM",
        "weights: staging 2.0 of 10.0 GiB, paused: memory is under pressure",
    ]
    partly = {"staged": [kind("weights", 4 * GIB, partial=True, problem="no room")]}
    [told] = staged_lines(partly | {"held_up_by": "they are verified first; no room"})
    assert "no room" not in told, "that stands there already"
    [part] = staged_lines(partly)
    assert part == "weights: 4.0 of 10.0 GiB in RAM, no room"
    assert staged_lines({"staged": [kind("weights", 0)]}) == ["weights: not held in RAM"]
    assert staged_lines({}) == [], "an older daemon tells nothing of it"


MONDAY_NOON = 1795435200.0
HOUR = 3600.0
CALENDAR: dict[str, Any] = {
    "timezone": "UTC",
    "entries": [
        {
            "words": "window mon-fri 09:00-18:00",
            "rung": "hot",
            "replicas": 2,
            "is_open": True,
            "rules": True,
            "since": MONDAY_NOON - 3 * HOUR,
            "until": MONDAY_NOON + 6 * HOUR,
        },
        {
            "words": "window sat 10:00-12:00",
            "rung": "asleep",
            "replicas": None,
            "is_open": False,
            "rules": False,
            "since": None,
            "until": MONDAY_NOON + (4 * 24 + 22) * HOUR,
        },
        {
            "words": 'cron entry "0 0 1 1 *"',
            "rung": "cold",
            "replicas": None,
            "is_open": None,
            "rules": False,
            "since": MONDAY_NOON - 326.5 * 24 * HOUR,
            "until": MONDAY_NOON + 38.5 * 24 * HOUR,
        },
    ],
    "changes": [
        {
            "at": MONDAY_NOON + 6 * HOUR,
            "rung": "cold",
            "replicas": 1,
            "words": 'cron entry "0 0 1 1 *"',
        },
        {"at": MONDAY_NOON + 24 * HOUR, "rung": None, "replicas": None, "words": ""},
    ],
}


def test_its_calendar_is_told_entry_by_entry_with_what_rules_and_what_comes() -> None:
    calm = REPLICA | {"phase": "ready", "reason": "its window is open", "failures": 0}
    calm |= {"rung": "hot", "since": MONDAY_NOON - HOUR}
    model = MODEL | {"rung": "hot", "held_up_by": None, "replicas": [calm]}
    model |= {"reason": "its window mon-fri 09:00-18:00 is open"}
    model |= {"calendar": "hot, 2 replicas until 18:00, then cold", "timezone": "UTC"}
    lines = explained(model, time=MONDAY_NOON, calendar=CALENDAR).splitlines()
    assert lines[:2] == [
        "m is hot, as it shall be: its window mon-fri 09:00-18:00 is open",
        "  calendar (UTC): hot, 2 replicas until 18:00, then cold",
    ]
    word = explained(model | {"rank": "operator"}, time=MONDAY_NOON, calendar=CALENDAR)
    would = "its calendar (UTC), what would rule now without the operator's word marked with *"
    assert would in word.splitlines()
    fired = "fired Thu 2026-01-01 00:00, fires next Fri 2027-01-01 00:00"
    begin = lines.index("its calendar (UTC), what rules now marked with *")
    assert lines[begin + 1 : begin + 7] == [
        "  * window mon-fri 09:00-18:00: hot, 2 replicas; open since 09:00 until 18:00",
        "    window sat 10:00-12:00: asleep; closed until Sat 10:00",
        f'    cron entry "0 0 1 1 *": cold; {fired}',
        "what it says next",
        '  18:00  cold, 1 replica: cron entry "0 0 1 1 *"',
        "  Tue 12:00  nothing: it follows demand, and rests else",
    ]


def test_the_cron_entries_that_ask_for_a_warm_up_are_listed_with_their_next_time() -> None:
    cron = {"words": 'cron entry "30 0 * * *"', "timezone": "UTC", "last": None, "next": 1800.0}
    lines = explained(MODEL, warmup_crons=[cron]).splitlines()
    at = lines.index("its warm-up requests and probes (UTC), sent while it is hot")
    assert lines[at + 1] == '    cron entry "30 0 * * *"; has not fired yet, fires next 00:30'
