"""`warmctl residency` and `warmctl stage --watch` in words, from the daemon's JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from warmd.cli.residency import residency_table
from warmd.cli.staging import Watch, bar_lines
from warmd.control.stage import stage
from warmd.ladder import FileKind, Rung
from warmd.status import ModelStatus, StagedStatus, StagingStatus, Status

GB = 10**9
PROGRAM: dict[str, Any] = {
    "models": ["a", "b"],
    "kind": "program",
    "files": 5412,
    "bytes": 3 * 2**30,
    "resident": 3 * 2**30 - 2**20,
    "by": "cachestat",
    "trouble": None,
    "state": "partial",
    "held": 2**30,
    "place": "page-cache",
    "problem": None,
}
FOREIGN = PROGRAM | {
    "models": ["a"],
    "kind": "weights",
    "files": 2,
    "resident": None,
    "by": "",
    "trouble": "/w/x: belongs to user 7,\nand \x1b[31mnobody tells",
    "state": "not held",
}
UNKNOWN = FOREIGN | {"kind": "compile-cache", "files": None, "bytes": None, "trouble": None}


def test_what_is_in_ram_and_what_nobody_can_tell() -> None:
    told = {"seconds": 0.0042, "sets": [PROGRAM, FOREIGN, UNKNOWN]}
    assert residency_table(told).splitlines() == [
        "MODEL       KIND           FILES     SIZE   IN RAM        STATE         PLACE",
        "(2 models)  program         5412  3.0 GiB  3.0 GiB  99 %  1.0 GiB held  page cache",
        "a           weights            2  3.0 GiB        ?        not held      page cache",
        "    ! /w/x: belongs to user 7, and  [31mnobody tells",
        "            compile cache      ?        ?        ?        not held      page cache",
        "measured just now by cachestat, in 4 ms",
    ]
    assert residency_table({"seconds": 0.0, "sets": []}).startswith("no model is configured")


WEIGHTS = StagedStatus(
    FileKind.WEIGHTS,
    done=0,
    total=10 * GB,
    resident=0,
    held=False,
    busy=True,
    partial=False,
    paused=None,
    problem=None,
)
CACHES = dataclasses.replace(WEIGHTS, kind=FileKind.CACHES, total=0, busy=False)
MODEL = ModelStatus(
    name="m",
    aliases=(),
    rung=Rung.COLD,
    target=Rung.STAGED,
    reason="an operator set it to staged",
    held_up_by=None,
    override_until=None,
    waiting=0,
    oldest_wait=0.0,
    staging=StagingStatus(0, 10 * GB, holding=False),
    replicas=(),
    staged=(WEIGHTS, CACHES),
)


def status(model: ModelStatus | None) -> Any:
    models = {} if model is None else {"m": model}
    return json.loads(json.dumps(dataclasses.asdict(Status("0.1.0", 7, 1.0, 2.0, models))))


def at(weights: StagedStatus, **model: Any) -> Any:
    return status(dataclasses.replace(MODEL, staged=(weights, CACHES), **model))


def test_progress_tells_speed_and_what_is_left_and_ends_when_staged() -> None:
    watch = Watch()
    watch.see(status(MODEL), "m", 0.0)
    on = dataclasses.replace(WEIGHTS, done=2 * GB)
    seen = watch.see(at(on), "m", 1.0)
    assert bar_lines(seen.bars) == [
        "weights: 1.9 of 9.3 GiB, 2.00 GB/s, 4 s left",
        "compile cache: nothing to stage",
    ]
    assert seen.verdict is None
    paused = dataclasses.replace(on, paused="memory is short")
    [line, _] = bar_lines(watch.see(at(paused), "m", 1.5).bars)
    assert line == "weights: 1.9 of 9.3 GiB, 0 % resident, paused: memory is short"
    there = dataclasses.replace(on, done=10 * GB, resident=10 * GB, busy=False, held=True)
    seen = watch.see(at(there, rung=Rung.STAGED), "m", 5.0)
    assert (seen.verdict, seen.note) == (0, "m is staged")
    assert bar_lines(seen.bars)[0] == "weights: 9.3 of 9.3 GiB, 100 % resident, held"


def test_what_starts_anew_has_no_negative_speed() -> None:
    watch = Watch()
    watch.see(at(dataclasses.replace(WEIGHTS, done=9 * GB)), "m", 0.0)
    [line, _] = bar_lines(watch.see(at(WEIGHTS), "m", 1.0).bars)
    assert line == "weights: 0.0 of 9.3 GiB"


def test_it_gives_up_only_where_nothing_moves_any_more() -> None:
    watch = Watch()
    why = "the weights (9.3 GiB) are larger than ram.staging"
    waits = at(dataclasses.replace(WEIGHTS, busy=False, problem=why))
    other = waits | {"models": waits["models"] | {"n": status(MODEL)["models"]["m"]}}
    assert watch.see(other, "m", 0.0).verdict is None
    assert watch.see(other, "m", 60.0).note == why, "another model is being staged meanwhile"
    assert watch.see(waits, "m", 61.0).verdict is None
    seen = watch.see(waits, "m", 67.0)
    assert (seen.verdict, seen.note) == (1, f"m can't be staged: {why}")


def test_it_ends_where_there_is_nothing_to_wait_for() -> None:
    ends = [
        (at(WEIGHTS, target=Rung.COLD), 1, "m shall be cold: an operator set it to staged"),
        (at(WEIGHTS, rung=Rung.HOT), 0, "m is hot: its engine has loaded its files"),
        (status(None), 1, "m is no longer in the config"),
    ]
    for seen, verdict, note in ends:
        found = Watch().see(seen, "m", 0.0)
        assert (found.verdict, found.note) == (verdict, note)


class Models:
    def __init__(self, **facts: Any) -> None:
        self.model = dataclasses.replace(MODEL, **facts)
        self.kept: list[tuple[str, float | None]] = []
        self.tried: list[str] = []

    def snapshot(self) -> Status:
        return Status("0.1.0", 7, 1.0, 2.0, {"m": self.model})

    def keep_staged(self, model: str, for_s: float | None) -> str:
        self.kept.append((model, for_s))
        return "m is to be at least staged for 2 h"

    def try_files_again(self, model: str) -> None:
        self.tried.append(model)

    async def settle(self) -> None:
        pass


def test_only_what_would_be_cold_is_kept_staged() -> None:
    cold = Models(target=Rung.COLD)
    assert stage(cold, "m", 7200.0) == ("m is to be at least staged for 2 h", True)
    assert cold.kept == [("m", 7200.0)]
    rising = Models(target=Rung.HOT)
    assert stage(rising, "m", None)[1]
    assert rising.tried == ["m"], "what went wrong may be mended by now"
    waits = Models(rung=Rung.COLD, target=Rung.STAGED)
    assert stage(waits, "m", None)[1]
    assert waits.kept == [("m", None)], "it goes before what merely rests"
    awake = Models(rung=Rung.ASLEEP, target=Rung.COLD)
    assert stage(awake, "m", None)[0].startswith("m is asleep: its engine has loaded its files")
    assert not stage(awake, "m", None)[1]
    assert [rising.kept, awake.kept] == [[], []]
