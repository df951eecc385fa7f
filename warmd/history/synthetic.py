"""What warmd itself has asked of engines, apart from users' requests: keep-alives and probes.

Field names here are the stable JSON of `warmctl history --json` and `warmctl probe --json`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from warmd.history.writer import Writer, storable

_SHOWN = 10
_LONGEST_REASON = 500


@dataclass(frozen=True)
class SyntheticCounts:
    """Requests of one kind (`keepalive` or `warmup`); `first_token_max` in seconds."""

    answered: int
    failed: int
    first_token_mean: float | None
    first_token_max: float | None
    last: float  # Unix seconds
    last_failure: str | None


@dataclass(frozen=True)
class Probed:
    """One measurement of a first request; times in seconds.

    `source`: `probe`, `nightly`, `auto`, or `traffic` where users' requests showed it; `next`:
    seconds to the first token and in all, of the requests that followed; `came_up_s`: what the
    start or wake before it took, by `stages`; `restarts`: how often users interrupted.
    """

    at: float
    replica: str
    source: str
    idle_s: float
    met: str
    first_token_s: float
    first_total_s: float
    next: Sequence[Sequence[float]]
    came_up_s: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)
    restarts: int = 0


class SyntheticLog:
    """Writes and reads it. What writes returns at once; what reads waits for the disk."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def record(
        self,
        model: str,
        replica: str,
        kind: str,
        *,
        at: float,
        idle_s: float,
        seconds: float,
        first_token_s: float | None,
        reason: str | None,
    ) -> None:
        """A request of `kind` was answered, or failed for `reason`, at `at` (Unix seconds)."""
        outcome = "answered" if reason is None else "failed"
        said = None if reason is None else storable(reason[:_LONGEST_REASON])
        self._writer.save(
            "INSERT INTO synthetic (at, model, replica, kind, outcome, idle, first_token, seconds,"
            " reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (at, model, replica, kind, outcome, idle_s, first_token_s, seconds, said),
        )

    def keep(self, model: str, key: str, probed: Probed) -> None:
        """Keep a measurement; `key` names the engine's configuration."""
        self._writer.save(
            "INSERT INTO probes (at, model, replica, key, source, idle, met, came_up, stages,"
            " first_token, first_total, next, restarts) VALUES"
            " (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(probed.at, model, probed.replica, key, probed.source, probed.idle_s, probed.met),
                *(probed.came_up_s, json.dumps(dict(probed.stages)), probed.first_token_s),
                *(probed.first_total_s, json.dumps([list(each) for each in probed.next])),
                probed.restarts,
            ),
        )

    def probed(self, model: str, key: str, since: float) -> list[Probed]:
        """What was measured of `model` in the configuration `key` since `since`, oldest first."""
        rows = self._writer.read(
            f"SELECT {_COLUMNS} FROM probes"  # noqa: S608
            " WHERE model = ? AND key = ? AND at >= ? ORDER BY id",
            (model, key, since),
        )
        return [_probed(row) for row in rows]

    def last_nightly(self) -> dict[str, float]:
        """When each model was last probed at night, in Unix seconds."""
        rows = self._writer.read(
            "SELECT model, max(at) FROM probes WHERE source = 'nightly' GROUP BY model"
        )
        return dict(rows)


_COLUMNS = (
    "at, replica, source, idle, met, first_token, first_total, next, came_up, stages, restarts"
)


def _probed(row: Sequence[Any]) -> Probed:
    following, came_up, stages, restarts = row[7:]
    at, replica, source, idle_s, met, first_token_s, first_total_s = row[:7]
    return Probed(
        at=at,
        replica=replica,
        source=source,
        idle_s=idle_s,
        met=met,
        first_token_s=first_token_s,
        first_total_s=first_total_s,
        next=json.loads(following),
        came_up_s=came_up,
        stages=json.loads(stages),
        restarts=restarts,
    )


def read_counts(
    db: sqlite3.Connection, model: str | None, since: float
) -> Iterator[tuple[str, str, SyntheticCounts]]:
    """Yield model, kind and counts since `since` (Unix seconds)."""
    for row in db.execute(
        "SELECT model, kind, sum(outcome = 'answered'), sum(outcome = 'failed'),"
        " avg(first_token), max(first_token), max(at),"
        " (SELECT reason FROM synthetic AS f WHERE f.model = s.model AND f.kind = s.kind"
        " AND f.outcome = 'failed' AND f.at >= :since ORDER BY f.at DESC LIMIT 1)"
        " FROM synthetic AS s WHERE at >= :since AND (:model IS NULL OR model = :model)"
        " GROUP BY model, kind",
        {"model": model, "since": since},
    ):
        yield row[0], row[1], SyntheticCounts(*row[2:])


def read_probes(
    db: sqlite3.Connection, model: str | None, since: float
) -> Iterator[tuple[str, Probed]]:
    """Yield the last measurements of each model since `since`, newest first."""
    shown: dict[str, int] = {}
    for row in db.execute(
        f"SELECT model, {_COLUMNS} FROM probes"  # noqa: S608
        " WHERE at >= :since AND (:model IS NULL OR model = :model) ORDER BY id DESC",
        {"model": model, "since": since},
    ):
        shown[row[0]] = shown.get(row[0], 0) + 1
        if shown[row[0]] <= _SHOWN:
            yield row[0], _probed(tuple(row)[1:])
