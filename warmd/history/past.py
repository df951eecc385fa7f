"""What the history has of each model for a report over weeks: rows, summed no further than needed.

Times are Unix seconds, durations seconds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

from warmd.history.hours import HOUR_S
from warmd.history.openings import OPENING_COLUMNS, KeptOpening, opening
from warmd.history.report import HistoryError

_BUSY_TIMEOUT_S = 2.0
_STARTS_KNOWN = 20


class Occupied(NamedTuple):
    """How long a model stood on a rung within an hour (Unix seconds / 3600), and for what cause.

    `since`: when the first of these seconds began, None where an earlier version wrote them.
    """

    hour: int
    rung: str
    cause: str
    seconds: float
    replica_seconds: float
    gpu_seconds: float
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """All requests that ended.

    `first_bytes`, `ttfb_*`: of those that met the model in use; `first_delays`: all others that got
    a first byte; `vain`: and got none.
    """

    requests: int = 0
    met_hot: int = 0
    met_asleep: int = 0
    met_staged: int = 0
    met_cold: int = 0
    first_delays: int = 0
    first_bytes: int = 0
    ttfb_sum: float = 0.0
    ttfb_max: float = 0.0
    vain: int = 0
    spared_asleep: int = 0
    spared_staged: int = 0
    spared_cold: int = 0


class Waited(NamedTuple):
    """A first delay: when the request came, the rung it met; in `vain`: until it gave up."""

    at: float
    met: str
    seconds: float
    vain: bool


@dataclass(frozen=True, slots=True)
class Took:
    """A start from `rung`, or a wake, by stage."""

    rung: str
    seconds: float
    stages: dict[str, float]


@dataclass(frozen=True, slots=True)
class Failed:
    """Starts that failed: how many, when the last did (Unix seconds), and why that did."""

    count: int
    last: float
    reason: str


@dataclass(frozen=True)
class Past:
    """What is known of one model since a time.

    `use`: of each quarter of an hour with requests the first and the last Unix minute in which one
    ended; `known_starts`, `known_wakes`: the last ones ever, for where none is recent; `openings`:
    when its calendar wanted it ready.
    """

    model: str
    occupied: list[Occupied]
    asked: Asked
    use: list[tuple[int, int]]
    waited: list[Waited]
    starts: list[Took]
    wakes: list[Took]
    known_starts: list[Took]
    known_wakes: list[Took]
    openings: list[KeptOpening] = field(default_factory=list)
    failed: Failed | None = None


def read_past(path: Path, models: Collection[str] | None, since: float) -> Iterator[Past]:
    """Yield the past of `models`, or of each one of which there is any, one after the other.

    All of it as it was at one moment, through a connection of its own. Raises `HistoryError`.
    """
    try:
        # mode=ro: a file that was moved aside a moment ago must not be made here.
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, timeout=_BUSY_TIMEOUT_S, uri=True)) as db:
            db.execute("BEGIN")
            for model in sorted(_known(db) if models is None else set(models)):
                yield _past(db, model, since)
    except sqlite3.Error as error:
        raise HistoryError(
            f"the history {path} can't be read ({error}): requests are served all the same, and a "
            "damaged file is set aside when warmd starts next"
        ) from error


# One step through an index for each model, where DISTINCT would read every row.
_NAMES = """WITH RECURSIVE found (model) AS (
    SELECT min(model) FROM {table}
    UNION ALL
    SELECT (SELECT min(model) FROM {table} WHERE model > found.model)
    FROM found WHERE found.model IS NOT NULL
) SELECT model FROM found WHERE model IS NOT NULL"""

_ASKED = f"""SELECT {
    ", ".join(f"{'max' if n.name == 'ttfb_max' else 'sum'}({n.name})" for n in fields(Asked))
} FROM requests WHERE model = ? AND minute > ? / 60 - 1"""  # noqa: S608

_USE = """SELECT min(minute), max(minute) FROM requests WHERE model = ? AND minute > ? / 60 - 1
    GROUP BY minute / 15"""

_STARTS = "SELECT from_rung, seconds, stages FROM starts WHERE model = ? AND outcome = 'ready'"

_FAILED = """SELECT count(*), max(at), reason FROM starts
    WHERE model = ? AND outcome = 'failed' AND at >= ?"""  # of a lone max() SQLite takes its row

_OPENINGS = f"""SELECT {OPENING_COLUMNS} FROM openings
    WHERE model = ? AND at >= ? ORDER BY at"""  # noqa: S608

_WAKES = """SELECT seconds, engine, first_answer, canary FROM wakes
    WHERE model = ? AND outcome = 'done'"""


def _known(db: sqlite3.Connection) -> set[str]:
    tables = ("requests", "occupancy", "starts", "wakes", "openings")
    return {model for table in tables for (model,) in db.execute(_NAMES.format(table=table))}


def _past(db: sqlite3.Connection, model: str, since: float) -> Past:
    occupied = db.execute(
        "SELECT hour, rung, cause, seconds, replica_seconds, gpu_seconds, since FROM occupancy"
        " WHERE model = ? AND hour >= ?",
        (model, int(since // HOUR_S)),
    )
    waited = db.execute(
        "SELECT at, met, seconds, vain FROM first_delays WHERE model = ? AND at >= ? ORDER BY at",
        (model, since),
    )
    recent, last = " AND at >= ? ORDER BY at", " ORDER BY id DESC LIMIT ?"
    return Past(
        model,
        [Occupied(*row) for row in occupied],
        Asked(*(each or 0 for each in db.execute(_ASKED, (model, since)).fetchone())),
        db.execute(_USE, (model, since)).fetchall(),
        [Waited(*row) for row in waited],
        [_start(row) for row in db.execute(_STARTS + recent, (model, since))],
        [_wake(row) for row in db.execute(_WAKES + recent, (model, since))],
        [_start(row) for row in db.execute(_STARTS + last, (model, _STARTS_KNOWN))],
        [_wake(row) for row in db.execute(_WAKES + last, (model, _STARTS_KNOWN))],
        [opening(row) for row in db.execute(_OPENINGS, (model, since))],
        _failed(db.execute(_FAILED, (model, since)).fetchone()),
    )


def _failed(row: tuple[int, float | None, str | None]) -> Failed | None:
    number, last, reason = row
    return None if last is None else Failed(number, last, reason or "")


def _start(row: tuple[str, float, str]) -> Took:
    rung, seconds, stages = row
    return Took(rung, seconds, json.loads(stages))


def _wake(row: tuple[float, float | None, float | None, float | None]) -> Took:
    seconds, *parts = row
    names = ("engine", "first_answer", "canary")
    told = {name: part for name, part in zip(names, parts, strict=True) if part is not None}
    return Took("asleep", seconds, told)
