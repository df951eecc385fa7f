"""How long before its time a rise must begin: measured starts and wakes, and a margin.

A window's `from` is when a model must be ready. What is not measured yet is estimated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from warmd.ladder import Rung
from warmd.policy.estimate import STOP_S, UNMEASURED_START_S, UNMEASURED_WAKE_S, percentile

MARGIN_S = 5.0
MARGIN = 0.1
"""A lead is longer than what was measured by the larger of both: seconds, and a share."""

UNMEASURED_DISK = 500e6
"""Bytes per second that staging is taken to read before it was measured."""

UNSCANNED_S = 60.0
"""Seconds that staging is taken to last as long as nobody has looked at the files."""

_OFTEN = 0.95
"""A lead is as long as this share of what was measured; of fewer than 20, the longest."""


@dataclass(frozen=True)
class Figures:
    """What is known of a model's rises. Seconds oldest first; `starts` by the rung that they met.

    `sleep_s`: what falling asleep takes; `asides`: how long being put aside took, drain and all;
    `files`: the bytes that are staged for a start, None where nobody has looked yet; `disk_rate`:
    bytes per second; `stages`: its files have room in RAM.
    """

    starts: Mapping[Rung, Sequence[float]] = field(default_factory=dict)
    wakes: Sequence[float] = ()
    sleep_s: float | None = None
    files: int | None = None
    disk_rate: float | None = None
    stages: bool = True
    asides: Sequence[float] = ()


@dataclass(frozen=True)
class Leads:
    """Seconds, without a margin, that each part of a rise takes; `measured`: starts were.

    The two `_at_most` are what they may have been reckoned with before they were measured: by its
    first measurement a lead gets shorter, and what has risen by then must not count as too early.
    """

    start: float
    wake: float
    sleep: float
    stage: float
    stage_at_most: float
    measured: bool = True
    woke: bool = True
    aside: float = STOP_S  # what it takes to put one of its engines aside

    def rise(self, stands: Rung, to: Rung) -> float:
        """Return the seconds on the device from `stands` to `to`."""
        if to < Rung.ASLEEP or stands >= to:
            return 0.0
        if stands is Rung.ASLEEP:
            return self.wake
        return self.start + (self.sleep if to is Rung.ASLEEP else 0.0)

    @property
    def start_at_most(self) -> float:
        """What a start may have been reckoned with before it was measured."""
        return max(self.start, UNMEASURED_START_S)


def with_margin(seconds: float) -> float:
    """Return by how much earlier something begins that takes `seconds`."""
    return seconds + max(MARGIN_S, MARGIN * seconds) if seconds > 0 else 0.0


def leads_of(figures: Figures) -> Leads:
    """Return what rises take: as long as 19 of 20 measured ones; an estimate before the first."""
    met_staged = figures.starts.get(Rung.STAGED, ())
    others = [s for rung, each in figures.starts.items() if rung is not Rung.STAGED for s in each]
    # One that met its files on disk took at least as long as one will that meets them in RAM.
    starts = met_staged if figures.stages and met_staged else [*others, *met_staged]
    if not figures.stages and figures.starts.get(Rung.COLD):
        starts = figures.starts[Rung.COLD]
    return Leads(
        start=_often(starts) if starts else UNMEASURED_START_S,
        wake=_often(figures.wakes) if figures.wakes else UNMEASURED_WAKE_S,
        sleep=STOP_S if figures.sleep_s is None else figures.sleep_s,
        stage=_staging(figures, figures.disk_rate),
        stage_at_most=max(UNSCANNED_S, _staging(figures, figures.disk_rate), _staging(figures)),
        measured=bool(starts),
        woke=bool(figures.wakes),
        aside=putting_aside(figures.asides, figures.sleep_s),
    )


def putting_aside(asides: Sequence[float], sleep_s: float | None) -> float:
    """Return the seconds in which an engine is drained, and sleeps or has ended."""
    return _often(asides) if asides else max(STOP_S, sleep_s or 0.0)


def _staging(figures: Figures, rate: float | None = None) -> float:
    if not figures.stages:
        return 0.0
    return UNSCANNED_S if figures.files is None else figures.files / (rate or UNMEASURED_DISK)


def _often(seconds: Sequence[float]) -> float:
    return percentile(sorted(seconds), _OFTEN)
