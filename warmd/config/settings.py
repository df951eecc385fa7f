"""The settings of a host and its models. Every default of warmd stands here.

Lengths of time are seconds, sizes are bytes; in TOML both are strings with a unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
)

from warmd.config.address import Address
from warmd.config.engine_args import begins_with_a_flag
from warmd.config.fields import (
    AddressText,
    Alias,
    Arg,
    Bytes,
    CronText,
    DateText,
    DayName,
    DaysText,
    Environment,
    EveryText,
    FormatText,
    GpuNames,
    IdleRung,
    ModelName,
    PatternText,
    Percent,
    PoolName,
    RestingRung,
    Seconds,
    ShareText,
    TimeText,
    VerifyText,
    VramText,
    WeightsPath,
    WholePath,
    Zone,
    not_blank,
    not_empty,
    one_of,
)
from warmd.config.problem import KeyPath
from warmd.config.units import Share
from warmd.ladder import Place, Rung

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"

CPU_KV_SPACE = "VLLM_CPU_KVCACHE_SPACE"
"""What a user sets for vLLM's KV cache on a CPU, in whole GiB."""


class Table(BaseModel):
    """A table of the config: strict, closed and frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class HostSettings(Table):
    """Where warmd keeps its files on this machine. `timezone` None: the machine's own."""

    run_dir: WholePath = Path("/run/warmd")
    state_dir: WholePath = Path("/var/lib/warmd")
    cache_dir: WholePath = Path("/var/cache/warmd")
    engines_outlive_daemon: bool = False
    timezone: Zone | None = None


class GatewaySettings(Table):
    """The OpenAI-compatible front."""

    listen: Annotated[tuple[AddressText, ...], Field(strict=False), AfterValidator(not_empty)] = (
        Address("127.0.0.1", 8400),
    )
    api_keys: WholePath | None = None
    max_wait: Seconds = 180.0
    max_body: Bytes = 32 * 2**20
    header_timeout: Seconds = 10.0
    body_timeout: Seconds = 60.0


class ControlSettings(Table):
    """The admin socket. `socket` None: `control.sock` in `host.run_dir`."""

    socket: WholePath | None = None
    group: Annotated[str, AfterValidator(not_blank)] = "warmd"


class MetricsSettings(Table):
    """Where Prometheus may scrape; no address switches it off."""

    listen: Annotated[tuple[AddressText, ...], Field(strict=False)] = (Address("127.0.0.1", 8401),)


class HistorySettings(Table):
    """What is remembered of starts, decisions and requests."""

    keep: Seconds = 90 * 86400.0


class SleepMode(StrEnum):
    """Whether engines can be put to sleep."""

    AUTO = "auto"  # where there is an NVIDIA GPU
    ON = "on"
    OFF = "off"
    DRILL = "drill"  # vLLM only plays asleep and frees nothing: all that a CPU can do


class EngineSettings(Table):
    """The vLLM that all models run on."""

    interpreter: WholePath | None = Field(default=None, alias="python")
    env: Environment = {}
    start_timeout: Seconds = 900.0
    drain_timeout: Seconds = 30.0
    stop_timeout: Seconds = 30.0
    hang_after: Seconds = 120.0
    sleep: Annotated[SleepMode, one_of(SleepMode), PlainSerializer(str)] = SleepMode.AUTO

    @property
    def python(self) -> Path:
        """The Python that has vLLM; the config check sees to it that models have one."""
        if self.interpreter is None:
            raise LookupError("engine.python is not set")
        return self.interpreter


class RamSettings(Table):
    """What host memory may be used for."""

    staging: ShareText = Share(percent=Decimal(50))
    sleeping: ShareText = Share(percent=Decimal(30))
    reserve: ShareText = Share(percent=Decimal(5))


class StagingSettings(Table):
    """How files come into RAM. `rate` (a second) None: as fast as the disk; `tmpfs` None: `stage`
    in `host.run_dir`.
    """

    rate: Bytes | None = None
    tmpfs: WholePath | None = None


class FairnessSettings(Table):
    """When a hot model makes room for another one of its pool. `stay` counts its switch costs."""

    stay: Annotated[float, Field(ge=0, le=100)] = 3.0
    hold: Seconds = 5.0
    bound: Seconds = 60.0


class PoolSettings(Table):
    """VRAM that only the pool's own models may use, on each of its GPUs. `gpus` None: any."""

    vram: Bytes
    gpus: GpuNames = None


class GpuSettings(Table):
    """What holds for every GPU."""

    headroom: Bytes = 2**30
    tolerance: Bytes = 512 * 2**20


class RestartSettings(Table):
    """What happens after an engine failed."""

    give_up_after: Annotated[int, Field(ge=1, le=1000)] = 6
    max_delay: Seconds = 300.0
    stable_after: Seconds = 60.0


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


class CalendarSettings(Table):
    """Days with a name, for the windows of all models."""

    dates: Annotated[tuple[DateText, ...], Field(strict=False), AfterValidator(not_empty)]


class ScaleSettings(Table):
    """How the load of a model asks for more replicas; with `max` at `min` it asks for none."""

    min: Annotated[int, Field(ge=1, le=64)] = 1
    max: Annotated[int, Field(ge=1, le=64)] = 1
    waiting_above: Annotated[int, Field(ge=0, le=100_000)] = 4
    after: Seconds = Field(10.0, alias="for")
    cool_down: Seconds = 300.0


class ModelSettings(Table):
    """One model. `max_wait`, `start_timeout`, `timezone` None: those of gateway, engine, host."""

    weights: WeightsPath
    args: Annotated[tuple[Arg, ...], Field(strict=False), AfterValidator(begins_with_a_flag)] = ()
    env: Environment = {}
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
    def scales(self) -> bool:
        """Whether its load may ask for more replicas."""
        return self.scale.max > self.least_replicas

    @property
    def is_reserved_for(self) -> bool:
        """Whether it says itself what is reserved for its engines, or where."""
        return self.pool is not None or self.vram is not None


class Settings(Table):
    """A whole config."""

    host: HostSettings = HostSettings()
    gateway: GatewaySettings = GatewaySettings()
    control: ControlSettings = ControlSettings()
    metrics: MetricsSettings = MetricsSettings()
    history: HistorySettings = HistorySettings()
    engine: EngineSettings = EngineSettings()
    ram: RamSettings = RamSettings()
    staging: StagingSettings = StagingSettings()
    restart: RestartSettings = RestartSettings()
    fairness: FairnessSettings = FairnessSettings()
    gpus: GpuSettings = GpuSettings()
    pools: dict[PoolName, PoolSettings] = {}
    calendars: dict[PoolName, CalendarSettings] = {}
    models: dict[ModelName, ModelSettings] = {}

    _sources: tuple[Path, ...] = PrivateAttr(())

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files that these settings were read from, in their order."""
        return self._sources

    def read_from(self, files: tuple[Path, ...]) -> Settings:
        """Return the same settings, which came from `files`."""
        settings: Settings = self.model_copy()
        settings._sources = files
        return settings

    @property
    def control_socket(self) -> Path:
        """Where the admin socket is."""
        return self.control.socket or self.host.run_dir / "control.sock"

    @property
    def stage_folder(self) -> Path:
        """Where weights that are staged in a tmpfs are."""
        return self.staging.tmpfs or self.host.run_dir / "stage"

    def max_wait(self, model: str) -> float:
        """How long a request may be held until `model` is ready, in seconds."""
        return self.models[model].max_wait or self.gateway.max_wait

    def cannot_sleep(self, model: str, *, has_gpu: bool) -> str | None:
        """Say why engines of `model` can't be put to sleep on such a host; None where they can."""
        table = self.models[model]
        windows, cron = (each.rung for each in table.windows), (each.rung for each in table.cron)
        if Rung.ASLEEP not in (table.resting, table.idle.then, *windows, *cron):
            return "neither its `resting` nor its `idle.then` is asleep, nor a window of it"
        match self.engine.sleep:
            case SleepMode.OFF:
                return 'engine.sleep is "off"'
            case SleepMode.AUTO if not has_gpu:
                return "no NVIDIA GPU works here"
            case SleepMode.AUTO | SleepMode.ON | SleepMode.DRILL:
                return None

    def visible_devices(self, model: str) -> KeyPath | None:
        """Return the key that says to engines of `model` which GPUs they see; None where none."""
        if VISIBLE_DEVICES in self.models[model].env:
            return ("models", model, "env", VISIBLE_DEVICES)
        return ("engine", "env", VISIBLE_DEVICES) if VISIBLE_DEVICES in self.engine.env else None

    def start_timeout(self, model: str) -> float:
        """How long an engine of `model` may take to start, in seconds."""
        return self.models[model].start_timeout or self.engine.start_timeout


def keys_of(table: type[Table]) -> dict[str, object]:
    """Return the keys of a table as TOML has them, each with the type that its field holds."""
    return {field.alias or name: field.annotation for name, field in table.model_fields.items()}


def _tables(table: type[Table], name: str) -> Iterator[tuple[str, type[Table]]]:
    yield name, table
    for key, annotation in keys_of(table).items():
        path = f"{name}.{key}" if name else key
        if get_origin(annotation) is dict:
            inner, path = get_args(annotation)[1], f"{path}.NAME"
        elif get_origin(annotation) is tuple:
            inner = get_args(annotation)[0]
        else:
            inner = annotation
        if isinstance(inner, type) and issubclass(inner, Table):
            yield from _tables(inner, path)


TABLES = dict(_tables(Settings, ""))
"""Every table by its header; a model's stand under `models.NAME`, the whole under `""`."""

_NAMED = ("models", "pools", "calendars")


def table_at(path: KeyPath) -> type[Table] | None:
    """Return the table at a path such as `("models", "qwen", "idle")`, None if that is none."""
    named = (path[0], "NAME", *path[2:]) if path[:1] and path[0] in _NAMED and path[1:] else path
    return TABLES.get(".".join(str(key) for key in named if not isinstance(key, int)))
