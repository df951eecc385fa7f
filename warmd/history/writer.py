"""The one thread that writes the history; what the disk refuses waits in memory."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmd.history.database import move_aside, must_be_replaced, open_database

BACKLOG = 1000
"""Entries kept in memory while the disk refuses them."""

Value = str | int | float | None


def storable(text: str) -> str:
    """Make it UTF-8, as SQLite takes nothing else: an engine's words may hold what is none."""
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class _Entry:
    """A row to write; `override_of` names the model whose override it is."""

    sql: str
    values: tuple[Value, ...]
    override_of: str | None = None


class Writer:
    """Owns the connection that writes, on a thread of its own.

    A damaged file is moved aside and a new one begun. While the disk is full or may not be
    written to, entries wait in memory (the last 1000; an override is never dropped) and each new
    one is another try. Both are told to `report`, in a sentence, once. `report` is called from
    the writer's thread. `clock` returns Unix seconds.
    """

    def __init__(
        self, path: Path, report: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        self._path = path
        self._report = report
        self._clock = clock
        self._db: sqlite3.Connection | None = None
        self._unsaved: deque[_Entry] = deque()
        self._dropped = 0
        self._trouble: str | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._hand_over(self._flush)

    @property
    def trouble(self) -> str | None:
        """Why nothing can be kept at the moment, in one sentence; None where it can."""
        return self._trouble

    def save(self, sql: str, values: tuple[Value, ...], override_of: str | None = None) -> None:
        """Write a row, later; returns at once."""
        entry = _Entry(sql, values, override_of)
        self._hand_over(lambda: self._save(entry))

    def try_again(self) -> None:
        """Write what the disk has refused so far, where it can be now; returns at once."""
        self._hand_over(self._flush)

    def clear(self, statements: tuple[str, ...], values: dict[str, float]) -> None:
        """Delete rows, later; what the disk refuses is left for another day. Returns at once."""
        self._hand_over(lambda: self._clear(statements, values))

    def read(self, sql: str, values: tuple[Value, ...] = ()) -> list[tuple[Any, ...]]:
        """Return rows after everything before was written; none where the disk refuses."""
        return self.read_soon(sql, values).result()

    def read_soon(self, sql: str, values: tuple[Value, ...] = ()) -> Future[list[tuple[Any, ...]]]:
        """Return at once what will have those rows; none once this is closed."""

        def read() -> list[tuple[Any, ...]]:
            self._flush()
            if self._db is None:
                return []
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.DatabaseError as error:
                self._stumble(error)
                return []

        if self._closed:
            nothing: Future[list[tuple[Any, ...]]] = Future()
            nothing.set_result([])
            return nothing
        return self._thread.submit(read)

    def settle(self) -> None:
        """Wait until everything given so far is written, or refused."""
        if not self._closed:
            self._thread.submit(self._flush).result()

    def close(self) -> None:
        """Write what is left and end the thread. What is given afterwards is dropped."""
        if self._closed:
            return
        self._hand_over(self._finish)
        self._closed = True
        self._thread.shutdown(wait=True)

    def _hand_over(self, work: Callable[[], None]) -> None:
        if not self._closed:
            # Without a look at its result, a bug in the writer's thread would pass in silence.
            self._thread.submit(work).add_done_callback(_raise_bug)

    # From here on: the writer's thread.

    def _save(self, entry: _Entry) -> None:
        if entry.override_of is not None:
            superseded = [e for e in self._unsaved if e.override_of == entry.override_of]
            for old in superseded:
                self._unsaved.remove(old)
        self._unsaved.append(entry)
        self._flush()
        if len(self._unsaved) > BACKLOG:
            oldest = next((e for e in self._unsaved if e.override_of is None), None)
            if oldest is not None:
                self._unsaved.remove(oldest)
                self._dropped += 1

    def _clear(self, statements: tuple[str, ...], values: dict[str, float]) -> None:
        self._flush()
        if self._db is None:
            return
        try:
            for statement in statements:
                self._db.execute(statement, values)
        except sqlite3.DatabaseError as error:
            self._stumble(error)

    def _flush(self) -> None:
        for last_try in (False, True):
            try:
                self._write_out()
                break
            except (sqlite3.DatabaseError, OSError) as error:
                if not self._stumble(error) or last_try:
                    return
        if self._trouble is not None:
            lost = f"; {self._dropped} entries were lost" if self._dropped else ""
            self._report(f"the history is written to {self._path} again{lost}")
        self._trouble, self._dropped = None, 0

    def _write_out(self) -> None:
        if self._db is None:
            self._db = open_database(self._path, self._clock(), self._report)
        while self._unsaved:
            entry = self._unsaved.popleft()
            try:
                self._db.execute(entry.sql, entry.values)
            except sqlite3.DatabaseError as error:
                # A row that the schema refuses would be refused for ever: it is our bug.
                if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                    raise AssertionError(f"history refuses {entry}") from error
                self._unsaved.appendleft(entry)
                raise

    def _stumble(self, error: Exception) -> bool:
        """Let go of the database; return whether another try at once makes sense."""
        if self._db is not None:
            self._db.close()
            self._db = None
        if must_be_replaced(error):
            try:
                self._report(move_aside(self._path, self._clock(), error))
            except OSError as refused:
                error = refused
            else:
                return True
        if self._trouble is None:
            self._report(
                f"the history can't be kept in {self._path} ({error}): warmd goes on without, "
                f"holds the last {BACKLOG} entries in memory and tries again with each new one"
            )
        self._trouble = (
            f"the history can't be kept in {self._path} ({error}): what happens and what operators "
            "set is held in memory, and lost where warmd ends before that is mended"
        )
        return False

    def _finish(self) -> None:
        self._flush()
        if self._db is not None:
            self._db.close()
            self._db = None


def _raise_bug(done: Future[None]) -> None:
    done.result()  # concurrent.futures logs what a callback raises
