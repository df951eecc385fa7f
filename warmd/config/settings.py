"""The settings of a host and, in `model_settings`, of its models: every default stands there.

Lengths of time are seconds, sizes are bytes; in TOML both are strings with a unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_args, get_origin

from pydantic import AfterValidator, Field, PlainSerializer, PrivateAttr

from warmd.config.access_settings import KeySettings, TlsSettings
from warmd.config.address import Address
from warmd.config.fields import (
    AddressText,
    Bytes,
    DateText,
    Environment,
    GpuNames,
    Holder,
    ModelName,
    PoolName,
    Seconds,
    ShareText,
    WholePath,
    Zone,
    not_blank,
    not_empty,
    one_of,
)
from warmd.config.model_settings import ModelSettings
from warmd.config.problem import KeyPath
from warmd.config.table import Table, keys_of
from warmd.config.units import Share
from warmd.ladder import Rung

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"

CPU_KV_SPACE = "VLLM_CPU_KVCACHE_SPACE"
"""What a user sets for vLLM's KV cache on a CPU, in whole GiB."""


class HostSettings(Table):
    """Where warmd keeps its files on this machine. `timezone` None: the machine's own."""

    run_dir: WholePath = Path("/run/warmd")
    state_dir: WholePath = Path("/var/lib/warmd")
    cache_dir: WholePath = Path("/var/cache/warmd")
    engines_outlive_daemon: bool = False
    timezone: Zone | None = None


class GatewaySettings(Table):
    """The OpenAI-compatible front. `audit` None: where there are keys; a timeout None: for ever."""

    listen: Annotated[tuple[AddressText, ...], Field(strict=False), AfterValidator(not_empty)] = (
        Address("127.0.0.1", 8400),
    )
    agent_check: Annotated[tuple[AddressText, ...], Field(strict=False)] = ()
    api_keys: WholePath | None = None
    max_wait: Seconds = 180.0
    max_waiting: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    max_body: Bytes = 32 * 2**20
    header_timeout: Seconds = 10.0
    body_timeout: Seconds = 60.0
    connect_timeout: Seconds = 5.0
    first_byte_timeout: Seconds | None = None
    silence_timeout: Seconds | None = None
    say_after: Seconds = 10.0
    say_every: Seconds = 5.0
    drain: Seconds = 30.0
    audit: bool | None = None
    keys: dict[Holder, KeySettings] = Field(default_factory=dict)
    tls: TlsSettings = TlsSettings()

    @property
    def audits(self) -> bool:
        """Whether each request gets a line in the journal."""
        return self.api_keys is not None if self.audit is None else self.audit


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
    env: Environment = Field(default_factory=dict)
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


class CalendarSettings(Table):
    """Days with a name, for the windows of all models."""

    dates: Annotated[tuple[DateText, ...], Field(strict=False), AfterValidator(not_empty)]


@dataclass(frozen=True)
class _Places:
    """Where keys stand: the same settings may stand elsewhere."""

    by_key: Mapping[str, tuple[Path, int]] = field(compare=False)


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
    pools: dict[PoolName, PoolSettings] = Field(default_factory=dict)
    calendars: dict[PoolName, CalendarSettings] = Field(default_factory=dict)
    models: dict[ModelName, ModelSettings] = Field(default_factory=dict)

    _sources: tuple[Path, ...] = PrivateAttr(())
    _places: _Places = PrivateAttr(default_factory=lambda: _Places({}))

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files that these settings were read from, in their order."""
        return self._sources

    def read_from(
        self, files: tuple[Path, ...], places: Mapping[str, tuple[Path, int]] | None = None
    ) -> Settings:
        """Return the same settings, which came from `files`; `places`: of each key, dotted."""
        settings: Settings = self.model_copy()
        settings._sources, settings._places = files, _Places(places or {})
        return settings

    def place_of(self, key: str) -> tuple[Path, int | None]:
        """Return file and line of a dotted key, or of the nearest table around it."""
        while key:
            if (place := self._places.by_key.get(key)) is not None:
                return place
            key = key.rpartition(".")[0]
        return (self._sources[0] if self._sources else Path("the config")), None

    def by_systemd(self) -> Settings:
        """Return the same settings where systemd runs the engines: they outlive the daemon."""
        host = self.host.model_copy(update={"engines_outlive_daemon": True})
        settings: Settings = self.model_copy(update={"host": host})
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

    def max_waiting(self, model: str) -> int:
        """How many requests may be held at once until `model` is ready."""
        return self.models[model].max_waiting or self.gateway.max_waiting

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

_NAMED = (("models",), ("pools",), ("calendars",), ("gateway", "keys"))


def table_at(path: KeyPath) -> type[Table] | None:
    """Return the table at a path such as `("models", "qwen", "idle")`, None if that is none."""
    named = path
    for head in _NAMED:
        if path[: len(head)] == head and len(path) > len(head):
            named = (*head, "NAME", *path[len(head) + 1 :])
    return TABLES.get(".".join(str(key) for key in named if not isinstance(key, int)))
