"""What earlier starts told of their memory, for who reads the history without a daemon."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import fields
from pathlib import Path

from warmd.ladder import MeasuredParts

SIZES = [field.name for field in fields(MeasuredParts)]
_BUSY_TIMEOUT_S = 2.0


def read_sizes(path: Path) -> dict[str, dict[str, MeasuredParts]]:
    """Return what was last measured, by model and key; nothing where the file can't be read."""
    try:
        # mode=ro: a history is made by the daemon alone.
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, timeout=_BUSY_TIMEOUT_S, uri=True)) as db:
            rows = db.execute(
                f"SELECT model, key, {', '.join(SIZES)} FROM sizes ORDER BY at"  # noqa: S608
            ).fetchall()
    except sqlite3.Error:
        return {}
    found: dict[str, dict[str, MeasuredParts]] = {}
    for model, key, *parts in rows:
        found.setdefault(model, {})[key] = MeasuredParts(*parts)
    return found
