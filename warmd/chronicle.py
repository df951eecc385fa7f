"""What happens goes to the log, the history and the metrics. The one place that logs decisions."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from warmd.control import Metrics
from warmd.gateway import RequestRecord
from warmd.history import History, KeptOpening
from warmd.ladder import (
    FileKind,
    MeasuredParts,
    Phase,
    Rung,
    SleepFigures,
    Standing,
    StartTimes,
    WakeTimes,
)
from warmd.message_ids import MessageId
from warmd.policy import Override, Synthetic
from warmd.policy.opening import Missed, Opening
from warmd.replica import Nap
from warmd.residency import StartFiles
from warmd.spoken import count, duration, size
from warmd.supervisor import (
    Clock,
    EngineFailure,
    Mismatch,
    Operation,
    Quarantine,
    RungChange,
)
from warmd.wall_time import clock as shown

log = logging.getLogger("warmd")

_BOOKED_EVERY_S = 1.0
"""How long what doesn't change is not booked: a flood of events costs no more than a tick."""


class Chronicle:
    """Writes down the supervisor's events."""

    def __init__(self, history: History, metrics: Metrics, clock: Clock, files: StartFiles) -> None:
        self._files = files
        self._history = history
        self._metrics = metrics
        self._clock = clock
        self._stood: Sequence[Standing] = ()
        self._looked = 0.0

    def rung_changed(self, change: RungChange) -> None:
        """One line and one row for each change of rung, with its reason."""
        took = "" if change.seconds is None else f" in {change.seconds:.1f} s"
        log.info(
            "%s: %s -> %s%s: %s",
            *(change.replica, change.old, change.new, took, change.reason),
            extra={
                "message_id": MessageId.RUNG_CHANGED,
                "warmd": {
                    "model": change.model,
                    "replica": change.replica,
                    "from": change.old.value,
                    "to": change.new.value,
                    "reason": change.reason,
                    "seconds": change.seconds,
                },
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
            extra=MessageId.START_BEGAN.about(model=model, replica=replica, reason=reason),
        )
        self._files.began(model, replica)

    def start_called_off(self, model: str, replica: str, reason: str, seconds: float) -> None:
        """Say that a start is given up: else its first line would be its last."""
        log.info(
            "%s: its start is called off after %.1f s: %s",
            *(replica, seconds, reason),
            extra=MessageId.START_CALLED_OFF.about(
                model=model, replica=replica, reason=reason, seconds=seconds
            ),
        )

    def start_ready(self, model: str, replica: str, met: Rung, times: StartTimes) -> None:
        """Count a start and keep its stages: estimates rest on them."""
        self._metrics.start_ready(model, times)
        at = self._clock.wall()
        self._history.record_start(model, replica, met, times, at)
        self._files.ready(model, replica, at)

    def slept(self, model: str, replica: str, level: int, nap: Nap, cycle: int) -> None:
        """Keep what a sleep took; the change of rung is told by itself."""
        self._metrics.slept(model)
        self._history.sleeps.record(
            model,
            replica,
            level,
            seconds=nap.seconds,
            host_ram=nap.host_ram,
            device_kept=nap.device_kept,
            cycle=cycle,
            rehearsal=nap.rehearsal,
            at=self._clock.wall(),
        )

    def woke(self, model: str, replica: str, times: WakeTimes, cycle: int) -> None:
        """Keep what a wake took: estimates rest on it."""
        self._metrics.woke(model, times)
        self._history.sleeps.record_wake(model, replica, times, cycle, self._clock.wall())

    def sleep_measured(self, model: str, key: str, figures: SleepFigures) -> None:
        """Keep what the first sleep and wake of a model's engine took."""
        host = "" if figures.host_ram is None else f", holds {size(figures.host_ram)} of RAM"
        kept = figures.device_kept
        device = "" if kept is None else f" and {size(kept)} of VRAM while it sleeps"
        log.info(
            "%s: its first sleep took %.1f s%s%s; it woke in %.1f s",
            *(model, figures.first_sleep_s, host, device, figures.wake_s),
            extra=MessageId.SLEEP_MEASURED.about(model=model),
        )
        self._history.sleeps.keep_figures(key, model, figures, self._clock.wall())

    def sizes_measured(self, model: str, key: str, parts: MeasuredParts) -> None:
        """Keep what an engine took of each GPU: sizes rest on it."""
        self._history.keep_sizes(key, model, parts, self._clock.wall())

    def engine_failed(self, failure: EngineFailure) -> None:
        """Say what failed, why, and what follows."""
        log.error(
            "%s: %s; %s",
            *(failure.replica, failure.cause, failure.follows),
            extra=MessageId.ENGINE_FAILED.about(
                model=failure.model,
                replica=failure.replica,
                reason=failure.cause,
                seconds=failure.seconds,
            ),
        )
        at = self._clock.wall()
        match failure.during:
            case Phase.STARTING | Phase.WARMING | Phase.ADOPTING:
                self._metrics.start_failed(failure.model)
                self._history.record_failure(
                    failure.model,
                    failure.replica,
                    failure.met,
                    reason=failure.cause,
                    seconds=failure.seconds,
                    at=at,
                )
            case Phase.FALLING_ASLEEP:
                self._metrics.sleep_failed(failure.model)
                self._history.sleeps.record_failure(
                    failure.model,
                    failure.replica,
                    failure.sleep_level,
                    reason=failure.cause,
                    seconds=failure.seconds,
                    cycle=failure.cycle + 1,
                    rehearsal=failure.rehearsal,
                    at=at,
                )
            case Phase.WAKING:
                self._metrics.wake_failed(failure.model)
                self._history.sleeps.record_wake_failure(
                    failure.model,
                    failure.replica,
                    reason=failure.cause,
                    seconds=failure.seconds,
                    cycle=failure.cycle,
                    at=at,
                )
            case _:
                pass  # an engine that ran: the change of rung is written down by itself

    def operation_overdue(self, operation: Operation) -> None:
        """Name what has outlived its own deadline, and holds up its device."""
        late = duration(operation.overdue)
        log.error(
            "%s: %s for %s longer than it may, and nothing else is begun on its device meanwhile; "
            "if its log shows nothing, kill its engine, and please report it",
            *(operation.replica, operation.phase.words, late),
            extra=MessageId.OPERATION_OVERDUE.about(
                model=operation.model, replica=operation.replica
            ),
        )
        self._metrics.operation_overdue(operation.model)

    def reservation_exceeded(self, mismatch: Mismatch) -> None:
        """Name an engine that holds more than was promised to it."""
        log.warning(
            "%s",
            mismatch.sentence.removeprefix(f"{mismatch.replica} "),  # the line begins with it
            extra=MessageId.RESERVATION_EXCEEDED.about(
                model=mismatch.model, replica=mismatch.replica
            ),
        )
        self._metrics.vram_mismatch(mismatch.model, "holds-more")

    def card_in_doubt(self, card: str, trouble: str | None) -> None:
        """Name a card that nobody can look at, and tell when one can again."""
        if trouble is None:
            log.info(
                "%s can be looked at again, and engines are started on it as before",
                card,
                extra=MessageId.CARD_SEEN_AGAIN.about(gpu=card),
            )
            return
        log.error(
            "%s: nobody can tell what it holds: %s; engines that run on it go on, and none with a "
            "reservation is started or woken on it meanwhile",
            *(card, trouble),
            extra=MessageId.CARD_IN_DOUBT.about(gpu=card, reason=trouble),
        )

    def card_quarantined(self, quarantine: Quarantine) -> None:
        """Name a GPU that goes out of service, with what to do, or that is back."""
        if quarantine.why is None:
            log.info(
                "%s is back in service, and engines start on it as before",
                quarantine.card,
                extra=MessageId.CARD_RETURNED.about(gpu=quarantine.card),
            )
            return
        log.error(
            "%s is quarantined: %s; engines that run on it go on while they answer, and none is "
            "started or woken on it: %s",
            *(quarantine.card, quarantine.why, quarantine.remedy),
            extra=MessageId.CARD_QUARANTINED.about(gpu=quarantine.card, reason=quarantine.why),
        )

    def memory_kept(self, model: str, replica: str, kept: str) -> None:
        """Name memory that outlives its engine: nothing is started over it."""
        log.error(
            "%s: its engine has ended, and %s; nothing is started over that before it is free: if "
            "it stays, look at the kernel's log and reset the GPU (nvidia-smi --gpu-reset)",
            *(replica, kept),
            extra=MessageId.MEMORY_KEPT.about(model=model, replica=replica),
        )
        self._metrics.vram_mismatch(model, "kept-after-end")

    def request_done(self, record: RequestRecord) -> None:
        """Count a request that is over; the history writes it down with its whole minute."""
        self._metrics.request_done(record)
        self._history.count_request(
            record.model,
            status=record.status,
            met=record.met,
            first_byte_s=record.first_byte_s,
            is_first=record.is_first,
            total_s=record.total_s,
            spared=record.spared,
            at=self._clock.wall(),
        )

    def stands(self, standings: Sequence[Standing]) -> None:
        """Book the time since the last look on where models stood then; to be called at each look.

        By the monotonic clock: one that was set makes no hours, and a host that sleeps has none.
        """
        now = self._clock.monotonic()
        seconds = now - self._looked
        if seconds < _BOOKED_EVERY_S and standings == self._stood:
            return
        if self._stood:
            self._history.count_hours(self._stood, seconds, self._clock.wall())
            self._metrics.stood(self._stood, seconds)
        self._stood, self._looked = standings, now

    def synthetic_done(
        self,
        model: str,
        replica: str,
        kind: Synthetic,
        *,
        idle_s: float,
        seconds: float,
        first_token_s: float | None,
        trouble: str | None,
        tell: bool,
    ) -> None:
        """Count a request of warmd's own, apart from users'; `tell`: that is news.

        Where it failed, `trouble` says why; whether the engine hangs is for its watch to say.
        """
        self._metrics.synthetic_done(model, kind, first_token_s)
        self._history.synthetic.record(
            model,
            replica,
            kind.value,
            at=self._clock.wall(),
            idle_s=idle_s,
            seconds=seconds,
            first_token_s=first_token_s,
            reason=trouble,
        )
        if not tell:
            return
        if trouble is None:
            log.info(
                "%s: its %s is answered again",
                *(replica, kind.words),
                extra=MessageId.OWN_REQUEST_ANSWERED.about(model=model, replica=replica),
            )
            return
        log.warning(
            "%s: its %s failed: %s; it stays in service while it lives and its counters move",
            *(replica, kind.words, trouble),
            extra=MessageId.OWN_REQUEST_FAILED.about(model=model, replica=replica, reason=trouble),
        )

    def engine_stuck(self, model: str, replica: str, pid: int) -> None:
        """Say that an engine can't be ended."""
        log.error(
            "%s: its processes (main process %d) outlive SIGKILL, and nothing else is started on "
            "its device before they end; a driver may hold them: look at their state in ps and at "
            "the kernel's log",
            *(replica, pid),
            extra=MessageId.ENGINE_STUCK.about(model=model, replica=replica),
        )

    def staged(self, model: str, kind: FileKind, seconds: float, read: int) -> None:
        """Count what was staged; where it moves a model, the change of rung is told by itself."""
        self._metrics.staged(kind, seconds, read)
        log.debug("%s: its %s came into RAM in %.1f s", model, kind.words, seconds)

    def staging_failed(self, model: str, kind: FileKind, problem: str) -> None:
        """Say why files are not in RAM; the model can be started all the same."""
        what = "not staged" if kind is FileKind.WEIGHTS else f"its {kind.words} aren't staged"
        why = problem.removeprefix(f"{model}: ")  # the line begins with it
        log.warning(
            "%s: %s: %s",
            model,
            what,
            why,
            extra=MessageId.STAGING_FAILED.about(model=model, reason=why),
        )

    def staging_evicted(self, model: str, kind: FileKind, sentence: str) -> None:
        """Say what pushed a part of the files out of RAM; it is brought back."""
        self._metrics.evicted(model, kind)
        log.warning(
            "%s: its %s: %s",
            *(model, kind.words, sentence),
            extra=MessageId.STAGING_EVICTED.about(model=model, reason=sentence),
        )

    def replicas_wanted(self, model: str, was: int, wanted: int, why: str) -> None:
        """Say how many replicas the load of a model asks for, and why."""
        log.info(
            "%s: %s wanted, where %s: %s",
            model,
            count(wanted, "replica"),
            "1 was" if was == 1 else f"{was} were",
            why,
            extra=MessageId.REPLICAS_WANTED.about(model=model, reason=why),
        )

    def calendar_in_force(self, model: str, mark: str, since: float) -> None:
        """Keep since when a model has the calendar that it has: a later daemon judges by it."""
        self._history.openings.record_calendar(model, mark, since)

    def window_opened(self, model: str, opening: Opening, missed: Missed | None) -> None:
        """Keep that a time to be ready by has come; where it was missed, say why."""
        self._metrics.window_opened(model, None if missed is None else missed.hindrance)
        told = opening.at, opening.until, opening.name, opening.replicas
        if missed is None:
            self._history.openings.record(model, KeptOpening(*told, late=0.0))
            return
        why = missed.hindrance.value, missed.reason
        self._history.openings.record(model, KeptOpening(*told, None, *why))
        by = shown(opening.at, self._clock.wall(), opening.zone)
        some = f"only {missed.ready} of {count(opening.replicas, 'replica')} ready"
        log.warning(
            "%s: %s by %s, as its %s wants it: %s",
            *(model, some if missed.ready else "not ready", by, opening.name, missed.reason),
            extra=MessageId.WINDOW_MISSED.about(model=model, reason=missed.reason),
        )

    def window_failing(self, model: str, opening: Opening, missed: Missed) -> None:
        """Keep why what was missed isn't ready: the failure itself is told by itself."""
        why = missed.hindrance.value, missed.reason
        self._history.openings.record_hindrance(model, opening.at, *why)

    def window_ready(self, model: str, opening: Opening, late: float) -> None:
        """Say that what was missed is ready at last."""
        now = self._clock.wall()
        self._history.openings.record_ready(model, opening.at, late)
        log.info(
            "%s: ready at %s, %s late for its %s",
            *(model, shown(now, now, opening.zone), duration(late), opening.name),
            extra=MessageId.WINDOW_READY.about(model=model, seconds=late),
        )

    def window_over(self, model: str, opening: Opening) -> None:
        """Say that nobody waits any longer for what was missed."""
        by = shown(opening.at, self._clock.wall(), opening.zone)
        log.warning(
            "%s: its %s is over, and it never was ready since %s",
            *(model, opening.name, by),
            extra=MessageId.WINDOW_OVER.about(model=model),
        )

    def override_changed(self, model: str, override: Override | None, reason: str) -> None:
        """Keep an operator's word across restarts."""
        what = "follows its own policy again"
        if override is not None:
            what = f"is {'kept at least' if override.floor else 'set to'} {override.rung}"
            if override.replicas is not None:
                what = f"{what} with {count(override.replicas, 'replica')}"
            if override.until is not None:
                left = max(0.0, override.until - self._clock.wall())
                what = f"{what} for {duration(round(left))}"
        log.info(
            "%s: %s: %s",
            *(model, what, reason),
            extra=MessageId.OVERRIDE_CHANGED.about(model=model, reason=reason),
        )
        rung = None if override is None else override.rung
        until = None if override is None else override.until
        floor = override is not None and override.floor
        many = None if override is None else override.replicas
        wall = self._clock.wall()
        self._history.overrides.set(model, rung, until, wall, floor=floor, replicas=many)
