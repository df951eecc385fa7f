"""What happened within a time, summed up from the history's file.

Field names here are the stable JSON of `warmctl history --json`: add, never rename. Times are Unix
seconds, durations seconds, sizes bytes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmd.history.minutes import SLOW_S
from warmd.history.openings import NotKept, read_not_kept
from warmd.history.synthetic import Probed, SyntheticCounts, read_counts, read_probes
from warmd.ladder import Rung

_DECISIONS_SHOWN = 20
_CAUSES_SHOWN = 10
_STARTS_SHOWN = 5
_BUSY_TIMEOUT_S = 2.0


class HistoryError(Exception):
    """The history can't be read. The text is one sentence."""


@dataclass(frozen=True)
class Durations:
    """Of several durations, how many, the median and the longest."""

    count: int
    p50: float
    max: float


@dataclass(frozen=True)
class Start:
    """One start that got ready: seconds by stage, and by kind what of its files was in RAM.

    `files` map to `warmd.ladder.FilesAtStart` as JSON; empty where nobody looked. `first_token_s`:
    from its warm-up request to the first token.
    """

    at: float
    replica: str
    from_rung: str
    seconds: float
    stages: dict[str, float]
    files: dict[str, dict[str, Any]]
    first_token_s: float | None = None


@dataclass(frozen=True)
class Sleeps:
    """Engines that fell asleep; `host_ram` and `device_kept` as they were last measured."""

    count: int
    p50: float
    max: float
    rehearsals: int
    host_ram: int | None
    device_kept: int | None


@dataclass(frozen=True)
class Failure:
    """What failed (`start`, `sleep` or `wake`) for one cause: how often, and when last."""

    what: str
    cause: str
    count: int
    last: float


@dataclass(frozen=True)
class FirstDelays:
    """Waits for the first byte by requests that met a model not in use; `slow` ones over 5 s.

    `vain`: such as waited and got none, which are in none of the other figures.
    """

    count: int
    slow: int
    mean: float | None
    max: float | None
    vain: int = 0
    vain_max: float | None = None


@dataclass(frozen=True)
class FirstBytes:
    """Waits for the first byte by all other requests."""

    count: int
    mean: float | None
    max: float | None


@dataclass(frozen=True)
class Requests:
    """Requests that ended; `failed` with status 500 or more; `met`: by the model's rung."""

    count: int
    failed: int
    met: dict[str, int]
    first_delays: FirstDelays
    others: FirstBytes
    last: float  # the minute in which the last one ended


@dataclass
class ModelReport:
    """What happened to one model; `starts` are those that got ready, by the rung they met."""

    starts: dict[str, Durations] = field(default_factory=dict)
    last_starts: list[Start] = field(default_factory=list)  # newest first
    sleeps: Sleeps | None = None
    wakes: Durations | None = None
    first_tokens_awake: Durations | None = None  # of the warm-ups of these wakes
    failures: list[Failure] = field(default_factory=list)
    requests: Requests | None = None
    synthetic: dict[str, SyntheticCounts] = field(default_factory=dict)  # warmd's own, by kind
    probes: list[Probed] = field(default_factory=list)  # newest first
    not_kept: list[NotKept] = field(default_factory=list)  # newest first


@dataclass(frozen=True)
class Moved:
    """A replica's change of rung, as `warmd.status.Decision`, with its model."""

    at: float
    model: str
    replica: str
    from_rung: str
    to_rung: str
    reason: str
    seconds: float | None


@dataclass(frozen=True)
class Report:
    """Models to which something happened from `since` until `time`; newest decisions first."""

    time: float
    since: float
    slow_s: float
    models: dict[str, ModelReport]
    decisions: list[Moved]


def read_report(path: Path, model: str | None, since: float, now: float) -> Report:
    """Sum up what happened to `model`, or to every one, since `since`. Raises `HistoryError`."""
    try:
        # mode=ro: a file that was moved aside a moment ago must not be made here.
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, timeout=_BUSY_TIMEOUT_S, uri=True)) as db:
            db.row_factory = sqlite3.Row
            db.execute("BEGIN")  # one moment for all that is read
            return _Reading(db, model, since).report(now)
    except sqlite3.Error as error:
        raise HistoryError(
            f"the history {path} can't be read ({error}): requests are served all the same, and a "
            "damaged file is set aside when warmd starts next"
        ) from error


class _Reading:
    def __init__(self, db: sqlite3.Connection, model: str | None, since: float) -> None:
        self._db = db
        self._model = model
        self._since = since
        self._models: dict[str, ModelReport] = {}

    def report(self, now: float) -> Report:
        if self._model is not None:
            self._of(self._model)
        self._starts()
        self._sleeps()
        self._wakes()
        self._failures()
        self._requests()
        for name, kind, counts in read_counts(self._db, self._model, self._since):
            self._of(name).synthetic[kind] = counts
        for name, probed in read_probes(self._db, self._model, self._since):
            self._of(name).probes.append(probed)
        for name, missed in read_not_kept(self._db, self._model, self._since):
            self._of(name).not_kept.append(missed)
        decisions = self._rows(
            "SELECT at, model, replica, from_rung, to_rung, reason, seconds FROM decisions"
            " WHERE at >= :since AND (:model IS NULL OR model = :model)"
            " ORDER BY at DESC, id DESC LIMIT :decisions"
        )
        moved = [Moved(*row) for row in decisions]
        for each in moved:
            self._of(each.model)
        return Report(
            time=now,
            since=self._since,
            slow_s=SLOW_S,
            models=dict(sorted(self._models.items())),
            decisions=moved,
        )

    def _rows(self, sql: str) -> Sequence[sqlite3.Row]:
        asked = {"model": self._model, "since": self._since, "decisions": _DECISIONS_SHOWN}
        return self._db.execute(sql, asked).fetchall()

    def _of(self, model: str) -> ModelReport:
        return self._models.setdefault(model, ModelReport())

    def _starts(self) -> None:
        took: dict[tuple[str, str], list[float]] = {}
        for model, *row in self._rows(
            "SELECT model, at, replica, from_rung, seconds, stages, files, first_token FROM starts"
            " WHERE outcome = 'ready' AND at >= :since AND (:model IS NULL OR model = :model)"
            " ORDER BY at DESC, id DESC"
        ):
            each = start(row)
            took.setdefault((model, each.from_rung), []).append(each.seconds)
            last = self._of(model).last_starts
            if len(last) < _STARTS_SHOWN:
                last.append(each)
        for (model, rung), seconds in took.items():
            self._of(model).starts[rung] = _durations(seconds)

    def _sleeps(self) -> None:
        slept: dict[str, list[sqlite3.Row]] = {}
        for row in self._rows(
            "SELECT model, seconds, rehearsal, host_ram, device_kept FROM sleeps"
            " WHERE outcome = 'done' AND at >= :since AND (:model IS NULL OR model = :model)"
            " ORDER BY at"
        ):
            slept.setdefault(row["model"], []).append(row)
        for model, rows in slept.items():
            took = _durations([row["seconds"] for row in rows])
            self._of(model).sleeps = Sleeps(
                took.count,
                took.p50,
                took.max,
                rehearsals=sum(row["rehearsal"] for row in rows),
                host_ram=_last([row["host_ram"] for row in rows]),
                device_kept=_last([row["device_kept"] for row in rows]),
            )

    def _wakes(self) -> None:
        took: dict[str, list[float]] = {}
        tokens: dict[str, list[float]] = {}
        for model, seconds, first_token in self._rows(
            "SELECT model, seconds, first_token FROM wakes WHERE outcome = 'done'"
            " AND at >= :since AND (:model IS NULL OR model = :model)"
        ):
            took.setdefault(model, []).append(seconds)
            if first_token is not None:
                tokens.setdefault(model, []).append(first_token)
        for model, seconds in took.items():
            self._of(model).wakes = _durations(seconds)
        for model, seconds in tokens.items():
            self._of(model).first_tokens_awake = _durations(seconds)

    def _failures(self) -> None:
        for what, model, reason, count, last in self._rows(
            "SELECT what, model, reason, count(*), max(at) FROM ("
            "SELECT 'start' AS what, model, reason, at FROM starts WHERE outcome = 'failed'"
            " UNION ALL SELECT 'sleep', model, reason, at FROM sleeps WHERE outcome = 'failed'"
            " UNION ALL SELECT 'wake', model, reason, at FROM wakes WHERE outcome = 'failed')"
            " WHERE at >= :since AND (:model IS NULL OR model = :model)"
            " GROUP BY what, model, reason ORDER BY max(at) DESC, reason"
        ):
            failures = self._of(model).failures
            if len(failures) < _CAUSES_SHOWN:
                failures.append(Failure(what, reason, count, last))

    def _requests(self) -> None:
        for row in self._rows(
            "SELECT model, sum(requests) AS requests, sum(failed) AS failed,"
            " sum(met_hot) AS hot, sum(met_asleep) AS asleep, sum(met_staged) AS staged,"
            " sum(met_cold) AS cold, sum(first_delays) AS first_delays, sum(slow) AS slow,"
            " sum(first_delay_sum) AS first_delay_sum, max(first_delay_max) AS first_delay_max,"
            " sum(first_bytes) AS first_bytes, sum(ttfb_sum) AS ttfb_sum,"
            " max(ttfb_max) AS ttfb_max, sum(vain) AS vain, max(vain_max) AS vain_max,"
            " max(minute) AS minute FROM requests"
            " WHERE model IN (SELECT model FROM models_asked) AND minute > :since / 60 - 1"
            " AND (:model IS NULL OR model = :model) GROUP BY model"
        ):
            delays, others = row["first_delays"], row["first_bytes"]
            self._of(row["model"]).requests = Requests(
                count=row["requests"],
                failed=row["failed"],
                met={rung.value: row[rung.value] for rung in Rung},
                first_delays=FirstDelays(
                    delays,
                    row["slow"],
                    row["first_delay_sum"] / delays if delays else None,
                    row["first_delay_max"] if delays else None,
                    row["vain"],
                    row["vain_max"] if row["vain"] else None,
                ),
                others=FirstBytes(
                    others,
                    row["ttfb_sum"] / others if others else None,
                    row["ttfb_max"] if others else None,
                ),
                last=60.0 * row["minute"],
            )


def start(row: Sequence[Any]) -> Start:
    """Make a start of its row: at, replica, from_rung, seconds, stages, files, first_token."""
    at, replica, from_rung, seconds, stages, files, first_token = row
    by_stage, in_ram = json.loads(stages), json.loads(files or "{}")
    return Start(at, replica, from_rung, seconds, by_stage, in_ram, first_token)


def _durations(seconds: list[float]) -> Durations:
    ranked = sorted(seconds)
    return Durations(len(ranked), ranked[(len(ranked) - 1) // 2], ranked[-1])


def _last(measured: list[int | None]) -> int | None:
    return next((value for value in reversed(measured) if value is not None), None)
