from __future__ import annotations

import math
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from warmd.control import Metrics
from warmd.gateway.models import RequestRecord
from warmd.ladder import FileKind, Phase, Rung, Stage, Standing, StartTimes
from warmd.policy.opening import Hindrance
from warmd.status import (
    CardShare,
    CardStatus,
    ModelStatus,
    ReplicaStatus,
    StagedStatus,
    StagingStatus,
    Status,
)

CHAT = "/v1/chat/completions"


class Daemon:
    """Something whose state moves between scrapes."""

    def __init__(self) -> None:
        self.rung = Rung.STAGED
        self.models = ["tiny"]
        self.cards: tuple[CardStatus, ...] = ()

    def snapshot(self) -> Status:
        replica = ReplicaStatus(
            "tiny.0", self.rung, Phase.READY, 1, 0.0, "", 3, 0, None, None, None
        )
        staging = StagingStatus(1000, 2000, holding=True)
        weights = StagedStatus(
            *(FileKind.WEIGHTS, 1000, 2000, 0),
            held=False,
            busy=True,
            partial=False,
            paused=None,
            problem=None,
        )
        return Status(
            "0.1.0",
            1,
            0.0,
            0.0,
            {
                name: ModelStatus(
                    *(name, (), self.rung, Rung.HOT, "", None, None, 2, 1.5, staging, (replica,)),
                    staged=(weights,),
                )
                for name in self.models
            },
            self.cards,
        )


def scrape(metrics: Metrics) -> dict[str, float]:
    """Read the exposition as Prometheus does: `name{a=b,...}` -> value."""
    return {
        sample.name + "".join(f" {k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.expose().decode())
        for sample in family.samples
    }


def request(
    met: Rung, idle_s: float, first_byte_s: float | None = 0.2, **more: str
) -> RequestRecord:
    model, path = more.get("model", "tiny"), more.get("path", CHAT)
    return RequestRecord(model, path, 200, met, idle_s, 0.0, first_byte_s, 1.0)


def test_gauges_are_read_at_the_scrape() -> None:
    daemon = Daemon()
    metrics = Metrics(daemon.snapshot, [CHAT])
    before = scrape(metrics)
    assert before["warmd_rung model=tiny replica=tiny.0"] == 1
    assert before["warmd_target_rung model=tiny"] == 3
    assert before["warmd_waiting_requests model=tiny"] == 2
    assert before["warmd_oldest_wait_seconds model=tiny"] == 1.5
    assert before["warmd_in_flight replica=tiny.0"] == 3
    assert before["warmd_staged_bytes kind=weights model=tiny"] == 1000
    assert before["process_resident_memory_bytes"] > 0
    daemon.rung = Rung.HOT
    assert scrape(metrics)["warmd_rung model=tiny replica=tiny.0"] == 3
    daemon.models = []
    assert not [name for name in scrape(metrics) if name.startswith("warmd_rung")]


def test_what_staging_reads_and_what_is_pushed_out_is_counted() -> None:
    metrics = Metrics(Daemon().snapshot, [CHAT])
    evictions = "warmd_staging_evictions_total kind=weights model="
    assert scrape(metrics)[f"{evictions}tiny"] == 0
    metrics.staged(FileKind.WEIGHTS, 1.5, 3000)
    metrics.staged(FileKind.PROGRAM, 0.5, 1000)
    metrics.evicted("tiny", FileKind.WEIGHTS)
    metrics.evicted("gone", FileKind.WEIGHTS)
    after = scrape(metrics)
    assert after["warmd_staging_read_bytes_total"] == 4000
    assert after["warmd_staging_seconds_sum kind=weights"] == 1.5
    assert after["warmd_staging_seconds_count kind=program"] == 1
    assert (after[f"{evictions}tiny"], after[f"{evictions}(other)"]) == (1, 1)


def test_a_gpu_that_nobody_can_look_at_has_no_figures_of_the_moment() -> None:
    foreign = (CardShare("process 7 (x)", 5, 5),)
    card = CardStatus(
        *("GPU-8f3c", 0, "GPU 0", "a GPU", 100, 10, 60, 40, 50, 70, (), foreign, None, (), 1.0)
    )
    daemon = Daemon()
    metrics = Metrics(daemon.snapshot, [CHAT])
    daemon.cards = (card,)
    values = scrape(metrics)
    names = ("total", "used", "reserved", "taken", "foreign")
    assert [values[f"warmd_gpu_{name}_bytes gpu=0 uuid=GPU-8f3c"] for name in names] == [
        *(100, 60, 50, 70, 5),
    ]
    assert values["warmd_gpu_quarantined gpu=0 uuid=GPU-8f3c"] == 0
    assert values["warmd_vram_mismatch_total kind=kept-after-end model=tiny"] == 0
    daemon.cards = (replace(card, used=None, free=None, quarantine="it is lost"),)
    assert scrape(metrics)["warmd_gpu_quarantined gpu=0 uuid=GPU-8f3c"] == 1
    gone = {name.partition(" ")[0] for name in values} - {
        name.partition(" ")[0] for name in scrape(metrics)
    }
    assert gone == {"warmd_gpu_used_bytes", "warmd_gpu_foreign_bytes"}


def test_first_delay_is_kept_apart_from_the_requests_of_a_warm_model() -> None:
    metrics = Metrics(Daemon().snapshot, [CHAT])
    metrics.request_done(request(Rung.HOT, 10, 0.0009))
    metrics.request_done(request(Rung.HOT, 300, 0.002))
    metrics.request_done(request(Rung.HOT, 301))
    metrics.request_done(request(Rung.HOT, math.inf))
    metrics.request_done(request(Rung.STAGED, 10, 250.0))
    metrics.request_done(request(Rung.COLD, 10, first_byte_s=None))
    values = scrape(metrics)
    assert values["warmd_time_to_first_byte_seconds_count model=tiny"] == 2
    assert values["warmd_time_to_first_byte_seconds_bucket le=0.001 model=tiny"] == 1
    assert values["warmd_first_delay_seconds_count met=hot model=tiny"] == 2
    assert values["warmd_first_delay_seconds_bucket le=180.0 met=staged model=tiny"] == 0
    assert values["warmd_first_delay_seconds_bucket le=300.0 met=staged model=tiny"] == 1
    assert "warmd_first_delay_seconds_count met=cold model=tiny" not in values
    assert values[f"warmd_requests_total code=200 model=tiny path={CHAT}"] == 6


def test_labels_are_bounded() -> None:
    metrics = Metrics(Daemon().snapshot, [CHAT])
    for n in range(50):
        metrics.request_done(request(Rung.COLD, 0, model=f"m{n}", path=f"/{n}"))
    counted = {k: v for k, v in scrape(metrics).items() if k.startswith("warmd_requests_total")}
    assert counted == {"warmd_requests_total code=200 model=(other) path=(other)": 50}


def test_starts_are_counted_from_zero_and_timed_by_stage() -> None:
    daemon = Daemon()
    metrics = Metrics(daemon.snapshot, [CHAT])
    before = scrape(metrics)
    for what in ("starts", "sleeps", "wakes"):
        assert before[f"warmd_{what}_total model=tiny outcome=failed"] == 0
    assert before["warmd_overdue_operations_total model=tiny"] == 0
    metrics.start_failed("tiny")
    metrics.start_ready("tiny", StartTimes({Stage.IMPORTS: 8.5, Stage.WEIGHTS: 0.5}))
    values = scrape(metrics)
    assert values["warmd_starts_total model=tiny outcome=failed"] == 1
    assert values["warmd_starts_total model=tiny outcome=ready"] == 1
    assert values["warmd_start_stage_seconds_sum model=tiny stage=imports"] == 8.5
    assert values["warmd_start_stage_seconds_count model=tiny stage=weights"] == 1


def test_how_long_a_model_stood_where_and_why() -> None:
    metrics = Metrics(Daemon().snapshot, [CHAT])
    hot = Standing("tiny", Rung.HOT, "calendar", 2, 4, highest=True)
    metrics.stood([hot, replace(hot, rung=Rung.STAGED, gpus=0, highest=False)], 2.5)
    metrics.stood([hot], 1.0)
    metrics.request_done(request(Rung.HOT, 900.0)._replace(spared=Rung.ASLEEP))
    told = scrape(metrics)
    assert told["warmd_rung_seconds_total cause=calendar model=tiny rung=hot"] == 3.5
    assert told["warmd_rung_seconds_total cause=calendar model=tiny rung=staged"] == 0.0
    assert told["warmd_gpu_seconds_total cause=calendar model=tiny rung=hot"] == 14.0
    assert told["warmd_spared_requests_total model=tiny otherwise=asleep"] == 1


def test_windows_are_counted_by_what_became_of_them() -> None:
    metrics = Metrics(Daemon().snapshot, [CHAT])
    before = scrape(metrics)
    outcomes = ("ready", "away", "failing", "starting", "held-up")
    assert [before[f"warmd_windows_total model=tiny outcome={each}"] for each in outcomes] == [
        0
    ] * 5
    metrics.window_opened("tiny", None)
    metrics.window_opened("tiny", Hindrance.AWAY)
    after = scrape(metrics)
    counted = [after[f"warmd_windows_total model=tiny outcome={each}"] for each in outcomes]
    assert counted == [1, 1, 0, 0, 0]
