"""The history of starts, decisions and overrides, written by one thread of its own."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmd.history.database import move_aside, must_be_replaced, open_database
from warmd.ladder import Rung, Stage, StartTimes
from warmd.status import Decision

# A newer warmd may have written words that this one does not know.
_RUNGS = frozenset(rung.value for rung in Rung)
_STAGES = frozenset(stage.value for stage in Stage)

BACKLOG = 1000
"""Entries kept in memory while the disk refuses them."""


@dataclass(frozen=True)
class StoredOverride:
    """An operator's word on a model. `until` and `set_at` are Unix seconds; no `until`: no end."""

    rung: Rung
    until: float | None
    set_at: float


@dataclass(frozen=True)
class _Entry:
    """A row to write; `override_of` names the model whose override it is."""

    sql: str
    values: tuple[str | float | None, ...]
    override_of: str | None = None


class History:
    """The history's file, for a caller that must not wait: every `record_*` returns at once.

    A damaged file is moved aside and a new one begun. While the disk is full or may not be
    written to, entries wait in memory (the last 1000; an override is never dropped) and each new
    one is another try. Both are told to `report`, in a sentence, once. `report` is called from
    the writer's thread.
    """

    def __init__(
        self, path: Path, report: Callable[[str], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._report = report
        self._clock = clock
        self._db: sqlite3.Connection | None = None
        self._unsaved: deque[_Entry] = deque()
        self._dropped = 0
        self._stuck = False
        self._closed = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._hand_over(self._flush)

    def record_start(
        self, model: str, replica: str, from_rung: Rung, times: StartTimes, at: float
    ) -> None:
        """A replica got ready at `at` (Unix seconds) after `times`."""
        stages = {stage.value: seconds for stage, seconds in times.stages.items()}
        self._record(
            "INSERT INTO starts (at, model, replica, from_rung, outcome, seconds, stages)"
            " VALUES (?, ?, ?, ?, 'ready', ?, ?)",
            (at, model, replica, from_rung.value, times.total, json.dumps(stages)),
        )

    def record_failure(
        self, model: str, replica: str, from_rung: Rung, *, reason: str, seconds: float, at: float
    ) -> None:
        """A start failed at `at` (Unix seconds), `seconds` after the decision, for `reason`."""
        self._record(
            "INSERT INTO starts (at, model, replica, from_rung, outcome, seconds, stages, reason)"
            " VALUES (?, ?, ?, ?, 'failed', ?, '{}', ?)",
            (at, model, replica, from_rung.value, seconds, _storable(reason)),
        )

    def record_decision(
        self,
        at: float,
        model: str,
        replica: str,
        *,
        from_rung: Rung,
        to_rung: Rung,
        reason: str,
        seconds: float | None,
    ) -> None:
        """A change of rung at `at` (Unix seconds), what it took in seconds, and why."""
        self._record(
            "INSERT INTO decisions (at, model, replica, from_rung, to_rung, reason, seconds)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (at, model, replica, from_rung.value, to_rung.value, _storable(reason), seconds),
        )

    def set_override(self, model: str, rung: Rung | None, until: float | None, at: float) -> None:
        """Keep an operator's word on `model` across restarts; `rung` None takes it back."""
        if rung is None:
            self._record("DELETE FROM overrides WHERE model = ?", (model,), override_of=model)
            return
        self._record(
            "INSERT OR REPLACE INTO overrides (model, rung, until, set_at) VALUES (?, ?, ?, ?)",
            (model, rung.value, until, at),
            override_of=model,
        )

    def overrides(self) -> dict[str, StoredOverride]:
        """Every stored override, those that have ended included. Waits for the disk."""
        rows = self._read("SELECT model, rung, until, set_at FROM overrides", ())
        return {
            model: StoredOverride(Rung(rung), until, set_at)
            for model, rung, until, set_at in rows
            if rung in _RUNGS
        }

    def recent_starts(self, model: str, limit: int = 20) -> list[StartTimes]:
        """The last starts of `model` that got ready, newest first. Waits for the disk."""
        rows = self._read(
            "SELECT stages FROM starts WHERE model = ? AND outcome = 'ready'"
            " ORDER BY at DESC LIMIT ?",
            (model, limit),
        )
        starts = [json.loads(stages) for (stages,) in rows]
        return [
            StartTimes({Stage(stage): seconds for stage, seconds in start.items()})
            for start in starts
            if start.keys() <= _STAGES
        ]

    def decisions(self, model: str, limit: int = 20) -> list[Decision]:
        """The last changes of rung of `model`, newest first. Waits for the disk."""
        rows = self._read(
            "SELECT at, replica, from_rung, to_rung, reason, seconds FROM decisions"
            " WHERE model = ? ORDER BY at DESC, id DESC LIMIT ?",
            (model, limit),
        )
        return [
            Decision(at, replica, Rung(old), Rung(new), reason, seconds)
            for at, replica, old, new, reason, seconds in rows
            if {old, new} <= _RUNGS
        ]

    def close(self) -> None:
        """Write what is left and end the thread. What is recorded afterwards is dropped."""
        if self._closed:
            return
        self._hand_over(self._finish)
        self._closed = True
        self._writer.shutdown(wait=True)

    def _record(
        self, sql: str, values: tuple[str | float | None, ...], override_of: str | None = None
    ) -> None:
        entry = _Entry(sql, values, override_of)
        self._hand_over(lambda: self._save(entry))

    def _read(self, sql: str, values: tuple[str | int, ...]) -> list[tuple[Any, ...]]:
        def read() -> list[tuple[Any, ...]]:
            self._flush()
            if self._db is None:
                return []
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.DatabaseError as error:
                self._stumble(error)
                return []

        return self._writer.submit(read).result()

    def _hand_over(self, work: Callable[[], None]) -> None:
        if not self._closed:
            # Without a look at its result, a bug in the writer's thread would pass in silence.
            self._writer.submit(work).add_done_callback(_raise_bug)

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

    def _flush(self) -> None:
        for last_try in (False, True):
            try:
                self._write_out()
                break
            except (sqlite3.DatabaseError, OSError) as error:
                if not self._stumble(error) or last_try:
                    return
        if self._stuck:
            lost = f"; {self._dropped} entries were lost" if self._dropped else ""
            self._report(f"the history is written to {self._path} again{lost}")
        self._stuck, self._dropped = False, 0

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
        if not self._stuck:
            self._report(
                f"the history can't be kept in {self._path} ({error}): warmd goes on without, "
                f"holds the last {BACKLOG} entries in memory and tries again with each new one"
            )
        self._stuck = True
        return False

    def _finish(self) -> None:
        self._flush()
        if self._db is not None:
            self._db.close()
            self._db = None


def _raise_bug(done: Future[None]) -> None:
    done.result()  # concurrent.futures logs what a callback raises


def _storable(text: str) -> str:
    """An engine's words may hold what is no UTF-8; SQLite takes nothing else."""
    return text.encode("utf-8", "backslashreplace").decode()
