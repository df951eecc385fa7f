from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import pytest
from rich.console import Console

from warmd.cli.render import status_table
from warmd.cli.words import amount, card_line, model_doing, span
from warmd.ladder import Phase, Rung, Stage
from warmd.status import (
    CardShare,
    CardStatus,
    ModelStatus,
    ReplicaStatus,
    SleepStatus,
    StagingStatus,
    StartStatus,
    Status,
)

NOW = 1_750_000_000.0
GIB = 2**30
HOT, ASLEEP, STAGED, COLD = Rung.HOT, Rung.ASLEEP, Rung.STAGED, Rung.COLD
SLEPT = SleepStatus(2, 0.8, 45 * GIB, int(1.6 * GIB), {"engine": 0.9, "first_answer": 0.1})
DRILLED = SleepStatus(1, 0.8, 0, None, None)
HOLDS = "asleep, holds 45.0 GiB of RAM and 1.6 GiB of VRAM"


def replica(name: str, rung: Rung, phase: Phase, **more: Any) -> ReplicaStatus:
    facts: dict[str, Any] = {"pid": None, "since": NOW - 4000, "reason": "idle", "in_flight": 0}
    facts |= {"failures": 0, "retry_at": None, "start": None, "last_start": None}
    return ReplicaStatus(name=name, rung=rung, phase=phase, **facts | more)


def model(name: str, target: Rung, *replicas: ReplicaStatus, **more: Any) -> ModelStatus:
    facts: dict[str, Any] = {"aliases": (), "reason": "2 requests wait", "held_up_by": None}
    facts |= {"override_until": None, "waiting": 0, "oldest_wait": 0.0}
    facts |= {"staging": StagingStatus(16 * GIB, 16 * GIB, holding=True)}
    rung = max((replica.rung for replica in replicas), key=lambda rung: rung.height, default=COLD)
    return ModelStatus(name=name, rung=rung, target=target, replicas=replicas, **facts | more)


def as_json(*models: ModelStatus) -> dict[str, Any]:
    status = Status("0.1.0", 7, NOW - 7500, NOW, {model.name: model for model in models})
    parsed: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(status)))
    return parsed


BUSY = as_json(
    model(
        "qwen3-32b",
        HOT,
        replica("qwen3-32b.0", HOT, Phase.READY, in_flight=3),
        override_until=NOW + 7100,
    ),
    model(
        "a-model-with-a-rather-long-name",
        HOT,
        replica(
            "x.0",
            STAGED,
            Phase.STARTING,
            since=NOW - 15,
            start=StartStatus(Stage.KV_CACHE, {}, 15.1, 24.0),
        ),
        waiting=2,
        oldest_wait=14.2,
    ),
    model(
        "gemma",
        HOT,
        replica(
            "gemma.0",
            COLD,
            Phase.BACKING_OFF,
            reason="the engine exited with status 1: CUDA out of memory.\nTried to \x1b[31mget",
            retry_at=NOW + 4.2,
            failures=2,
        ),
        held_up_by="the last start failed",
    ),
    model(
        "two",
        HOT,
        replica("two.0", HOT, Phase.READY, in_flight=1),
        replica("two.1", STAGED, Phase.FAILED, reason="6 starts failed", failures=6),
    ),
)

AT_80_COLUMNS = """\
MODEL         RUNG    TARGET  DOING                         BUSY  WAITING  SINCE
qwen3-32b     hot     hot     ready                            3        -  1 h
    set by an operator for another 1 h 58 min
a-model-with-a-rather-long-name
              staged  hot     starting 62 %: kv cache          -  2, 14 s  15 s
    why hot: 2 requests wait
gemma         cold    hot     backing off, next try in 4 s     -        -  1 h
    why hot: 2 requests wait
    the engine exited with status 1: CUDA out of memory. Tried to  [31mget (2
    failures in a row)
    held up: the last start failed
two           hot     hot     1 failed, 1 ready                1        -  1 h
 .0           hot     -       ready                            1        -  1 h
 .1           staged  -       failed                           -        -  1 h
    6 starts failed (6 failures in a row); once that is mended: warmctl set two
    auto, or reload where it was the config
warmd 0.1.0, up 2 h 5 min"""


def test_a_terminal_of_80_columns() -> None:
    screen = io.StringIO()
    Console(file=screen, width=80, force_terminal=True, no_color=True, highlight=False).print(
        status_table(BUSY, NOW, 80)
    )
    text = status_table(BUSY, NOW, 80).plain
    assert text == AT_80_COLUMNS
    assert screen.getvalue().count("\n") == text.count("\n") + 1  # nothing wrapped


def card(**more: Any) -> CardStatus:
    facts: dict[str, Any] = {"key": "GPU-8f3c", "index": 0, "words": "GPU 0", "name": "NVIDIA H200"}
    facts |= {"total": 141 * GIB, "headroom": GIB, "used": 92 * GIB, "free": 49 * GIB}
    facts |= {
        "reserved": 90 * GIB,
        "taken": 99 * GIB,
        "trouble": None,
        "mismatches": (),
        "seen": NOW - 2,
    }
    facts["engines"] = (
        CardShare("qwen3-32b.0", 90 * GIB, 80 * GIB),
        CardShare("gemma.0", 2 * GIB, 2 * GIB, sleeps=True),
    )
    facts["foreign"] = (CardShare("process 2230 (jupyter-lab)", 7 * GIB, 7 * GIB),)
    return CardStatus(**facts | more)


def test_each_gpu_has_a_line_and_its_troubles_below() -> None:
    hurt = card(mismatches=("gemma.0 holds too much",), trouble="it is \x1b[31mlost", free=None)
    shown = {
        **BUSY,
        "cards": json.loads(
            json.dumps([dataclasses.asdict(card()), hurt.__dict__], default=dataclasses.asdict)
        ),
    }
    lines = status_table(shown, NOW, 80).plain.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("GPU 0"))
    assert lines[first:-1] == [
        "GPU 0: 99.0 of 141.0 GiB taken (qwen3-32b.0 90.0 GiB, gemma.0 keeps 2.0 GiB,",
        "    process 2230 (jupyter-lab) 7.0 GiB), 49.0 GiB free at the moment",
        "GPU 0: 99.0 of 141.0 GiB taken (qwen3-32b.0 90.0 GiB, gemma.0 keeps 2.0 GiB,",
        "    process 2230 (jupyter-lab) 7.0 GiB), nobody looks",
        "    ! nobody can tell what it holds: it is  [31mlost",
        "    ! gemma.0 holds too much",
    ]
    assert all(len(line) <= 80 for line in lines)
    bare = card(engines=(), foreign=(), reserved=0, taken=GIB, free=141 * GIB)
    assert card_line(json.loads(json.dumps(dataclasses.asdict(bare)))) == (
        "GPU 0: 1.0 of 141.0 GiB taken (headroom 1.0 GiB), 141.0 GiB free at the moment"
    )
    piped = status_table(shown, NOW, None).plain
    assert piped.removeprefix(status_table(BUSY, NOW, None).plain).splitlines()[1:] == [
        "warning: GPU 0: nobody can tell what it holds: it is  [31mlost",
        "warning: GPU 0: gemma.0 holds too much",
    ]


def test_a_gpu_out_of_service_is_said_once_and_with_what_to_do() -> None:
    sick = card(trouble="it is lost", quarantine="it is lost", remedy="see", free=None)
    shown = {**BUSY, "cards": json.loads(json.dumps([dataclasses.asdict(sick)]))}
    lines = status_table(shown, NOW, 80).plain.splitlines()
    assert [line for line in lines if "lost" in line] == [
        "    ! quarantined, nothing is started on it: it is lost: see"
    ]


def test_a_wide_terminal_keeps_long_names_in_their_row() -> None:
    lines = status_table(BUSY, NOW, 140).plain.splitlines()
    assert lines[3].startswith("a-model-with-a-rather-long-name  staged  hot ")


def test_a_pipe_gets_one_line_for_each_model_and_replica() -> None:
    lines = status_table(BUSY, NOW, None).plain.splitlines()
    assert [line.split()[0] for line in lines] == [
        *("MODEL", "qwen3-32b", "a-model-with-a-rather-long-name", "gemma", "two"),
        *("two.0", "two.1"),
    ]
    assert lines[3].endswith(
        "2 requests wait; the engine exited with status 1: CUDA out of memory. Tried to  "
        "[31mget (2 failures in a row); held up: the last start failed"
    )
    assert "\x1b" not in "".join(lines)


def test_what_is_amiss_is_told_to_people_and_to_pipes() -> None:
    amiss = BUSY | {"history_trouble": "the disk is full", "warnings": ["a and b never fit"]}
    lines = status_table(amiss, NOW, 80).plain.splitlines()
    told = ["warning: the disk is full", "warning: a and b never fit"]
    assert lines[-3:-1] == told
    assert status_table(amiss, NOW, None).plain.splitlines()[-2:] == told


def test_what_shall_be_staged_and_has_no_known_files_is_not_just_down() -> None:
    nothing = StagingStatus(0, 0, holding=False, busy=False)
    waits = model("m", STAGED, replica("m.0", COLD, Phase.DOWN), staging=nothing)
    assert model_doing(as_json(waits)["models"]["m"], NOW) == "not staged yet"


def test_no_models() -> None:
    assert status_table(as_json(), NOW, 80).plain == (
        "warmd 0.1.0, up 2 h 5 min: no model is configured"
    )


@pytest.mark.parametrize(
    ("target", "given", "staged_gib", "words"),
    [
        (HOT, replica("m.0", COLD, Phase.BACKING_OFF, retry_at=NOW - 60), 16, "held up: it waits"),
        (HOT, replica("m.0", HOT, Phase.READY), 16, "ready"),
        (STAGED, replica("m.0", COLD, Phase.DOWN), 1.25, "staging 1.2 of 16.0 GiB"),
        (STAGED, replica("m.0", COLD, Phase.DOWN), 0, "not staged yet"),
        (COLD, replica("m.0", COLD, Phase.DOWN), 1.25, "down"),
        (STAGED, replica("m.0", STAGED, Phase.DOWN), 16, "16.0 GiB in RAM"),
        (STAGED, replica("m.0", HOT, Phase.DRAINING), 16, "draining"),
        (HOT, replica("m.0", STAGED, Phase.STARTING), 16, "starting"),
        (HOT, replica("m.0", HOT, Phase.READY, stale=True), 16, "ready, with its old settings"),
        (HOT, replica("m.0", COLD, Phase.ADOPTING), 16, "being taken over"),
        (ASLEEP, replica("m.0", ASLEEP, Phase.ASLEEP, sleep=SLEPT), 16, HOLDS),
        (ASLEEP, replica("m.0", ASLEEP, Phase.ASLEEP, sleep=DRILLED), 16, "asleep"),
        (
            HOT,
            replica("m.0", HOT, Phase.FALLING_ASLEEP, since=NOW - 3, rehearses=True),
            16,
            "rehearsal: falling asleep for 3 s",
        ),
        (
            HOT,
            replica("m.0", ASLEEP, Phase.WAKING, since=NOW - 1, expected=2.3),
            16,
            "waking for 1 s of about 2 s",
        ),
        (
            HOT,
            replica(
                "m.0",
                STAGED,
                Phase.WARMING,
                start=StartStatus(Stage.FIRST_ANSWER, {}, 70.0, None),
            ),
            16,
            "starting 1 min 10 s: first answer",
        ),
        (
            HOT,
            replica(
                "m.0", STAGED, Phase.STARTING, start=StartStatus(Stage.WEIGHTS, {}, 50.0, 24.0)
            ),
            16,
            "starting 99 %: weights",
        ),
    ],
)
def test_what_a_model_is_doing(
    target: Rung, given: ReplicaStatus, staged_gib: float, words: str
) -> None:
    staging = StagingStatus(int(staged_gib * GIB), 16 * GIB, holding=False, busy=staged_gib > 0)
    held = "it waits: for a long time"
    status = as_json(model("m", target, given, staging=staging, held_up_by=held))
    assert model_doing(status["models"]["m"], NOW) == words


@pytest.mark.parametrize(
    ("seconds", "words", "short"),
    [
        (-1, "0 s", "0 s"),
        (59.9, "59 s", "59 s"),
        (60, "1 min", "1 min"),
        (3599, "59 min 59 s", "59 min"),
        (3605, "1 h", "1 h"),
        (183_900, "2 d 3 h", "2 d"),
    ],
)
def test_spans(seconds: float, words: str, short: str) -> None:
    assert (span(seconds), span(seconds, 1)) == (words, short)


def test_amounts_share_the_unit_of_the_whole() -> None:
    assert amount(GIB // 2, 16 * GIB) == "0.5 of 16.0 GiB"
    assert amount(12, 500) == "12 of 500 B"
    assert amount(0, 0) == "0 of 0 B"
