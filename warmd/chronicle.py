"""What happens goes to the log, the history and the metrics. The one place that logs decisions."""

from __future__ import annotations

import logging

from warmd.control import Metrics
from warmd.gateway import RequestRecord
from warmd.history import History
from warmd.ladder import Rung, StartTimes
from warmd.policy import Override
from warmd.supervisor import Clock, EngineFailure, RungChange

log = logging.getLogger("warmd")


class Chronicle:
    """Writes down the supervisor's events."""

    def __init__(self, history: History, metrics: Metrics, clock: Clock) -> None:
        self._history = history
        self._metrics = metrics
        self._clock = clock

    def rung_changed(self, change: RungChange) -> None:
        """One line and one row for each change of rung, with its reason."""
        took = "" if change.seconds is None else f" in {change.seconds:.1f} s"
        log.info(
            "%s: %s -> %s%s: %s",
            *(change.replica, change.old, change.new, took, change.reason),
            extra={
                "warmd": {
                    "model": change.model,
                    "replica": change.replica,
                    "from": change.old.value,
                    "to": change.new.value,
                    "reason": change.reason,
                    "seconds": change.seconds,
                }
            },
        )
        self._history.record_decision(
            self._clock.wall(),
            change.model,
            change.replica,
            from_rung=change.old,
            to_rung=change.new,
            reason=change.reason,
            seconds=change.seconds,
        )

    def start_began(self, model: str, replica: str, reason: str) -> None:
        """Say that a start begins: the line that tells of its end may be minutes away."""
        log.info(
            "%s: starting: %s",
            *(replica, reason),
            extra={"warmd": {"model": model, "replica": replica, "reason": reason}},
        )

    def start_ready(self, model: str, replica: str, met: Rung, times: StartTimes) -> None:
        """Count a start and keep its stages: estimates rest on them."""
        self._metrics.start_ready(model, times)
        self._history.record_start(model, replica, met, times, self._clock.wall())

    def engine_failed(self, failure: EngineFailure) -> None:
        """Say what failed, why, and what follows."""
        log.error(
            "%s: %s; %s",
            *(failure.replica, failure.cause, failure.follows),
            extra={
                "warmd": {
                    "model": failure.model,
                    "replica": failure.replica,
                    "reason": failure.cause,
                    "seconds": failure.seconds,
                }
            },
        )
        if failure.was_ready:
            return  # it was no start that failed; the change of rung is written down by itself
        self._metrics.start_failed(failure.model)
        self._history.record_failure(
            failure.model,
            failure.replica,
            failure.met,
            reason=failure.cause,
            seconds=failure.seconds,
            at=self._clock.wall(),
        )

    def request_done(self, record: RequestRecord) -> None:
        """Count a request that is over; the history writes it down with its whole minute."""
        self._metrics.request_done(record)
        self._history.count_request(
            record.model,
            status=record.status,
            met=record.met,
            first_byte_s=record.first_byte_s,
            is_first=record.is_first,
            at=self._clock.wall(),
        )

    def engine_stuck(self, model: str, replica: str, pid: int) -> None:
        """Say that an engine can't be ended."""
        log.error(
            "%s: its processes (main process %d) outlive SIGKILL, and nothing else is started on "
            "its device before they end; a driver may hold them: look at their state in ps and at "
            "the kernel's log",
            *(replica, pid),
            extra={"warmd": {"model": model, "replica": replica}},
        )

    def staging_failed(self, model: str, problem: str) -> None:
        """Say why weights are not in RAM; the model can be started all the same."""
        log.warning("%s: not staged: %s", model, problem, extra={"warmd": {"model": model}})

    def override_changed(self, model: str, override: Override | None, reason: str) -> None:
        """Keep an operator's word across restarts."""
        what = "follows its own policy again" if override is None else f"is set to {override.rung}"
        log.info(
            "%s: %s: %s",
            *(model, what, reason),
            extra={"warmd": {"model": model, "reason": reason}},
        )
        rung = None if override is None else override.rung
        until = None if override is None else override.until
        self._history.set_override(model, rung, until, self._clock.wall())
