"""The history: starts, sizes, decisions, requests by the minute; its other parts hang on it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from warmd.history.delays import ADD_DELAY, Delays, FirstDelay
from warmd.history.hours import ADD_HOUR, Hours
from warmd.history.minutes import ADD_MINUTE, IN_VAIN_S, Minutes
from warmd.history.openings import OpeningLog
from warmd.history.overrides import Overrides
from warmd.history.past import Past, read_past
from warmd.history.report import Report, Start, read_report, start
from warmd.history.schema import PRUNING
from warmd.history.sizes import KEEP_SIZES, READ_SIZES
from warmd.history.sleeps import SleepLog
from warmd.history.synthetic import SyntheticLog
from warmd.history.writer import Writer, storable
from warmd.ladder import (
    FilesAtStart,
    MeasuredParts,
    Rung,
    Stage,
    Standing,
    StartTimes,
)
from warmd.status import Decision

# A newer warmd may have written words that this one does not know.
_RUNGS = frozenset(rung.value for rung in Rung)
_STAGES = frozenset(stage.value for stage in Stage)

HISTORY_FILE = "history.db"
"""Its name in host.state_dir."""

DAY_S = 86400.0
KEPT_S = 90 * DAY_S
STARTS_KNOWN = 20
"""So many starts and wakes of each model outlive the pruning: estimates need them."""


class History:
    """The history's file, for a caller that must not wait.

    Every `record_*`, `keep_*`, `count_*`, `tick` and `catch_up` returns at once; they belong to one
    thread, as what writes in its parts (`sleeps`, `overrides` and others) does. All else but
    `trouble` waits for the disk. No trouble of the disk is raised: see `warmd.history.writer`. What
    is older than `keep` seconds is pruned, once a day.
    """

    def __init__(
        self,
        path: Path,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.time,
        keep: float = KEPT_S,
    ) -> None:
        self._path = path
        self._clock = clock
        self._keep = keep
        self._minutes = Minutes()
        self._delays = Delays()
        self._hours = Hours()
        self._minute = 0
        self._pruned = 0.0
        self._writer = Writer(path, report, clock)
        self.sleeps = SleepLog(self._writer)
        self.overrides = Overrides(self._writer)
        self.synthetic = SyntheticLog(self._writer)
        self.openings = OpeningLog(self._writer)
        self._sizes: dict[str, Future[list[tuple[Any, ...]]]] = {}  # by model

    def tick(self) -> None:
        """To be called about each second: hands over the minutes that are over, prunes each day."""
        now = self._clock()
        minute = int(now // 60)
        if minute == self._minute:
            return
        self._minute = minute
        self._hand_over(but=minute)
        self._hand_over_patiently()
        # A clock that was set back must not put the pruning off for years.
        if abs(now - self._pruned) >= DAY_S:
            self._pruned = now
            values = {"oldest": now - self._keep, "known": STARTS_KNOWN}
            self._writer.clear(PRUNING, values)

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written or read at the moment, in one sentence; None where it can."""
        return self._writer.trouble

    def settle(self) -> None:
        """Wait until everything recorded so far is written, or refused."""
        self._writer.settle()

    def catch_up(self) -> None:
        """Hand over what is counted so far, the minute that still runs included."""
        self._hand_over()
        self._hand_over_patiently()

    # Starts

    def record_start(
        self, model: str, replica: str, from_rung: Rung, times: StartTimes, at: float
    ) -> None:
        """A replica got ready at `at` (Unix seconds) after `times`."""
        stages = {stage.value: seconds for stage, seconds in times.stages.items()}
        self._writer.save(
            "INSERT INTO starts (at, model, replica, from_rung, outcome, seconds, stages,"
            " first_token) VALUES (?, ?, ?, ?, 'ready', ?, ?, ?)",
            (
                *(at, model, replica, from_rung.value, times.total),
                *(json.dumps(stages), times.first_token_s),
            ),
        )

    def record_start_files(
        self, replica: str, at: float, files: Mapping[str, FilesAtStart]
    ) -> None:
        """What of each kind of file was in RAM at the start that was recorded at `at`."""
        told = {kind: asdict(each) for kind, each in files.items()}
        self._writer.save(
            "UPDATE starts SET files = ? WHERE replica = ? AND at = ?",
            (json.dumps(told), replica, at),
        )

    def last_starts(self, model: str, limit: int = 3) -> list[Start]:
        """The last starts of `model` that got ready, newest first."""
        rows = self._writer.read(
            "SELECT at, replica, from_rung, seconds, stages, files, first_token FROM starts"
            " WHERE model = ? AND outcome = 'ready' ORDER BY id DESC LIMIT ?",
            (model, limit),
        )
        return [start(row) for row in rows]

    def record_failure(
        self, model: str, replica: str, from_rung: Rung, *, reason: str, seconds: float, at: float
    ) -> None:
        """A start failed at `at` (Unix seconds), `seconds` after the decision, for `reason`."""
        self._writer.save(
            "INSERT INTO starts (at, model, replica, from_rung, outcome, seconds, stages, reason)"
            " VALUES (?, ?, ?, ?, 'failed', ?, '{}', ?)",
            (at, model, replica, from_rung.value, seconds, storable(reason)),
        )

    def recent_starts(self, model: str, limit: int = STARTS_KNOWN) -> list[StartTimes]:
        """The last starts of `model` that got ready, newest first."""
        rows = self._writer.read(
            "SELECT stages FROM starts WHERE model = ? AND outcome = 'ready'"
            " ORDER BY id DESC LIMIT ?",
            (model, limit),
        )
        starts = [json.loads(stages) for (stages,) in rows]
        return [
            StartTimes({Stage(stage): seconds for stage, seconds in start.items()})
            for start in starts
            if start.keys() <= _STAGES
        ]

    def starts_by_rung(self, model: str, limit: int = STARTS_KNOWN) -> dict[Rung, list[float]]:
        """Seconds of the last starts of `model` that got ready by the rung met, oldest first."""
        rows = self._writer.read(
            "SELECT from_rung, seconds FROM starts WHERE model = ? AND outcome = 'ready'"
            " ORDER BY id DESC LIMIT ?",
            (model, limit),
        )
        found: dict[Rung, list[float]] = {}
        for rung, seconds in reversed(rows):
            if rung in _RUNGS:
                found.setdefault(Rung(rung), []).append(seconds)
        return found

    def keep_sizes(self, key: str, model: str, parts: MeasuredParts, at: float) -> None:
        """Keep what an engine of `model` took, for `key` (args and GPU) and vLLM's version.

        A part that this start didn't tell of keeps what an earlier one told: one with a KV cache of
        fixed size tells less.
        """
        self._writer.save(KEEP_SIZES, (key, at, model, *asdict(parts).values()))
        self._sizes[model] = self._writer.read_soon(READ_SIZES, (model,))

    def sizes(self, model: str) -> dict[str, MeasuredParts]:
        """What was last measured of `model`, by key, whichever vLLM it was.

        Read once and after each start that tells more: the next one doesn't wait for the disk.
        """
        rows = self._sizes.get(model)
        if rows is None:
            rows = self._sizes[model] = self._writer.read_soon(READ_SIZES, (model,))
        return {key: MeasuredParts(*parts) for key, *parts in rows.result()}

    # Decisions

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
        self._writer.save(
            "INSERT INTO decisions (at, model, replica, from_rung, to_rung, reason, seconds)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (at, model, replica, from_rung.value, to_rung.value, storable(reason), seconds),
        )

    def decisions(self, model: str, limit: int = 20) -> list[Decision]:
        """The last changes of rung of `model`, newest first."""
        rows = self._writer.read(
            "SELECT at, replica, from_rung, to_rung, reason, seconds FROM decisions"
            " WHERE model = ? ORDER BY id DESC LIMIT ?",
            (model, limit),
        )
        return [
            Decision(at, replica, Rung(old), Rung(new), reason, seconds)
            for at, replica, old, new, reason, seconds in rows
            if {old, new} <= _RUNGS
        ]

    # Requests

    def count_request(
        self,
        model: str,
        *,
        status: int,
        met: Rung,
        first_byte_s: float | None,
        is_first: bool,
        total_s: float,
        at: float,
        spared: Rung | None = None,
    ) -> None:
        """Count a request that ended at `at` (Unix seconds), in memory until its minute is over.

        Only the first of a model's minute is written at once.

        `is_first`: the wait for its first byte counts as a first delay; `total_s`: how long it
        lasted; `spared`: the rung that it would have met without the model's calendar, where it
        came after an idle time and met it hot.
        """
        count = self._minutes.at(model, int(at // 60))
        count.add(status, met, first_byte_s, is_first=is_first, total_s=total_s, spared=spared)
        if is_first and (first_byte_s is not None or total_s > IN_VAIN_S):
            vain = first_byte_s is None
            waited = total_s if first_byte_s is None else first_byte_s
            self._delays.add(FirstDelay(model, at - total_s, met, waited, vain), at)
        if self._minutes.begins(model, int(at // 60)):
            # At once: a daemon that is killed must not forget that the model is in use.
            self._hand_over(but=None)

    def count_hours(self, standings: Iterable[Standing], seconds: float, until: float) -> None:
        """Count that models stood so for `seconds`, until `until` (Unix seconds), in memory."""
        self._hours.book(standings, seconds, until)

    def last_requests(self) -> dict[str, float]:
        """When the last request for each model ended: Unix seconds, up to a minute too early."""
        rows = self._writer.read(
            "SELECT model, (SELECT max(minute) FROM requests WHERE model = m.model)"
            " FROM models_asked AS m"
        )
        now = self._clock()
        return {model: min(60.0 * minute, now) for model, minute in rows}

    def report(self, model: str | None, since: float) -> Report:
        """What happened to `model`, or to all, since `since` (Unix seconds).

        Read through a connection of its own, so that nobody's writing waits for it. Raises
        `warmd.history.HistoryError` with a sentence.
        """
        self._writer.settle()
        return read_report(self._path, model, since, self._clock())

    def past(self, models: Collection[str] | None, since: float) -> Iterator[Past]:
        """Yield what is known of `models`, or of all, since `since`; read as `report` is."""
        self._writer.settle()
        return read_past(self._path, models, since)

    def close(self) -> None:
        """Write what is left and end the thread. What is recorded afterwards is dropped."""
        self._hand_over()
        self._hand_over_rows()
        self._writer.close()

    def _hand_over(self, but: int | None = None) -> None:
        for (model, minute), count in self._minutes.take(but).items():
            self._writer.save(ADD_MINUTE, (model, minute, *astuple(count)))

    def _hand_over_patiently(self) -> None:
        """Hand over what can wait while the disk refuses everything.

        Hours add up in few rows here; in the writer's memory they would push out what can't wait.
        """
        if self._writer.trouble is None:
            self._hand_over_rows()
        else:
            self._writer.try_again()

    def _hand_over_rows(self) -> None:
        for delay in self._delays.take():
            row = (delay.model, delay.at, delay.met.value, delay.seconds, delay.vain)
            self._writer.save(ADD_DELAY, row)
        for key, hours in self._hours.take().items():
            self._writer.save(ADD_HOUR, (*key, *astuple(hours)))
