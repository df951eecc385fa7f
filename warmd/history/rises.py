"""What starts and wakes took, for who reads the history without a daemon."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from warmd.ladder import Rung

_BUSY_TIMEOUT_S = 2.0
_KNOWN = 20
_RUNGS = frozenset(rung.value for rung in Rung)


@dataclass
class Rises:
    """Seconds of a model's last starts, by the rung that they met, and of its last wakes."""

    starts: dict[Rung, list[float]] = field(default_factory=dict)
    wakes: list[float] = field(default_factory=list)


def read_rises(path: Path) -> dict[str, Rises]:
    """Return what was measured, by model, oldest first; nothing where the file can't be read."""
    found: dict[str, Rises] = {}
    try:
        # mode=ro: a history is made by the daemon alone.
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, timeout=_BUSY_TIMEOUT_S, uri=True)) as db:
            for model, rung, seconds in _last(db, "starts", "from_rung", "ready"):
                if rung in _RUNGS:
                    starts = found.setdefault(model, Rises()).starts
                    starts.setdefault(Rung(rung), []).append(seconds)
            for model, _, seconds in _last(db, "wakes", "replica", "done"):
                found.setdefault(model, Rises()).wakes.append(seconds)
    except sqlite3.Error:
        return {}
    return found


def _last(
    db: sqlite3.Connection, table: str, column: str, outcome: str
) -> Iterator[tuple[str, str, float]]:
    yield from db.execute(
        f"SELECT model, {column}, seconds FROM (SELECT id, model, {column}, seconds,"  # noqa: S608
        f" row_number() OVER (PARTITION BY model ORDER BY id DESC) AS n FROM {table}"
        f" WHERE outcome = ?) WHERE n <= {_KNOWN} ORDER BY id",
        (outcome,),
    )
