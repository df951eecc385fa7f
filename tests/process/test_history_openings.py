"""When calendars wanted models ready, as the history keeps it over restarts and versions."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from warmd.history import History, KeptOpening, read_past
from warmd.history.openings import NotKept
from warmd.history.schema import MIGRATIONS
from warmd.ladder import Rung

NOON = 1_800_000_000.0
DAY = 86400.0
KEPT = KeptOpening(NOON, NOON + 3600, "window 09:00-10:00", 1, 0.0)
MISSED = KeptOpening(
    *(NOON + 60, math.inf, 'cron entry "0 9 * * *"', 2, None, "held-up", "pool p is full")
)


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def begin(path: Path, clock: Clock) -> Callable[[], History]:
    return lambda: History(path, pytest.fail, clock, keep=90 * DAY)


def test_what_was_missed_is_known_to_the_next_life_and_ready_once(
    begin: Callable[[], History],
) -> None:
    with closing(begin()) as history:
        history.openings.record("m", KEPT)
        history.openings.record("m", MISSED)
        history.openings.record("m", KeptOpening(NOON, NOON, "another", 9, None, "away", "x"))
    with closing(begin()) as history:
        assert history.openings.last("m") == [KEPT, MISSED]
        history.openings.record_hindrance("m", MISSED.at, "failing", "out of memory")
        kept = history.openings.last("m")
        assert kept == [KEPT, replace(MISSED, hindrance="failing", reason="out of memory")]
        for late in (420.0, 999.0):
            history.openings.record_ready("m", MISSED.at, late)
        assert history.openings.last("m")[1].late == 420.0
        assert history.openings.last("n") == []


def test_a_report_has_them_with_the_starts_that_failed(
    begin: Callable[[], History], path: Path
) -> None:
    with closing(begin()) as history:
        history.openings.record("m", KEPT)
        for n, why in enumerate(("no such file", "out of memory")):
            history.record_failure("n", "n.0", Rung.COLD, reason=why, seconds=2.0, at=NOON + n)
        history.settle()
        asked, failed = read_past(path, None, NOON - 1)
    assert (asked.openings, asked.failed) == ([KEPT], None)
    assert failed.failed is not None
    assert (failed.failed.count, failed.failed.last, failed.failed.reason) == (
        *(2, NOON + 1),
        "out of memory",
    )
    (later,) = read_past(path, ["m"], NOON + 1)
    assert (later.openings, later.failed) == ([], None)


def test_since_when_a_calendar_is_in_force_is_known_to_the_next_life(
    begin: Callable[[], History],
) -> None:
    with closing(begin()) as history:
        assert history.openings.calendar("m") is None
        history.openings.record_calendar("m", "one", NOON)
        history.openings.record_calendar("m", "two", NOON + 1)
        history.openings.record_calendar("n", "one", NOON)
        history.openings.record_calendar("n", "", NOON + 1)
    with closing(begin()) as history:
        assert history.openings.calendar("m") == ("two", NOON + 1)
        assert history.openings.calendar("n") is None


def test_they_age_with_the_rest(begin: Callable[[], History], clock: Clock) -> None:
    with closing(begin()) as history:
        history.openings.record("m", KEPT)
        clock.now = NOON + 91 * DAY
        history.tick()
        history.settle()
        assert history.openings.last("m") == []


def test_a_file_of_version_7_is_gone_on_with(begin: Callable[[], History], path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in (s for statements in MIGRATIONS[:7] for s in statements):
            db.execute(statement)
        db.execute("INSERT INTO overrides VALUES ('m', 'hot', NULL, 1, 0, 2)")
        db.execute("PRAGMA user_version = 7")
    with closing(begin()) as history:
        assert history.overrides.read()["m"].replicas == 2
        assert history.openings.last("m") == []
        history.openings.record("m", KEPT)
        assert history.openings.last("m") == [KEPT]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def test_the_history_shows_what_was_not_kept(begin: Callable[[], History]) -> None:
    with closing(begin()) as history:
        history.openings.record("m", KEPT)
        history.openings.record("m", MISSED)
        late = KeptOpening(NOON + 90, NOON + 3600, "window 09:01-10:00", 1, None, "away", "why")
        history.openings.record("m", late)
        history.openings.record_ready("m", late.at, 96.0)
        found = history.report("m", NOON - 1).models["m"].not_kept
        assert found == [
            NotKept(late.at, late.name, 96.0, "why"),
            NotKept(MISSED.at, MISSED.name, None, "pool p is full"),
        ]
        assert history.report("m", NOON + 91).models["m"].not_kept == []
