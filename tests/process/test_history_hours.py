"""The history of where models stood and of each first delay, over real files."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from warmd.history import History
from warmd.history.delays import MOST_A_MINUTE
from warmd.history.schema import MIGRATIONS
from warmd.history.writer import BACKLOG
from warmd.ladder import Rung, Stage, Standing, StartTimes

DAY = 86400.0
NOON = 1_750_003_200.0  # the first second of an hour


class Clock:
    def __init__(self) -> None:
        self.now = NOON

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


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


HOT = Standing("m", Rung.HOT, "calendar", 2, 4, highest=True)
STAGED = Standing("m", Rung.STAGED, "calendar", 1, 0, highest=False)
OCCUPANCY = "SELECT rung, hour * 3600, seconds, replica_seconds, gpu_seconds FROM occupancy"


def wait(history: History, at: float, seconds: float | None = 41.0, **more: Any) -> None:
    asked: dict[str, Any] = {"status": 200, "met": Rung.STAGED, "is_first": True} | more
    history.count_request("m", first_byte_s=seconds, total_s=50.0, at=at, **asked)


def test_a_file_of_version_4_keeps_what_it_has(begin: Callable[[], History], path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in (s for statements in MIGRATIONS[:4] for s in statements):
            db.execute(statement)
        db.execute(
            "INSERT INTO requests VALUES ('m', ?, 7, 1, 5, 0, 2, 0, 2, 1, 50, 41, 5, 1, 1, 3, 90)",
            (int(NOON / 60),),
        )
        db.execute("INSERT INTO overrides VALUES ('m', 'hot', NULL, 1, 1)")
        db.execute("PRAGMA user_version = 4")
    with closing(begin()) as history:
        wait(history, NOON + 1, spared=Rung.ASLEEP)
        history.count_hours([HOT], 10.0, NOON + 10)
        history.catch_up()
        assert history.overrides.read()["m"].floor
        told = history.report("m", NOON).models["m"].requests
        assert told is not None
        assert (told.count, told.first_delays.max, told.first_delays.vain) == (8, 41.0, 3)
    spared = "SELECT requests, spared_asleep, spared_staged, spared_cold FROM requests"
    assert rows(path, spared) == [(8, 1, 0, 0)]
    assert rows(path, OCCUPANCY) == [("hot", NOON, 10.0, 20.0, 40.0)]


def test_hours_add_up_over_minutes_and_restarts(
    begin: Callable[[], History], path: Path, clock: Clock
) -> None:
    with closing(begin()) as history:
        history.tick()
        history.count_hours([HOT, STAGED], 30.0, NOON + 10)
        history.settle()
        assert rows(path, OCCUPANCY) == [], "no write for each look"
        clock.now = NOON + 60
        history.tick()
        history.settle()
        hot = [("hot", NOON - 3600, 20.0, 40.0, 80.0), ("hot", NOON, 10.0, 20.0, 40.0)]
        assert rows(path, f"{OCCUPANCY} WHERE rung = 'hot'") == hot
    with closing(begin()) as history:
        history.count_hours([HOT, STAGED], 5.0, NOON + 65)
    later = [hot[0], ("hot", NOON, 15.0, 30.0, 60.0)]
    assert rows(path, f"{OCCUPANCY} WHERE rung = 'hot'") == later
    staged = [("staged", NOON - 3600, 0.0, 20.0, 0.0), ("staged", NOON, 0.0, 15.0, 0.0)]
    assert rows(path, f"{OCCUPANCY} WHERE rung = 'staged'") == staged


def test_since_when_an_hour_is_known_outlives_restarts(
    begin: Callable[[], History], path: Path
) -> None:
    for until in (NOON + 70, NOON + 200):
        with closing(begin()) as history:
            history.count_hours([HOT], 10.0, until)
    assert rows(path, "SELECT seconds, since FROM occupancy") == [(20.0, NOON + 60)]


def test_each_first_delay_stands_apart_by_its_arrival(
    begin: Callable[[], History], path: Path
) -> None:
    with closing(begin()) as history:
        wait(history, NOON)
        wait(history, NOON + 100, None)  # in vain
        wait(history, NOON + 200, is_first=False)
    assert rows(path, "SELECT model, at, met, seconds, vain FROM first_delays") == [
        ("m", NOON - 50, "staged", 41.0, 0),
        ("m", NOON + 50, "staged", 50.0, 1),
    ]


def test_a_flood_of_first_delays_is_bounded_and_counted_all_the_same(
    begin: Callable[[], History], path: Path
) -> None:
    with closing(begin()) as history:
        for n in range(MOST_A_MINUTE + 100):
            wait(history, NOON + n / 100)
        wait(history, NOON + 60)
    assert rows(path, "SELECT count(*) FROM first_delays") == [(MOST_A_MINUTE + 1,)]
    assert rows(path, "SELECT first_delays FROM requests") == [(MOST_A_MINUTE + 100,), (1,)]


def test_hours_and_delays_age(begin: Callable[[], History], path: Path, clock: Clock) -> None:
    with closing(begin()) as history:
        for ago in (91 * DAY, DAY):
            history.count_hours([HOT], 10.0, NOON + 10 - ago)
            wait(history, NOON - ago)
        history.catch_up()
        history.tick()
    assert rows(path, OCCUPANCY) == [("hot", NOON - DAY, 10.0, 20.0, 40.0)]
    assert rows(path, "SELECT at FROM first_delays") == [(NOON - DAY - 50,)]


def test_a_disk_that_refuses_loses_no_hour_and_no_start_for_their_sake(
    path: Path, clock: Clock
) -> None:
    reports: list[str] = []
    path.mkdir()
    with closing(History(path, reports.append, clock)) as history:
        history.record_start("m", "m.0", Rung.COLD, StartTimes({Stage.IMPORTS: 9.0}), NOON)
        for n in range(BACKLOG + 100):
            clock.now = NOON + 60 * n
            history.count_hours([HOT, STAGED], 60.0, clock.now)
            if n < 3:
                wait(history, clock.now)
            history.tick()
        history.settle()
        assert "can't be kept" in (history.trouble or "")
        path.rmdir()
        for _ in range(2):
            clock.now += 60
            history.tick()
            history.settle()
        assert history.trouble is None
        assert [start.total for start in history.recent_starts("m")] == [9.0]
    whole = 60.0 * (BACKLOG + 100)
    assert rows(path, f"SELECT sum(seconds) FROM ({OCCUPANCY})") == [(whole,)]
    assert rows(path, "SELECT count(*) FROM first_delays") == [(3,)]
    assert len(reports) == 2
