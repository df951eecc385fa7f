"""`warmctl history` in words, from the JSON that the daemon's own dataclasses give."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

from warmd.cli.history import history
from warmd.history import Probed, SyntheticCounts
from warmd.history.openings import NotKept
from warmd.history.report import (
    Durations,
    Failure,
    FirstBytes,
    FirstDelays,
    ModelReport,
    Moved,
    Report,
    Requests,
    Sleeps,
    Start,
)
from warmd.ladder import FilesAtStart

MET = {"hot": 398, "asleep": 8, "staged": 6, "cold": 0}
BUSY = ModelReport(
    starts={"cold": Durations(1, 55.0, 55.0), "staged": Durations(3, 41.25, 50.0)},
    sleeps=Sleeps(12, 4.1, 10.6, 2, 22 * 2**30, None),
    wakes=Durations(10, 0.9, 2.2),
    failures=[Failure("start", "CUDA out of\nmemory \x1b[31m", 2, 70.0)],
    requests=Requests(
        412, 3, MET, FirstDelays(14, 2, 3.21, 41.3, 2, 180.0), FirstBytes(395, 0.0214, 2.1), 60.0
    ),
)
STAGES = {"program": 0.01, "imports": 6.0, "weights": 1.0, "compile": 5.0, "first-answer": 0.1}
FILES = {
    "program": dataclasses.asdict(FilesAtStart(1000, 127, 1000)),
    "weights": dataclasses.asdict(FilesAtStart(1000, 999, 1000, held=True)),
    "compile-cache": dataclasses.asdict(FilesAtStart(1000, None, None)),
}
IN_VAIN = "2 more waited in vain, longest 180.0 s"
HELD = "asleep it holds 22.0 GiB of host RAM"
MOVED = Moved(60.0, "m", "m.0", "cold", "staged", "it rests staged", None)


def said(report: Report) -> list[str]:
    answer: Any = json.loads(json.dumps(dataclasses.asdict(report)))
    return history(answer, time.gmtime).splitlines()


def test_all_that_can_happen() -> None:
    later = dataclasses.replace(MOVED, at=70.0, from_rung="staged", to_rung="hot", seconds=41.25)
    models = {"gone": ModelReport(wakes=Durations(1, 1.5, 1.5)), "m": BUSY}
    assert said(Report(86400.0, 0.0, 5.0, models, [later, MOVED])) == [
        "since 1970-01-01 00:00:00, 1 d",
        "gone",
        "  wakes         1: 1.5 s",
        "m",
        "  requests      412, 3 failed; they met it 398 hot, 8 asleep, 6 staged",
        "  first delays  14: 2 of them over 5 s; mean 3.2 s, longest 41.3 s; " + IN_VAIN,
        "  first bytes   395 of a model in use: mean 21 ms, longest 2.1 s",
        "  starts        3 from staged: half within 41.2 s, longest 50.0 s",
        "                1 from cold: 55.0 s",
        "  sleeps        12, 2 rehearsals: half within 4.1 s, longest 10.6 s; " + HELD,
        "  wakes         10: half within 900 ms, longest 2.2 s",
        "  failed        2 starts, last 1970-01-01 00:01:10: CUDA out of memory  [31m",
        "what moved them",
        "  1970-01-01 00:01:00  m.0  cold -> staged: it rests staged",
        "  1970-01-01 00:01:10  m.0  staged -> hot in 41.2 s: it rests staged",
    ]


def test_why_one_start_took_longer_than_another() -> None:
    quick = Start(70.0, "m.0", "staged", 12.11, STAGES, FILES)
    slow = Start(60.0, "m.0", "cold", 50.0, {"imports": 40.0, "a-later-stage": 10.0}, {})
    model = ModelReport(starts={}, last_starts=[quick, slow])
    stages = "imports 6.0 s, weights 1.0 s, compile 5.0 s"
    ram = "program 12 -> 100 %, weights 99 -> 100 % (held), compile cache ? -> ? %"
    assert said(Report(86400.0, 0.0, 5.0, {"m": model}, []))[2:] == [
        f"  last starts   1970-01-01 00:01:10  m.0  12.1 s from staged: {stages}",
        f"                  in RAM as it began -> when ready: {ram}",
        "                1970-01-01 00:01:00  m.0  50.0 s from cold: imports 40.0 s",
    ]


def test_nothing_happened() -> None:
    assert said(Report(7200.0, 0.0, 5.0, {}, [])) == [
        "since 1970-01-01 00:00:00, 2 h",
        "nothing happened",
    ]
    assert said(Report(7200.0, 0.0, 5.0, {"m": ModelReport()}, []))[1:] == [
        "m",
        "  nothing happened",
    ]


def test_a_history_that_can_not_be_kept_denies_nothing() -> None:
    answer: Any = dataclasses.asdict(Report(86400.0, 0.0, 5.0, {}, []))
    told = history(answer | {"history_trouble": "the disk is full"}, time.gmtime).splitlines()
    assert told[1:] == ["what happened is not known", "warning: the disk is full"]
    quiet = answer | {"models": {"m": dataclasses.asdict(ModelReport())}}
    assert history(quiet, time.gmtime).endswith("nothing happened")


def test_requests_of_warmds_own_have_lines_of_their_own() -> None:
    following = [[0.05, 0.2], [0.06, 0.2], [0.04, 0.2]]
    model = ModelReport(
        wakes=Durations(2, 0.9, 2.2),
        first_tokens_awake=Durations(2, 0.08, 0.3),
        last_starts=[Start(60.0, "m.0", "staged", 9.0, {"imports": 6.0}, {}, 0.42)],
        synthetic={"keepalive": SyntheticCounts(7, 2, 0.05, 0.1, 60.0, "it said\nno")},
        probes=[
            Probed(60.0, "m.0", "nightly", 900.0, "hot", 0.81, 1.0, following),
            Probed(60.0, "m.0", "probe", 0.1, "cold", 0.05, 0.2, following, 41.0),
        ],
    )
    report = Report(120.0, 0.0, 5.0, {"m": model}, [])
    answer = json.loads(json.dumps(dataclasses.asdict(report))) | {"history_trouble": None}
    lines = [line.strip() for line in history(answer, time.gmtime).splitlines()]
    answered = "7 answered; first token mean 50 ms, longest 100 ms"
    assert f"keep-alives   {answered}; 2 failed: it said no" in lines
    at = "1970-01-01 00:01:00"
    assert f"probes        {at}  after 15 min: first token 810 ms, then 50 ms (nightly)" in lines
    assert f"{at}  from cold, hot in 41.0 s: first token 50 ms, then 50 ms (probe)" in lines
    token = "first token half within 80 ms, longest 300 ms"
    assert f"wakes         2: half within 900 ms, longest 2.2 s; {token}" in lines
    assert any(
        line.endswith("9.0 s from staged: imports 6.0 s, first token 420 ms") for line in lines
    )


def test_times_that_were_not_kept_are_told_with_their_reason() -> None:
    window = "window daily 09:00-10:00"
    model = ModelReport(
        not_kept=[NotKept(120.0, window, None, "no\nCUDA"), NotKept(60.0, window, 96.0, None)]
    )
    report = Report(180.0, 0.0, 5.0, {"m": model}, [])
    answer = json.loads(json.dumps(dataclasses.asdict(report))) | {"history_trouble": None}
    lines = [line.strip() for line in history(answer, time.gmtime).splitlines()]
    assert f"not in time   1970-01-01 00:02:00  {window}: not ready: no CUDA" in lines
    assert f"1970-01-01 00:01:00  {window}: 1 min 36 s late" in lines
