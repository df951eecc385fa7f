"""Each first delay apart, in memory until its minute is over: percentiles need every one. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from warmd.ladder import Rung

ADD_DELAY = "INSERT INTO first_delays (model, at, met, seconds, vain) VALUES (?, ?, ?, ?, ?)"

MOST_A_MINUTE = 500
"""So many of one model's are kept apart in a minute; all of them are in the minute's sums."""

MOST_KEPT = 10_000
"""So many wait in memory while the disk refuses everything; the oldest go first."""


@dataclass(frozen=True, slots=True)
class FirstDelay:
    """A request that came at `at` (Unix seconds) and met its model not in use.

    `seconds`: until its first byte, or in `vain` until it gave up.
    """

    model: str
    at: float
    met: Rung
    seconds: float
    vain: bool


class Delays:
    """The first delays that are not handed over yet."""

    def __init__(self) -> None:
        self._delays: deque[FirstDelay] = deque(maxlen=MOST_KEPT)
        self._counted: dict[str, tuple[int, int]] = {}  # by model: the minute, and how many in it

    def add(self, delay: FirstDelay, ended: float) -> None:
        """Keep one that `ended` then (Unix seconds), unless its minute has very many."""
        minute = int(ended // 60)
        of, count = self._counted.get(delay.model, (minute, 0))
        count = count + 1 if of == minute else 1
        self._counted[delay.model] = (minute, count)
        if count <= MOST_A_MINUTE:
            self._delays.append(delay)

    def take(self) -> list[FirstDelay]:
        """Hand over every one."""
        delays = list(self._delays)
        self._delays.clear()
        return delays
