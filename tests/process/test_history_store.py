from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from warmd.history import History, StoredOverride, read_rises
from warmd.history.writer import BACKLOG
from warmd.ladder import Rung, Stage, StartTimes, WakeTimes
from warmd.wiring import known_of

DAY = 86400.0
NOW = 1_750_000_000.0


class Reports(list[str]):
    def __call__(self, sentence: str) -> None:
        self.append(sentence)


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


def decide(history: History, reason: str, at: float = NOW) -> None:
    history.record_decision(
        at, "tiny", "tiny.0", from_rung=Rung.STAGED, to_rung=Rung.HOT, reason=reason, seconds=2.5
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.db"


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def begin(path: Path, reports: Reports) -> Callable[[], History]:
    return lambda: History(path, reports, clock=lambda: NOW)


def test_what_is_recorded_outlives_the_daemon(
    begin: Callable[[], History], path: Path, reports: Reports
) -> None:
    with closing(begin()) as history:
        for n in range(3):
            times = StartTimes({Stage.IMPORTS: 8.0, Stage.WEIGHTS: float(n)})
            history.record_start("tiny", "tiny.0", Rung.STAGED, times, NOW + n)
        history.record_failure(
            "tiny", "tiny.0", Rung.COLD, reason="bad \udcff byte", seconds=3.0, at=NOW
        )
        history.record_start("big", "big.0", Rung.COLD, StartTimes({}), NOW)
        decide(history, "1 request waits")
        history.overrides.set("tiny", Rung.HOT, NOW + 60, NOW)
        history.overrides.set("big", Rung.COLD, None, NOW)
        history.overrides.set("tiny", Rung.STAGED, None, NOW + 1, floor=True)
        history.overrides.set("big", None, None, NOW + 1)
        history.overrides.set("many", Rung.HOT, NOW + 60, NOW, replicas=3)
    decide(history, "after the end")  # dropped, and no error
    with closing(begin()) as history:
        assert history.overrides.read() == {
            "tiny": StoredOverride(Rung.STAGED, None, NOW + 1, True),
            "many": StoredOverride(Rung.HOT, NOW + 60, NOW, replicas=3),
        }
        assert [start.total for start in history.recent_starts("tiny", limit=2)] == [10.0, 9.0]
        assert history.recent_starts("tiny")[2].stages == {Stage.IMPORTS: 8.0, Stage.WEIGHTS: 0.0}
        assert history.recent_starts("other") == []
    assert rows(path, "SELECT model, from_rung, to_rung, reason, seconds FROM decisions") == [
        ("tiny", "staged", "hot", "1 request waits", 2.5)
    ]
    assert rows(path, "SELECT reason FROM starts WHERE outcome = 'failed'") == [
        ("bad \\udcff byte",)
    ]
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]
    assert reports == []


def test_what_rises_took_is_known_by_the_rung_met_with_and_without_a_daemon(
    begin: Callable[[], History], path: Path
) -> None:
    with closing(begin()) as history:
        for n, rung in enumerate([Rung.COLD, Rung.STAGED] * 15):
            history.record_start("m", "m.0", rung, StartTimes({Stage.IMPORTS: float(n)}), NOW + n)
        history.record_failure("m", "m.0", Rung.COLD, reason="no", seconds=99.0, at=NOW)
        history.sleeps.record_wake("m", "m.0", WakeTimes(1.0, 2.0, 3.0), 1, NOW)
        history.settle()
        known = history.starts_by_rung("m")
    assert known == {
        Rung.COLD: [float(n) for n in range(10, 30, 2)],
        Rung.STAGED: [float(n) for n in range(11, 30, 2)],
    }
    rises = read_rises(path)["m"]
    assert (rises.starts, rises.wakes) == (known, [6.0])
    assert read_rises(path.with_name("none.db")) == {}


@pytest.mark.parametrize(
    ("spoil", "suffix"),
    [
        (lambda path: path.write_bytes(b"not a database at all" * 500), "corrupt"),
        (lambda path: rows(path, "PRAGMA user_version = 99"), "schema99"),
    ],
)
def test_an_unusable_file_is_moved_aside(
    spoil: Callable[[Path], object],
    suffix: str,
    begin: Callable[[], History],
    path: Path,
    reports: Reports,
) -> None:
    with closing(begin()) as history:
        history.overrides.set("tiny", Rung.HOT, None, NOW)
    spoil(path)
    with closing(begin()) as history:
        assert history.overrides.read() == {}
        decide(history, "goes on")
    assert rows(path, "SELECT reason FROM decisions") == [("goes on",)]
    (aside,) = path.parent.glob(f"history.db.{suffix}-*")
    assert len(reports) == 1
    assert aside.name in reports[0]


def test_damage_met_at_work_loses_no_new_entry(
    begin: Callable[[], History], path: Path, reports: Reports
) -> None:
    with closing(begin()) as history:
        for n in range(200):
            decide(history, f"{n} " + "x" * 500)
        history.overrides.read()  # everything before is written
        writer = history._writer
        db, writer._db = writer._db, None
        assert db is not None
        writer._thread.submit(db.close).result()
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        decide(history, "new")
        history.overrides.set("tiny", Rung.COLD, None, NOW)
        assert list(history.overrides.read()) == ["tiny"]
    assert rows(path, "SELECT reason FROM decisions") == [("new",)]
    assert len(reports) == 1
    assert len(list(path.parent.glob("history.db.corrupt-*"))) == 1


def test_a_full_disk_is_told_once_and_the_entries_come_later(
    begin: Callable[[], History], path: Path, reports: Reports
) -> None:
    with closing(begin()) as history:
        history.overrides.read()
        db = history._writer._db
        assert db is not None
        history._writer._thread.submit(db.execute, "PRAGMA max_page_count = 1").result()
        decide(history, "x" * 9000)  # SQLITE_FULL
        history._writer._thread.submit(lambda: None).result()
        assert "(database or disk is full): what happens" in (history.trouble or "")
        decide(history, "later")
        history.overrides.read()
        assert history.trouble is None
    assert [len(reason) for (reason,) in rows(path, "SELECT reason FROM decisions")] == [9000, 5]
    assert "full" in reports[0]
    assert reports[1:] == [f"the history is written to {path} again"]


def test_a_lost_folder_is_told_once_and_no_override_is_dropped(
    begin: Callable[[], History], path: Path, reports: Reports
) -> None:
    path.parent.write_text("a file where the folder should be")
    with closing(begin()) as history:
        history.overrides.set("tiny", Rung.COLD, None, NOW)
        history.overrides.set("tiny", Rung.HOT, None, NOW)
        for n in range(BACKLOG + 10):
            decide(history, str(n))
        assert history.recent_starts("tiny") == []
        said = Reports()
        assert known_of(history, ["tiny"], said)["tiny"].override is None
        assert said[0].startswith("what operators had set could not be read")
        assert len(reports) == 1
        path.parent.unlink()
        decide(history, "last")
        assert history.overrides.read() == {"tiny": StoredOverride(Rung.HOT, None, NOW)}
        known_of(history, ["tiny"], pytest.fail)
    assert rows(path, "SELECT count(*), max(reason = 'last') FROM decisions") == [(BACKLOG, 1)]
    assert reports[1:] == [f"the history is written to {path} again; 11 entries were lost"]
