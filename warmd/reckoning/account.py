"""What `warmctl report` tells.

Field names here are the stable JSON of `warmctl report --json`: add, never rename. Times are Unix
seconds, durations seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DELAY_BOUNDS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 90.0, 120.0, 180.0, 300.0)
"""First delays are counted up to each of these, and beyond the last, in seconds."""

LETTERS = {"hot": "h", "asleep": "a", "staged": "s", "cold": "c"}
UNKNOWN = "-"


@dataclass(frozen=True)
class Delays:
    """First delays, each measured apart, where the model wasn't hot or had been idle.

    `by_bound`: how many lasted up to each of `Account.delay_bounds`, and longer than the last.
    `all` counts also those of which only sums were kept (before each was kept, or in a flood).
    """

    count: int
    p50: float
    p95: float
    p99: float
    max: float
    all: int
    by_bound: list[int]


@dataclass(frozen=True)
class FirstBytes:
    """Waits for the first byte by all other requests."""

    count: int
    mean: float | None
    max: float | None


@dataclass(frozen=True)
class Durations:
    """Starts from one rung, or wakes: how many, and the median in all and of each stage."""

    count: int
    p50: float
    stages: dict[str, float]


@dataclass(frozen=True)
class Why:
    """One kind of reason: how often, when last (Unix seconds), and the sentence of that time."""

    count: int
    last: float
    reason: str


@dataclass(frozen=True)
class Lateness:
    """What was ready late, in seconds."""

    count: int
    p50: float
    max: float


@dataclass(frozen=True)
class Windows:
    """The times at which its calendar wanted it ready, where no operator had said otherwise.

    `ready` by then, `late`, `never`, or `awaited` still. `reasons`, by kind: `away` (warmd didn't
    run), `failing`, `starting`, `held-up`.
    """

    opened: int
    ready: int
    late: Lateness | None
    never: int
    awaited: int
    reasons: dict[str, Why]


@dataclass(frozen=True)
class ModelAccount:
    """One model. `not_hot`: requests that met it on another rung; `vain`: got no first byte.

    `seconds`: how long its warmest replica stood on each rung; `unknown_s`: warmd didn't run, or
    didn't have it. `gpu_hours_hot`: GPUs times hours of hot engines, of which `gpu_hours_added`
    would not have been hot without the calendar; an engine on a host without GPUs counts as one.

    `spared`: requests that came when it had been idle, so that it was hot for its calendar alone,
    by the rung they would have met. `removed_s`: the waits that this took away, by the median start
    or wake from that rung (`removed_by_estimate`: none was measured). Who came while the first one
    would still have waited counts as nothing, so it is rather too low.

    `days`: for each day of its zone 24 letters, the rung it stood on longest in each hour: h(ot),
    a(sleep), s(taged), c(old), `-` where that isn't known. `windows`: whether its calendar was
    kept. `failed_starts`: those that never got ready.
    """

    zone: str
    requests: int = 0
    met: dict[str, int] = field(default_factory=dict)
    not_hot: int = 0
    not_hot_share: float | None = None
    first_delays: Delays | None = None
    vain: int = 0
    others: FirstBytes | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    unknown_s: float = 0.0
    gpu_hours_hot: float = 0.0
    gpu_hours_added: float = 0.0
    spared: dict[str, int] = field(default_factory=dict)
    removed_s: float = 0.0
    removed_by_estimate: bool = False
    removed_s_per_gpu_hour: float | None = None
    starts: dict[str, Durations] = field(default_factory=dict)
    wakes: Durations | None = None
    days: dict[str, str] = field(default_factory=dict)
    advice: str | None = None
    windows: Windows | None = None
    failed_starts: Why | None = None


@dataclass(frozen=True)
class Account:
    """What happened to each model from `since` until `time`."""

    time: float
    since: float
    delay_bounds: tuple[float, ...]
    models: dict[str, ModelAccount]
