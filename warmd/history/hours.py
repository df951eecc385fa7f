"""Where the models stood, hour by hour, in memory until it is written. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from warmd.ladder import Standing

HOUR_S = 3600.0

HourKey = tuple[str, int, str, str]
"""Model, hour (Unix seconds / 3600), rung, cause."""

ADD_HOUR = (
    "INSERT INTO occupancy"
    " (model, hour, rung, cause, seconds, replica_seconds, gpu_seconds, since)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (model, hour, rung, cause) DO UPDATE SET"
    " seconds = seconds + excluded.seconds,"
    " replica_seconds = replica_seconds + excluded.replica_seconds,"
    " gpu_seconds = gpu_seconds + excluded.gpu_seconds,"
    " since = min(since, excluded.since)"
)


@dataclass(slots=True)
class HourCount:
    """Seconds within one hour: of the model, times replicas, and times the GPUs they use.

    `since`: when the first of them began (Unix seconds).
    """

    seconds: float = 0.0
    replica_seconds: float = 0.0
    gpu_seconds: float = 0.0
    since: float = math.inf


class Hours:
    """What is not handed over yet.

    A model's `seconds` are booked on the highest rung that a replica of it stands on, so they add
    up to the time in which somebody looked.
    """

    def __init__(self) -> None:
        self._counts: dict[HourKey, HourCount] = {}

    def book(self, standings: Iterable[Standing], seconds: float, until: float) -> None:
        """Add that it stood so for `seconds`, which ended at `until` (Unix seconds)."""
        standings = tuple(standings)
        for hour, part, since in _by_hour(seconds, until):
            for each in standings:
                key = (each.model, hour, each.rung.value, each.cause)
                count = self._counts.get(key)
                if count is None:
                    count = self._counts[key] = HourCount()
                count.since = min(count.since, since)
                count.seconds += part * each.highest
                count.replica_seconds += part * each.replicas
                count.gpu_seconds += part * each.gpus

    def take(self) -> dict[HourKey, HourCount]:
        """Hand over everything."""
        counts, self._counts = self._counts, {}
        return counts


def _by_hour(seconds: float, until: float) -> Iterable[tuple[int, float, float]]:
    """Divide a time by the hours on the wall, the last one first: how long, and since when."""
    hour = int(until // HOUR_S)
    while seconds > 0:
        part = min(seconds, until - hour * HOUR_S)
        if part > 0:
            yield hour, part, until - part
        seconds -= part
        until = hour * HOUR_S
        hour -= 1
