"""Sleeps and wakes in the history, and what they cost each model."""

from __future__ import annotations

from warmd.history.writer import Writer, storable
from warmd.ladder import SleepFigures, WakeTimes

WAKES_KNOWN = 20
"""So many of each model are read."""


class SleepLog:
    """Writes and reads it. What writes returns at once; what reads waits for the disk."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def record(
        self,
        model: str,
        replica: str,
        level: int,
        *,
        seconds: float,
        host_ram: int | None,
        device_kept: int | None,
        cycle: int,
        rehearsal: bool,
        at: float,
    ) -> None:
        """A replica fell asleep at `at` (Unix seconds), for the `cycle`-th time of its engine.

        `host_ram` and `device_kept` are bytes that it holds asleep, None where not measured.
        """
        self._writer.save(
            "INSERT INTO sleeps (at, model, replica, outcome, level, seconds, cycle, rehearsal,"
            " host_ram, device_kept) VALUES (?, ?, ?, 'done', ?, ?, ?, ?, ?, ?)",
            (at, model, replica, level, seconds, cycle, rehearsal, host_ram, device_kept),
        )

    def record_failure(
        self,
        model: str,
        replica: str,
        level: int,
        *,
        reason: str,
        seconds: float,
        cycle: int,
        rehearsal: bool,
        at: float,
    ) -> None:
        """A sleep failed at `at` (Unix seconds), `seconds` after the order, for `reason`."""
        self._writer.save(
            "INSERT INTO sleeps (at, model, replica, outcome, level, seconds, cycle, rehearsal,"
            " reason) VALUES (?, ?, ?, 'failed', ?, ?, ?, ?, ?)",
            (at, model, replica, level, seconds, cycle, rehearsal, storable(reason)),
        )

    def record_wake(
        self, model: str, replica: str, times: WakeTimes, cycle: int, at: float
    ) -> None:
        """A replica was awake and ready at `at` (Unix seconds) after `times`."""
        self._writer.save(
            "INSERT INTO wakes (at, model, replica, outcome, seconds, engine, first_answer,"
            " canary, cycle, first_token) VALUES (?, ?, ?, 'done', ?, ?, ?, ?, ?, ?)",
            (
                *(at, model, replica, times.total),
                *(*times.parts.values(), cycle, times.first_token_s),
            ),
        )

    def record_wake_failure(
        self, model: str, replica: str, *, reason: str, seconds: float, cycle: int, at: float
    ) -> None:
        """A wake failed at `at` (Unix seconds), `seconds` after the order, for `reason`."""
        self._writer.save(
            "INSERT INTO wakes (at, model, replica, outcome, seconds, cycle, reason)"
            " VALUES (?, ?, ?, 'failed', ?, ?, ?)",
            (at, model, replica, seconds, cycle, storable(reason)),
        )

    def recent_wakes(self, model: str, limit: int = WAKES_KNOWN) -> list[float]:
        """Seconds that the last wakes of `model` took in all, newest first; no failed ones."""
        rows = self._writer.read(
            "SELECT seconds FROM wakes WHERE model = ? AND outcome = 'done'"
            " ORDER BY id DESC LIMIT ?",
            (model, limit),
        )
        return [seconds for (seconds,) in rows]

    def keep_figures(self, key: str, model: str, figures: SleepFigures, at: float) -> None:
        """Keep what sleep costs `model` in the engine configuration `key`; the last word holds."""
        self._writer.save(
            "INSERT OR REPLACE INTO sleep_figures"
            " (key, at, model, first_sleep_s, wake_s, host_ram, device_kept)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(key, at, model, figures.first_sleep_s, figures.wake_s),
                *(figures.host_ram, figures.device_kept),
            ),
        )

    def figures(self, model: str) -> dict[str, SleepFigures]:
        """What was measured of `model`, by engine configuration, the newest first."""
        rows = self._writer.read(
            "SELECT key, first_sleep_s, wake_s, host_ram, device_kept FROM sleep_figures"
            " WHERE model = ? ORDER BY at DESC",
            (model,),
        )
        return {key: SleepFigures(*figures) for key, *figures in rows}
