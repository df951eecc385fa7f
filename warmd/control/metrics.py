"""What the daemon counts, for Prometheus. Every label has a bounded set of values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from warmd.gateway.models import RequestRecord
from warmd.ladder import FileKind, Standing, StartTimes, WakeTimes
from warmd.policy import Synthetic
from warmd.policy.opening import Hindrance
from warmd.status import CardStatus, ModelStatus, Status

SECONDS_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300),
)

_OTHER = "(other)"


class Metrics:
    """The daemon's counters, fed by events, and its gauges, read from `snapshot` at each scrape.

    A request's path is counted by name where it is one of `paths`, as "(other)" elsewhere; a model
    that `snapshot` does not know likewise. `snapshot` is first called when something is counted.
    """

    def __init__(self, snapshot: Callable[[], Status], paths: Collection[str]) -> None:
        # They would double the series.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._snapshot = snapshot
        self._paths = frozenset(paths)
        self._models: set[str] = set()
        # What each request is counted in: to find it by its labels takes longer than to count.
        self._request_counters: dict[tuple[str, str, int], Counter] = {}
        self._first_bytes: dict[str, Histogram] = {}
        registry = self._registry = CollectorRegistry()
        registry.register(_Gauges(snapshot))
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "warmd_requests",
            "Requests by how they ended: a status, also told inside a stream (499: client left).",
            ("model", "path", "code"),
            registry=registry,
        )
        self._first_delay = Histogram(
            "warmd_first_delay_seconds",
            "From arrival to the engine's first byte, for requests that met their model not hot, "
            "or idle for more than 5 minutes.",
            ("model", "met"),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._first_byte = Histogram(
            "warmd_time_to_first_byte_seconds",
            "From arrival to the engine's first byte, for all other requests.",
            ("model",),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._starts = Counter(
            "warmd_starts",
            "Engine starts that ended, ready or failed.",
            ("model", "outcome"),
            registry=registry,
        )
        self._stages = Histogram(
            "warmd_start_stage_seconds",
            "How long each stage of an engine's start took, for starts that got ready.",
            ("model", "stage"),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )

        self._sleeps = Counter(
            "warmd_sleeps",
            "Engines put to sleep, or failed at it.",
            ("model", "outcome"),
            registry=registry,
        )
        self._wakes = Counter(
            "warmd_wakes",
            "Engines woken and proved by their canary, or failed at it.",
            ("model", "outcome"),
            registry=registry,
        )
        self._wake_parts = Histogram(
            "warmd_wake_seconds",
            "How long each part of a wake took: the engine's own, the first answer, the canary.",
            ("model", "part"),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._overdue = Counter(
            "warmd_overdue_operations",
            "Operations on an engine that outlived their own deadline.",
            ("model",),
            registry=registry,
        )

        self._mismatches = Counter(
            "warmd_vram_mismatch",
            "Engines that held more than they reserve, or that ended and kept their memory.",
            ("model", "kind"),
            registry=registry,
        )

        self._staging = Histogram(
            "warmd_staging_seconds",
            "What it took to bring a set of files into RAM, from the order to the measurement.",
            ("kind",),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._read = Counter(
            "warmd_staging_read_bytes", "Bytes that were brought into RAM.", registry=registry
        )
        self._hours = _Stood()
        registry.register(self._hours)
        self._spared = Counter(
            "warmd_spared_requests",
            "Requests that met their model hot after an idle time only thanks to its calendar, by "
            "the rung that they would have met.",
            ("model", "otherwise"),
            registry=registry,
        )
        self._windows = Counter(
            "warmd_windows",
            "Times at which a calendar wanted a model ready: `ready` by then, or missed, by what "
            "was in the way at that moment.",
            ("model", "outcome"),
            registry=registry,
        )
        self._evictions = Counter(
            "warmd_staging_evictions",
            "How often a part of what was staged was pushed out of RAM.",
            ("model", "kind"),
            registry=registry,
        )

        self._synthetic = Counter(
            "warmd_synthetic_requests",
            "Keep-alives and warm-ups of warmd's own, which are in no other count of requests.",
            ("model", "kind", "outcome"),
            registry=registry,
        )
        self._synthetic_token = Histogram(
            "warmd_synthetic_first_token_seconds",
            "How long these waited for their first token.",
            ("model", "kind"),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )

    def request_done(self, record: RequestRecord) -> None:
        """Count a request that is over."""
        model = self._known(record.model)
        path = record.path if record.path in self._paths else _OTHER
        kind = model, path, record.status
        counter = self._request_counters.get(kind)
        if counter is None:
            counter = self._requests.labels(model, path, str(record.status))
            self._request_counters[kind] = counter
        counter.inc()
        if record.spared is not None:
            self._spared.labels(model, record.spared.value).inc()
        if record.first_byte_s is None:
            return
        if record.is_first:
            self._first_delay.labels(model, record.met.value).observe(record.first_byte_s)
        else:
            first_byte = self._first_bytes.get(model)
            if first_byte is None:
                first_byte = self._first_bytes[model] = self._first_byte.labels(model)
            first_byte.observe(record.first_byte_s)

    def stood(self, standings: Iterable[Standing], seconds: float) -> None:
        """Count that models stood so for `seconds`."""
        self._hours.add(standings, seconds)

    def synthetic_done(self, model: str, kind: Synthetic, first_token_s: float | None) -> None:
        """Count a request of warmd's own; `first_token_s` None: it failed."""
        name, failed = self._known(model), first_token_s is None
        self._synthetic.labels(name, kind.value, "failed" if failed else "answered").inc()
        if first_token_s is not None:
            self._synthetic_token.labels(name, kind.value).observe(first_token_s)

    def window_opened(self, model: str, missed: Hindrance | None) -> None:
        """Count a time to be ready by that has come; `missed` None: the model was ready."""
        outcome = "ready" if missed is None else missed.value
        self._windows.labels(self._known(model), outcome).inc()

    def start_ready(self, model: str, times: StartTimes) -> None:
        """Count a start that got ready, stage by stage."""
        self._starts.labels(self._known(model), "ready").inc()
        for stage, seconds in times.stages.items():
            self._stages.labels(self._known(model), stage.value).observe(seconds)

    def start_failed(self, model: str) -> None:
        """Count a start that failed."""
        self._starts.labels(self._known(model), "failed").inc()

    def slept(self, model: str) -> None:
        """Count an engine that fell asleep."""
        self._sleeps.labels(self._known(model), "asleep").inc()

    def sleep_failed(self, model: str) -> None:
        """Count a sleep that failed."""
        self._sleeps.labels(self._known(model), "failed").inc()

    def woke(self, model: str, times: WakeTimes) -> None:
        """Count an engine that woke, part by part."""
        self._wakes.labels(self._known(model), "ready").inc()
        for part, seconds in times.parts.items():
            self._wake_parts.labels(self._known(model), part).observe(seconds)

    def wake_failed(self, model: str) -> None:
        """Count a wake that failed, or after which the answer was another one."""
        self._wakes.labels(self._known(model), "failed").inc()

    def operation_overdue(self, model: str) -> None:
        """Count an operation that outlived its deadline."""
        self._overdue.labels(self._known(model)).inc()

    def staged(self, kind: FileKind, seconds: float, read: int) -> None:
        """Count a set of files that came into RAM, and its bytes."""
        self._staging.labels(kind.value).observe(seconds)
        self._read.inc(read)

    def evicted(self, model: str, kind: FileKind) -> None:
        """Count that a part of what was staged was pushed out."""
        self._evictions.labels(self._known(model), kind.value).inc()

    def vram_mismatch(self, model: str, kind: str) -> None:
        """Count VRAM that is held beyond a reservation, or beyond an engine's end."""
        self._mismatches.labels(self._known(model), kind).inc()

    def expose(self) -> bytes:
        """Return everything in Prometheus' text format."""
        self._models = set(self._snapshot().models)
        for model in self._models:
            # From 0, or the first one is no increase.
            for outcome in ("ready", "failed"):
                self._starts.labels(model, outcome)
                self._wakes.labels(model, outcome)
            for outcome in ("asleep", "failed"):
                self._sleeps.labels(model, outcome)
            for window in ("ready", *Hindrance):
                self._windows.labels(model, str(window))
            self._overdue.labels(model)
            for kind in Synthetic:
                for outcome in ("answered", "failed"):
                    self._synthetic.labels(model, kind.value, outcome)
            for what in ("holds-more", "kept-after-end"):
                self._mismatches.labels(model, what)
            for files in FileKind:
                self._evictions.labels(model, files.value)
        return generate_latest(self._registry)

    def _known(self, model: str) -> str:
        if model not in self._models:
            self._models = set(self._snapshot().models)
        return model if model in self._models else _OTHER


class _Stood(Collector):
    """How long models stood where, and what they used meanwhile."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str, str], tuple[float, float]] = {}

    def add(self, standings: Iterable[Standing], seconds: float) -> None:
        for each in standings:
            key = (each.model, each.rung.value, each.cause)
            stood, used = self._seconds.get(key, (0.0, 0.0))
            self._seconds[key] = (stood + seconds * each.highest, used + seconds * each.gpus)

    def describe(self) -> Iterable[Metric]:
        """The same without series."""
        return self._families({})

    def collect(self) -> Iterable[Metric]:
        """Tell what was added so far."""
        return self._families(self._seconds)

    def _families(
        self, told: Mapping[tuple[str, str, str], tuple[float, float]]
    ) -> Iterable[Metric]:
        labels = ("model", "rung", "cause")
        stood = CounterMetricFamily(
            "warmd_rung_seconds",
            "How long a model stood on a rung, by its warmest replica, and what it rested on: "
            "operator, demand, calendar or rests.",
            labels=labels,
        )
        used = CounterMetricFamily(
            "warmd_gpu_seconds",
            "GPUs that a model's engines used, times seconds; an engine without a GPU counts as 1.",
            labels=labels,
        )
        for key, (seconds, gpu_seconds) in told.items():
            stood.add_metric(key, seconds)
            used.add_metric(key, gpu_seconds)
        return (stood, used)


class _Gauges(Collector):
    """The snapshot as gauges: what is gone from it is gone from the next scrape."""

    def __init__(self, snapshot: Callable[[], Status]) -> None:
        self._snapshot = snapshot

    def describe(self) -> list[GaugeMetricFamily]:
        """No snapshot is taken before the first scrape."""
        return [*_gauges([]), *_cards(())]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the snapshot, once for each scrape."""
        status = self._snapshot()
        yield from _gauges(list(status.models.values()))
        yield from _cards(status.cards)


def _cards(cards: Sequence[CardStatus]) -> list[GaugeMetricFamily]:
    """Tell of each card what is known of it now: what nobody can tell has no series."""
    labels = ("gpu", "uuid")
    total = GaugeMetricFamily("warmd_gpu_total_bytes", "A GPU's memory.", labels=labels)
    used = GaugeMetricFamily("warmd_gpu_used_bytes", "What everybody holds of it.", labels=labels)
    reserved = GaugeMetricFamily(
        "warmd_gpu_reserved_bytes",
        "What is reserved for engines that are up and awake.",
        labels=labels,
    )
    taken = GaugeMetricFamily(
        "warmd_gpu_taken_bytes",
        "What nothing else is started on: engines, sleepers, foreign processes or headroom.",
        labels=labels,
    )
    foreign = GaugeMetricFamily(
        "warmd_gpu_foreign_bytes", "What processes of others hold of it.", labels=labels
    )
    sick = GaugeMetricFamily(
        "warmd_gpu_quarantined", "1 where nothing is started on it: it is sick.", labels=labels
    )
    for card in cards:
        names = (str(card.index), card.key)
        sick.add_metric(names, card.quarantine is not None)
        total.add_metric(names, card.total)
        reserved.add_metric(names, card.reserved)
        taken.add_metric(names, card.taken)
        if card.used is not None:
            used.add_metric(names, card.used)
            foreign.add_metric(names, sum(each.held for each in card.foreign))
    return [total, used, reserved, taken, foreign, sick]


def _gauges(models: list[ModelStatus]) -> list[GaugeMetricFamily]:
    rung = GaugeMetricFamily(
        "warmd_rung",
        "The rung a replica stands on: 0 cold, 1 staged, 2 asleep, 3 hot.",
        labels=("model", "replica"),
    )
    in_flight = GaugeMetricFamily(
        "warmd_in_flight", "Requests that a replica is answering.", labels=("replica",)
    )
    target = GaugeMetricFamily(
        "warmd_target_rung", "The rung a model shall be on, as in warmd_rung.", labels=("model",)
    )
    waiting = GaugeMetricFamily(
        "warmd_waiting_requests", "Requests that wait for their model.", labels=("model",)
    )
    wanted = GaugeMetricFamily(
        "warmd_replicas_wanted", "How many engines a model shall have.", labels=("model",)
    )
    queued = GaugeMetricFamily(
        "warmd_queued_requests",
        "Requests in flight that wait inside an engine; asked where its model scales.",
        labels=("replica",),
    )
    oldest = GaugeMetricFamily(
        "warmd_oldest_wait_seconds", "How long the oldest of them has waited.", labels=("model",)
    )
    staged = GaugeMetricFamily(
        "warmd_staged_bytes",
        "Bytes of a model's files that are in RAM; program files are shared by several models.",
        labels=("model", "kind"),
    )
    pinned = GaugeMetricFamily(
        "warmd_sleep_host_bytes",
        "RAM of the host that an engine has taken for its sleep, and holds while it lives; by PSS, "
        "of another user's engine by RSS.",
        labels=("replica",),
    )
    kept = GaugeMetricFamily(
        "warmd_sleep_device_bytes",
        "What an engine kept on the device in its last sleep.",
        labels=("replica",),
    )
    for model in models:
        target.add_metric((model.name,), model.target.height)
        waiting.add_metric((model.name,), model.waiting)
        oldest.add_metric((model.name,), model.oldest_wait)
        wanted.add_metric((model.name,), model.replicas_wanted)
        for each in model.staged:
            staged.add_metric((model.name, each.kind), each.done)
        for replica in model.replicas:
            rung.add_metric((model.name, replica.name), replica.rung.height)
            in_flight.add_metric((replica.name,), replica.in_flight)
            queued.add_metric((replica.name,), replica.queued)
            if replica.sleep is not None:
                if replica.sleep.host_ram is not None:
                    pinned.add_metric((replica.name,), replica.sleep.host_ram)
                if replica.sleep.device_kept is not None:
                    kept.add_metric((replica.name,), replica.sleep.device_kept)
    return [rung, target, wanted, waiting, oldest, in_flight, queued, staged, pinned, kept]
