"""What earlier starts told of their memory: how it is kept, and read without a daemon too."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import fields
from pathlib import Path

from warmd.ladder import MeasuredParts

SIZES = [field.name for field in fields(MeasuredParts)]
_BUSY_TIMEOUT_S = 2.0
_OF_ONE_START = ("kv_tokens", "held")  # beside another start's kv_cache they would mean nothing


def _kept(name: str) -> str:
    """What stands in a column of sizes after a start: what it told, else what was told before."""
    if name in _OF_ONE_START:
        return f"CASE WHEN excluded.kv_cache IS NULL THEN {name} ELSE excluded.{name} END"
    return f"coalesce(excluded.{name}, {name})"


KEEP_SIZES = (
    f"INSERT INTO sizes (key, at, model, {', '.join(SIZES)})"  # noqa: S608
    f" VALUES (?, ?, ?{', ?' * len(SIZES)}) ON CONFLICT (key, version) DO UPDATE SET"
    " at = excluded.at, model = excluded.model, "
    + ", ".join(f"{name} = {_kept(name)}" for name in SIZES[1:])
)

READ_SIZES = f"SELECT key, {', '.join(SIZES)} FROM sizes WHERE model = ? ORDER BY at"  # noqa: S608


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
