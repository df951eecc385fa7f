"""A report over 90 days of 64 busy models, beside a writer that must not wait for it."""

from __future__ import annotations

import random
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import quantiles
from threading import Event, Thread

from report import Table

from warmd.history import History
from warmd.ladder import Rung, Standing
from warmd.reckoning import account

MODELS, DAYS = 64, 90
_AIM_S = 5.0
_END = 1_790_000_000
_MINUTE = "INSERT INTO requests (model, minute, {}) VALUES (?, ?{})"
_COUNTS = (
    *("requests", "failed", "met_hot", "met_asleep", "met_staged", "met_cold", "first_delays"),
    *("slow", "first_delay_sum", "first_delay_max", "first_bytes", "ttfb_sum", "ttfb_max"),
)


def run(seconds: float) -> Sequence[Table]:
    """Write such a history, then report on it again and again for `seconds`."""
    with tempfile.TemporaryDirectory(prefix="warmd-bench-") as folder:
        path = Path(folder) / "history.db"
        with closing(History(path, print, clock=lambda: _END)) as history:
            history.overrides.read()
            rows = _fill(path)
            taken = _reports(history, seconds)
            waited = _beside(history)
    middle = quantiles(taken, n=2)[0] if len(taken) > 1 else taken[0]
    table = {
        f"all models, {DAYS} days, s": (middle, max(taken), _AIM_S),
        "a row written meanwhile, s": (waited[len(waited) // 2], waited[-1], 1.0),
    }
    title = f"past: warmctl report on {MODELS} models"
    note = f"{rows:,} rows of requests by the minute; the daemon's share, without JSON and socket"
    return [Table(title, ("p50", "max", "aim (max)"), table, (note,))]


def _fill(path: Path) -> int:
    """Ten hours of requests in each minute of each workday, a rung for each hour, waits."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        for n in range(MODELS):
            model = f"model-{n:02}"
            db.execute("BEGIN")
            marks = ", ?" * len(_COUNTS)
            db.executemany(_MINUTE.format(", ".join(_COUNTS), marks), _minutes(model))
            db.executemany(
                "INSERT INTO occupancy VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (model, _END // 3600 - h, rung, cause, 1800.0, 1800.0, 3600.0)
                    for h in range(DAYS * 24)
                    for rung, cause in (("hot", "demand"), ("hot", "calendar"))
                ),
            )
            db.executemany(
                "INSERT INTO first_delays (model, at, met, seconds, vain) VALUES (?, ?, ?, ?, 0)",
                _waits(model),
            )
            db.execute("COMMIT")
        (rows,) = db.execute("SELECT count(*) FROM requests").fetchone()
    return int(rows)


def _minutes(model: str) -> Iterator[tuple[object, ...]]:
    for day in range(DAYS):
        if day % 7 > 4:
            continue
        first = (_END - day * 86400) // 60
        for minute in range(600):
            yield (model, first - minute, 20, 0, 20, 0, 0, 0, 1, 0, 0.2, 0.2, 19, 4.0, 1.0)


def _waits(model: str) -> Iterator[tuple[object, ...]]:
    chance = random.Random(model)  # noqa: S311  no secret is made of it
    for n in range(DAYS * 50):
        yield (model, _END - n * 1700.0, chance.choice(("hot", "staged")), chance.uniform(0.1, 60))


def _reports(history: History, seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.monotonic() + seconds
    while not taken or time.monotonic() < end:
        taken.append(_report(history))
    return taken


def _report(history: History) -> float:
    began = time.monotonic()
    since = _END - DAYS * 86400.0
    told = account(history.past(None, since), {}, "Europe/Berlin", since, _END)
    if len(told.models) != MODELS:
        raise AssertionError(f"the report is of {len(told.models)} models")
    return time.monotonic() - began


def _beside(history: History) -> list[float]:
    """How long a row takes to be written while somebody reads."""
    done, waited = Event(), []

    def read() -> None:
        _report(history)
        done.set()

    Thread(target=read, name="report").start()
    hot = [Standing("model-00", Rung.HOT, "demand", 1, 2, highest=True)]
    while not done.is_set():
        began = time.monotonic()
        history.count_hours(hot, 1.0, _END)
        history.catch_up()
        history.settle()
        waited.append(time.monotonic() - began)
        done.wait(0.02)
    return sorted(waited)
