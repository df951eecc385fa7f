"""When calendars wanted models ready, and whether they were."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from warmd.history.writer import Writer, storable

_LONGEST_REASON = 500
_KNOWN = 16


@dataclass(frozen=True)
class KeptOpening:
    """At `at` a calendar wanted `replicas` ready, until `until` (Unix seconds; infinite: no end).

    `name`: its entry. `late`: seconds, 0 where they were ready by then, None where they never were,
    or aren't yet. `hindrance`, `reason`: what kept them from it, None where nothing did.
    """

    at: float
    until: float
    name: str
    replicas: int
    late: float | None = None
    hindrance: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class NotKept:
    """An opening whose model wasn't ready `at` then (Unix seconds): `late` as in `KeptOpening`."""

    at: float
    name: str
    late: float | None
    reason: str | None


def read_not_kept(
    db: sqlite3.Connection, model: str | None, since: float
) -> Iterator[tuple[str, NotKept]]:
    """Yield the last openings of each model since `since` that weren't kept, newest first."""
    shown: dict[str, int] = {}
    for name, *row in db.execute(
        "SELECT model, at, name, late, reason FROM openings"
        " WHERE at >= :since AND (:model IS NULL OR model = :model)"
        " AND (late IS NULL OR late > 0) ORDER BY at DESC",
        {"model": model, "since": since},
    ):
        shown[name] = shown.get(name, 0) + 1
        if shown[name] <= _KNOWN:
            yield name, NotKept(*row)


def opening(row: Sequence[Any]) -> KeptOpening:
    """Return what a row of `OPENING_COLUMNS` says."""
    at, until, *rest = row
    return KeptOpening(at, math.inf if until is None else until, *rest)


OPENING_COLUMNS = "at, until, name, replicas, late, hindrance, reason"


class OpeningLog:
    """Writes and reads it. What writes returns at once; `last` and `calendar` wait for the disk."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def record(self, model: str, kept: KeptOpening) -> None:
        """Keep an opening of `model`; one of the same moment stays as it is."""
        reason = None if kept.reason is None else storable(kept.reason[:_LONGEST_REASON])
        self._writer.save(
            f"INSERT OR IGNORE INTO openings (model, {OPENING_COLUMNS})"  # noqa: S608
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(model, kept.at, None if math.isinf(kept.until) else kept.until, kept.name),
                *(kept.replicas, kept.late, kept.hindrance, reason),
            ),
        )

    def record_hindrance(self, model: str, at: float, hindrance: str, reason: str) -> None:
        """What opened `at` isn't ready yet for another reason than was kept."""
        self._writer.save(
            "UPDATE openings SET hindrance = ?, reason = ?"
            " WHERE model = ? AND at = ? AND late IS NULL",
            (hindrance, storable(reason[:_LONGEST_REASON]), model, at),
        )

    def record_ready(self, model: str, at: float, late: float) -> None:
        """What opened `at` is ready, `late` seconds after that."""
        self._writer.save(
            "UPDATE openings SET late = ? WHERE model = ? AND at = ? AND late IS NULL",
            (late, model, at),
        )

    def record_calendar(self, model: str, mark: str, since: float) -> None:
        """Another calendar of `model` is in force since then; an empty `mark`: none is."""
        if not mark:
            self._writer.save("DELETE FROM calendars WHERE model = ?", (model,))
            return
        self._writer.save(
            "INSERT OR REPLACE INTO calendars (model, mark, since) VALUES (?, ?, ?)",
            (model, mark, since),
        )

    def calendar(self, model: str) -> tuple[str, float] | None:
        """What was recorded of the calendar of `model` last; None where none is in force."""
        rows = self._writer.read("SELECT mark, since FROM calendars WHERE model = ?", (model,))
        for mark, since in rows:
            return str(mark), float(since)
        return None

    def last(self, model: str) -> list[KeptOpening]:
        """The last openings of `model`, oldest first."""
        rows = self._writer.read(
            f"SELECT {OPENING_COLUMNS} FROM openings WHERE model = ?"  # noqa: S608
            " ORDER BY at DESC LIMIT ?",
            (model, _KNOWN),
        )
        return [opening(row) for row in reversed(rows)]
