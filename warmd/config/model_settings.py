"""The settings of one model, with their defaults.

Lengths of time are seconds, sizes are bytes; in TOML both are strings with a unit.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, PlainSerializer

from warmd.config.engine_args import begins_with_a_flag
from warmd.config.fields import (
    Alias,
    Arg,
    Bytes,
    CronText,
    DayName,
    DaysText,
    Environment,
    EveryText,
    FormatText,
    IdleRung,
    PatternText,
    Percent,
    RestingRung,
    Seconds,
    TimeText,
    VerifyText,
    VramText,
    WeightsPath,
    Zone,
    not_blank,
    not_empty,
    one_of,
)
from warmd.config.table import Table
from warmd.ladder import Place, Rung


class Affinity(StrEnum):
    """Which requests go to the same replica, where it isn't markedly busier than others."""

    NONE = "none"
    PREFIX = "prefix"  # those whose prompts begin alike


class IdleSettings(Table):
    """How long demand keeps a model hot, where it stands then, and for how long."""

    after: Seconds = 300.0
    then: IdleRung = Rung.ASLEEP
    keep: Seconds = 72 * 3600.0


class SleepSettings(Table):
    """How a model sleeps. `slowest` is a share of the speed that it had before."""

    level: Annotated[int, Field(ge=1, le=2)] = 1
    timeout: Seconds = 120.0
    rehearse: bool = True
    cycles: Annotated[int, Field(ge=2, le=100_000)] = 50
    growth: Bytes = 2 * 2**30
    slowest: Percent = 0.3


class WarmupKind(StrEnum):
    """Which endpoint the first real request of an engine goes to."""

    AUTO = "auto"
    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"


class WarmupSettings(Table):
    """The first real request that an engine must answer before users reach it.

    `response_format`: "text", "json", or a JSON schema as text. `expect`: a regular expression that
    the answer must hold.
    """

    prompt: Annotated[str, AfterValidator(not_blank)] = "Reply with one word: ok"
    max_tokens: Annotated[int, Field(ge=1, le=1024)] = 1
    kind: Annotated[WarmupKind, one_of(WarmupKind), PlainSerializer(str)] = WarmupKind.AUTO
    temperature: Annotated[float, Field(ge=0, le=2, strict=False)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1, strict=False)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    response_format: FormatText = "text"
    expect: PatternText | None = None
    timeout: Seconds = 60.0
    adapters: Annotated[tuple[Alias, ...], Field(strict=False)] = ()


class WindowSettings(Table):
    """Hours in which a model stands at a rung. `replicas` None: the model's.

    `dates` and `skip` hold dates and names of calendars. `days` None: every day, or with `dates`
    none but these.
    """

    days: DaysText | None = None
    dates: Annotated[tuple[DayName, ...], Field(strict=False)] = ()
    skip: Annotated[tuple[DayName, ...], Field(strict=False, alias="except")] = ()
    start: TimeText = Field(alias="from")
    to: TimeText
    rung: RestingRung = Rung.HOT
    replicas: Annotated[int, Field(ge=1, le=64)] | None = None


class CronSettings(Table):
    """What happens to a model at each firing: a transition to a rung, or a warm-up request."""

    at: CronText
    rung: RestingRung | None = None
    warmup: bool = False
    replicas: Annotated[int, Field(ge=1, le=64)] | None = None


class KeepaliveSettings(Table):
    """Requests of warmd's own while nobody asks; `every` None: none, "auto": as measured.

    `prompt`, `max_tokens` None: those of the warm-up.
    """

    every: EveryText | None = None
    prompt: Annotated[str, AfterValidator(not_blank)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1024)] | None = None


class ProbeSettings(Table):
    """When the first request after idle is measured; `at` None: only when an operator asks."""

    at: CronText | None = None
    idle: Annotated[tuple[Seconds, ...], Field(strict=False), AfterValidator(not_empty)] = (900.0,)


class ScaleSettings(Table):
    """How the load of a model asks for more replicas; with `max` at `min` it asks for none."""

    min: Annotated[int, Field(ge=1, le=64)] = 1
    max: Annotated[int, Field(ge=1, le=64)] = 1
    waiting_above: Annotated[int, Field(ge=0, le=100_000)] = 4
    after: Seconds = Field(10.0, alias="for")
    cool_down: Seconds = 300.0


class ModelSettings(Table):
    """One model. Keys that gateway, engine or host have as well are None where theirs holds."""

    weights: WeightsPath
    args: Annotated[tuple[Arg, ...], Field(strict=False), AfterValidator(begins_with_a_flag)] = ()
    env: Environment = Field(default_factory=dict)
    aliases: Annotated[tuple[Alias, ...], Field(strict=False)] = ()
    resting: RestingRung = Rung.STAGED
    verify: VerifyText | None = None
    stage: Annotated[Place, one_of(Place), PlainSerializer(str)] = Place.PAGE_CACHE
    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    scale: ScaleSettings = ScaleSettings()
    idle: IdleSettings = IdleSettings()
    sleep: SleepSettings = SleepSettings()
    pool: str | None = None
    vram: VramText | None = None
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    pinned: bool = False
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    max_wait: Seconds | None = None
    max_waiting: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    affinity: Annotated[Affinity, one_of(Affinity), PlainSerializer(str)] = Affinity.NONE
    start_timeout: Seconds | None = None
    warmup: WarmupSettings = WarmupSettings()
    keepalive: KeepaliveSettings = KeepaliveSettings()
    probe: ProbeSettings = ProbeSettings()
    timezone: Zone | None = None
    windows: Annotated[tuple[WindowSettings, ...], Field(strict=False)] = ()
    cron: Annotated[tuple[CronSettings, ...], Field(strict=False)] = ()

    @property
    def least_replicas(self) -> int:
        """How many engines it has without a calendar and whatever its load."""
        return max(self.replicas, self.scale.min)  # one of the two alone may be set

    @property
    def firm_replicas(self) -> int:
        """How many engines of it must be able to run at once, whatever its load."""
        entries: tuple[WindowSettings | CronSettings, ...] = (*self.windows, *self.cron)
        return max([self.least_replicas, *(each.replicas or 1 for each in entries)])

    @property
    def most_replicas(self) -> int:
        """How many engines of it may run at once, where there is room for all."""
        return max(self.firm_replicas, self.scale.max)

    @property
    def by_prefix(self) -> bool:
        """Whether what a prompt begins with says to which replica a request goes."""
        return self.affinity is Affinity.PREFIX

    @property
    def scales(self) -> bool:
        """Whether its load may ask for more replicas."""
        return self.scale.max > self.least_replicas

    @property
    def is_reserved_for(self) -> bool:
        """Whether it says itself what is reserved for its engines, or where."""
        return self.pool is not None or self.vram is not None
