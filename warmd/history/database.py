"""The history's SQLite file: how it is opened, migrated, and moved aside when damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from warmd.history.schema import MIGRATIONS

_BUSY_TIMEOUT_S = 2.0


class UnusableFileError(sqlite3.DatabaseError):
    """The file is a database that can't be gone on with; `suffix` names the copy set aside."""

    def __init__(self, why: str, suffix: str) -> None:
        super().__init__(why)
        self.suffix = suffix


def must_be_replaced(error: Exception) -> bool:
    """Whether the file itself is at fault, not the disk or the rights to it."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    return isinstance(error, UnusableFileError) or code in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )


def open_database(path: Path, now: float, report: Callable[[str], None]) -> sqlite3.Connection:
    """Open the history at `path`, making it where there is none and replacing it where damaged.

    `now` is Unix seconds. The connection belongs to the calling thread. Raises
    `sqlite3.OperationalError` or `OSError` where the disk or the rights to it are at fault.
    """
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    try:
        return _open(path)
    except sqlite3.DatabaseError as error:
        if not must_be_replaced(error):
            raise
        report(move_aside(path, now, error))
        return _open(path)


def move_aside(path: Path, now: float, error: Exception) -> str:
    """Rename the database and its WAL; return a sentence that says so. Raises `OSError`."""
    suffix = error.suffix if isinstance(error, UnusableFileError) else "corrupt"
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = path.with_name(f"{path.name}.{suffix}-{stamp}")
    for part in ("", "-wal", "-shm"):
        file = path.with_name(path.name + part)
        if file.exists():
            file.rename(aside.with_name(aside.name + part))
    return (
        f"the history {path} can't be used ({error}): it was moved to {aside.name} and a new one "
        "begun, so past starts and overrides are forgotten"
    )


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise UnusableFileError(verdict, "corrupt")
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise UnusableFileError(f"a newer warmd wrote it, schema {version}", f"schema{version}")
    if version == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")
