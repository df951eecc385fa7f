"""The history over days: an old file, sleeps and wakes, requests by the minute, what ages."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from warmd.history import History, HistoryError, StoredOverride
from warmd.history.past import read_past
from warmd.history.schema import MIGRATIONS
from warmd.ladder import MeasuredParts, Rung, SleepFigures, Stage, StartTimes, WakeTimes

DAY = 86400.0
NOON = 1_750_003_200.0  # the first second of a minute

# As the first release wrote it: these statements never change.
VERSION_1 = """
CREATE TABLE starts (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, model TEXT NOT NULL, replica TEXT NOT NULL,
    from_rung TEXT NOT NULL, outcome TEXT NOT NULL CHECK (outcome IN ('ready', 'failed')),
    seconds REAL NOT NULL, stages TEXT NOT NULL, reason TEXT
) STRICT;
CREATE INDEX starts_by_model ON starts (model, at);
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, model TEXT NOT NULL, replica TEXT,
    from_rung TEXT NOT NULL, to_rung TEXT NOT NULL, reason TEXT NOT NULL, seconds REAL
) STRICT;
CREATE INDEX decisions_by_time ON decisions (at);
CREATE INDEX decisions_by_model ON decisions (model, at);
CREATE TABLE overrides (
    model TEXT PRIMARY KEY, rung TEXT NOT NULL, until REAL, set_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO starts (at, model, replica, from_rung, outcome, seconds, stages)
    VALUES (1750000000, 'm', 'm.0', 'cold', 'ready', 9.5, '{"imports": 9.5}');
INSERT INTO decisions (at, model, replica, from_rung, to_rung, reason, seconds)
    VALUES (1750000000, 'm', 'm.0', 'cold', 'hot', '1 request waits', 9.5);
INSERT INTO overrides VALUES ('m', 'hot', NULL, 1750000000);
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""


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


def ask(history: History, at: float, model: str = "m", first: float | None = None) -> None:
    met = Rung.HOT if first is None else Rung.STAGED
    history.count_request(
        model,
        status=200,
        met=met,
        first_byte_s=0.25 if first is None else first,
        is_first=first is not None,
        total_s=1.0,
        at=at,
    )


def sleep(history: History, at: float, host_ram: int | None = None) -> None:
    history.sleeps.record(
        *("m", "m.0", 1),
        seconds=4.0,
        host_ram=host_ram,
        device_kept=None,
        cycle=1,
        rehearsal=host_ram is None,
        at=at,
    )


def decide(history: History, reason: str, at: float) -> None:
    history.record_decision(
        at, "m", "m.0", from_rung=Rung.STAGED, to_rung=Rung.HOT, reason=reason, seconds=2.5
    )


def test_a_file_of_version_1_is_gone_on_with(begin: Callable[[], History], path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_1)
    with closing(begin()) as history:
        assert history.overrides.read() == {"m": StoredOverride(Rung.HOT, None, 1_750_000_000)}
        assert history.recent_starts("m") == [StartTimes({Stage.IMPORTS: 9.5})]
        assert history.decisions("m")[0].reason == "1 request waits"
        history.sleeps.record_wake("m", "m.0", WakeTimes(0.5, 0.25, 0.25), 1, NOON)
        ask(history, NOON)
    assert rows(path, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    with closing(begin()) as history:
        assert history.sleeps.recent_wakes("m") == [1.0]
        assert history.last_requests() == {"m": NOON}


def test_a_file_of_version_4_is_gone_on_with(begin: Callable[[], History], path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statements in MIGRATIONS[:4]:
            for statement in statements:
                db.execute(statement)
        db.executescript(
            f"""PRAGMA user_version = 4;
            INSERT INTO overrides VALUES ('m', 'staged', NULL, {NOON}, 1);
            INSERT INTO starts VALUES
                (1, {NOON}, 'm', 'm.0', 'staged', 'ready', 9.5, '{{"imports": 9.5}}', NULL, NULL);
            INSERT INTO wakes VALUES (1, {NOON}, 'm', 'm.0', 'done', 1, 0.5, 0.25, 0.25, 1, NULL);
            INSERT INTO requests VALUES
                ('m', {NOON // 60}, 3, 0, 2, 1, 0, 0, 1, 0, 2.5, 2.5, 2, 0.4, 0.3, 0, 0);"""
        )
    with closing(begin()) as history:
        kept = history.overrides.read()["m"]
        assert (kept.rung, kept.floor, kept.replicas) == (Rung.STAGED, True, None)
        (start,) = history.last_starts("m")
        assert (start.seconds, start.first_token_s) == (9.5, None)
        assert history.sleeps.recent_wakes("m") == [1.0]
        ask(history, NOON)
        history.catch_up()
        history.settle()
        (past,) = read_past(path, None, NOON - 3600)
        assert (past.asked.requests, past.asked.met_hot, past.asked.spared_asleep) == (4, 3, 0)
    assert rows(path, "PRAGMA user_version") == [(len(MIGRATIONS),)]


def test_after_a_clock_was_set_back_the_last_ones_are_still_the_last(
    begin: Callable[[], History],
) -> None:
    with closing(begin()) as history:
        for n, at in enumerate((NOON, NOON - DAY)):
            times = StartTimes({Stage.IMPORTS: float(n)})
            history.record_start("m", "m.0", Rung.COLD, times, at)
            history.sleeps.record_wake("m", "m.0", WakeTimes(float(n), 0.0, 0.0), 1, at)
            decide(history, f"the {n + 1}.", at)
        assert history.recent_starts("m", limit=1) == [StartTimes({Stage.IMPORTS: 1.0})]
        assert history.sleeps.recent_wakes("m", limit=1) == [1.0]
        assert [each.reason for each in history.decisions("m")] == ["the 2.", "the 1."]


def test_wakes_and_sleep_figures_outlive_the_daemon(begin: Callable[[], History]) -> None:
    figures = SleepFigures(10.6, 1.1, 22 * 2**30, None)
    with closing(begin()) as history:
        assert history.sleeps.figures("m") == {}
        history.sleeps.keep_figures("m, vLLM 0.32, H100", "m", SleepFigures(1, 2, 3, 4), NOON)
        history.sleeps.keep_figures("m, vLLM 0.32, H100", "m", figures, NOON + 1)
        for n in range(3):
            history.sleeps.record_wake("m", "m.0", WakeTimes(float(n), 0.5, 0.25), n, NOON + n)
        history.sleeps.record_wake_failure(
            "m", "m.0", reason="the canary \udcff differs", seconds=9.0, cycle=4, at=NOON + 4
        )
    with closing(begin()) as history:
        assert history.sleeps.figures("m") == {"m, vLLM 0.32, H100": figures}
        assert history.sleeps.figures("other") == {}
        assert history.sleeps.recent_wakes("m", limit=2) == [2.75, 1.75]
        assert history.sleeps.recent_wakes("other") == []


def test_a_start_that_tells_less_forgets_nothing(begin: Callable[[], History]) -> None:
    """With a KV cache of fixed size vLLM measures no activations."""
    whole = MeasuredParts("0.32.0", 10, 20, 30, 40, 50, 60)
    with closing(begin()) as history:
        history.keep_sizes("H200 m", "m", whole, NOON)
        less = MeasuredParts("0.32.0", weights=11, kv_cache=21, kv_tokens=31, held=99)
        history.keep_sizes("H200 m", "m", less, NOON + 1)
        history.keep_sizes("H100 m", "m", MeasuredParts("0.32.0", weights=1), NOON)
    with closing(begin()) as history:
        assert history.sizes("m") == {
            "H200 m": MeasuredParts("0.32.0", 11, 21, 31, 40, 50, 60, 99),
            "H100 m": MeasuredParts("0.32.0", weights=1),
        }
        assert history.sizes("other") == {}
        history.keep_sizes("H200 m", "m", replace(less, kv_cache=5, held=None), NOON + 2)
        assert history.sizes("m")["H200 m"].held is None, "99 were held with another KV cache"
        newer = MeasuredParts("0.33.0", weights=12)
        history.keep_sizes("H200 m", "m", newer, NOON + 3)
        assert history.sizes("m")["H200 m"] == newer, "another vLLM takes what it takes"


def test_a_minute_is_written_when_it_is_over(
    begin: Callable[[], History], path: Path, clock: Clock
) -> None:
    stored = "SELECT minute * 60, requests FROM requests ORDER BY minute"
    with closing(begin()) as history:
        history.tick()
        ask(history, NOON)
        assert history.last_requests() == {"m": NOON}, "known at once"
        clock.now = NOON + 59
        history.tick()
        ask(history, clock.now)
        assert history.last_requests() == {"m": NOON}
        assert rows(path, stored) == [(NOON, 1)], "the rest in one go"
        clock.now = NOON + 60
        history.tick()
        assert history.last_requests() == {"m": NOON}
        assert rows(path, stored) == [(NOON, 2)]
        ask(history, clock.now)
    assert rows(path, stored) == [(NOON, 2), (NOON + 60, 1)]


def test_a_restart_and_a_clock_set_back_add_to_their_minute(
    begin: Callable[[], History], path: Path, clock: Clock
) -> None:
    with closing(begin()) as history:
        history.tick()
        ask(history, NOON, first=3.0)
        ask(history, NOON)
    with closing(begin()) as history:
        ask(history, NOON, first=41.0)
        history.catch_up()
        clock.now = NOON + 7200
        history.tick()
        ask(history, clock.now)
        clock.now = NOON + 1
        history.tick()
        ask(history, clock.now, first=2.0)
    assert rows(
        path,
        "SELECT minute * 60, requests, met_hot, met_staged, first_delays, slow, first_delay_sum,"
        " first_delay_max, first_bytes, ttfb_sum, ttfb_max FROM requests ORDER BY minute",
    ) == [
        (NOON, 4, 1, 3, 3, 1, 46.0, 41.0, 1, 0.25, 0.25),
        (NOON + 7200, 1, 1, 0, 0, 0, 0.0, 0.0, 1, 0.25, 0.25),
    ]


def test_the_last_requests_of_each_model(begin: Callable[[], History], clock: Clock) -> None:
    with closing(begin()) as history:
        assert history.last_requests() == {}
        for model in ("b", "a", "c.d"):
            for minute in range(3):
                ask(history, NOON - 60 * minute - (600 if model == "b" else 0), model)
        clock.now = NOON + 20
        history.catch_up()
        assert history.last_requests() == {"a": NOON, "b": NOON - 600, "c.d": NOON}


def test_what_is_old_goes_also_while_the_daemon_runs(
    begin: Callable[[], History], path: Path, clock: Clock
) -> None:
    with closing(begin()) as history:
        for at in (NOON - 91 * DAY, NOON - 89.5 * DAY, NOON):
            decide(history, str(at), at)
            sleep(history, at)
            ask(history, at)
        for n in range(25):
            old = NOON - 91 * DAY + n
            history.record_start("m", "m.0", Rung.COLD, StartTimes({Stage.IMPORTS: float(n)}), old)
            history.record_failure("m", "m.0", Rung.COLD, reason="", seconds=1.0, at=old)
            history.sleeps.record_wake("m", "m.0", WakeTimes(float(n), 0, 0), n, old)
        history.sleeps.keep_figures("k", "m", SleepFigures(1, 1, 1, 1), NOON - 91 * DAY)
        history.overrides.set("m", Rung.HOT, None, NOON - 91 * DAY)
        history.tick()
        assert [d.at for d in history.decisions("m")] == [NOON, NOON - 89.5 * DAY]
        assert rows(path, "SELECT count(*) FROM sleeps") == [(2,)]
        history.tick()  # hands over nothing, and it is no new day
        # The last starts and wakes stay, however old: estimates rest on them.
        assert [s.total for s in history.recent_starts("m")] == [24.0 - n for n in range(20)]
        assert rows(path, "SELECT count(*) FROM starts") == [(20,)]
        assert len(history.sleeps.recent_wakes("m", limit=100)) == 20
        assert history.sleeps.figures("k") is not None
        assert list(history.overrides.read()) == ["m"]
        clock.now = NOON + DAY
        history.tick()
        assert [d.at for d in history.decisions("m")] == [NOON]
        assert rows(path, "SELECT minute * 60 FROM requests") == [(NOON,)]


def test_a_clock_set_back_does_not_put_pruning_off(
    begin: Callable[[], History], clock: Clock
) -> None:
    with closing(begin()) as history:
        clock.now = NOON + 3000 * DAY
        history.tick()
        clock.now = NOON
        decide(history, "old", NOON - 91 * DAY)
        history.tick()
        assert history.decisions("m") == []


def test_a_full_disk_keeps_requests_for_later(path: Path, clock: Clock) -> None:
    reports: list[str] = []
    with closing(History(path, reports.append, clock)) as history:
        history.overrides.read()
        db = history._writer._db
        assert db is not None
        history._writer._thread.submit(db.execute, "PRAGMA max_page_count = 1").result()
        for n in range(600):  # more than the page has room for
            ask(history, NOON - 60 * n, model=f"{n % 7}" * 60)
        history.catch_up()
        history.tick()
    assert "full" in reports[0]
    assert rows(path, "SELECT count(*), sum(requests) FROM requests") == [(600, 600)]
    assert "again" in reports[-1]


def test_the_report_sums_up_what_happened_since(begin: Callable[[], History], clock: Clock) -> None:
    with closing(begin()) as history:
        for n, seconds in enumerate((30.0, 50.0, 41.0, 1000.0)):
            rung = Rung.COLD if n == 3 else Rung.STAGED
            times = StartTimes({Stage.IMPORTS: seconds})
            history.record_start("m", "m.0", rung, times, NOON + n)
        history.record_start("m", "m.0", Rung.STAGED, StartTimes({Stage.IMPORTS: 9.0}), NOON - 1)
        for reason in ("no memory", "no memory", "no file"):
            history.record_failure("m", "m.0", Rung.COLD, reason=reason, seconds=1.0, at=NOON)
        history.sleeps.record_failure(
            *("m", "m.0", 1), reason="hung", seconds=9.0, cycle=2, rehearsal=False, at=NOON + 2
        )
        sleep(history, NOON + 1, host_ram=7)
        sleep(history, NOON + 2)
        history.sleeps.record_wake("other", "other.0", WakeTimes(1.0, 0.5, 0.5), 1, NOON)
        for n in range(30):
            decide(history, str(n), NOON + n)
        ask(history, NOON - 60)  # its minute is over when the time begins
        ask(history, NOON)
        ask(history, NOON, first=6.0)
        history.catch_up()
        clock.now = NOON + 50
        report = history.report(None, NOON)
        assert history.report("other", NOON).models == {"other": report.models["other"]}
        quiet = history.report("quiet", NOON)
    assert (report.time, report.since, list(report.models)) == (NOON + 50, NOON, ["m", "other"])
    told = report.models["m"]
    staged, cold = told.starts["staged"], told.starts["cold"]
    assert (staged.count, staged.p50, staged.max) == (3, 41.0, 50.0)
    assert (cold.count, cold.p50, cold.max) == (1, 1000.0, 1000.0)
    assert [(f.what, f.cause, f.count, f.last) for f in told.failures] == [
        ("sleep", "hung", 1, NOON + 2),
        ("start", "no file", 1, NOON),
        ("start", "no memory", 2, NOON),
    ]
    assert told.sleeps is not None
    assert (told.sleeps.count, told.sleeps.rehearsals, told.sleeps.host_ram) == (2, 1, 7)
    assert told.wakes is None
    assert told.requests is not None
    assert (told.requests.count, told.requests.met["staged"], told.requests.last) == (2, 1, NOON)
    delays = told.requests.first_delays
    assert (delays.count, delays.slow, delays.mean, delays.max) == (1, 1, 6.0, 6.0)
    assert [each.reason for each in report.decisions] == [str(n) for n in range(29, 9, -1)]
    assert quiet.models["quiet"].requests is None
    assert quiet.decisions == []


def test_nobody_who_reads_makes_the_writer_wait(begin: Callable[[], History], path: Path) -> None:
    with closing(begin()) as history, closing(sqlite3.connect(path)) as reader:
        decide(history, "before", NOON)
        history.report(None, 0)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM decisions").fetchone()
        decide(history, "meanwhile", NOON)
        assert len(history.decisions("m")) == 2


def test_a_history_that_can_not_be_read_is_a_sentence(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    reports: list[str] = []
    path = tmp_path / "state" / "history.db"
    with (
        closing(History(path, reports.append, clock)) as history,
        pytest.raises(HistoryError, match=r"history\.db can't be read"),
    ):
        history.report(None, 0)
