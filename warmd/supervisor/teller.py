"""From a replica's change of state to the events that are worth writing down."""

from __future__ import annotations

from collections.abc import Iterable

from warmd.ladder import FileKind, Phase, SleepFigures
from warmd.replica import Replica, ReplicaState
from warmd.spoken import count, duration
from warmd.supervisor.events import EngineFailure, Events, Operation, Quarantine, RungChange
from warmd.supervisor.model import Managed

REMEMBERED = 20
"""On how many measured starts, and wakes, of a model an estimate rests."""

OVERDUE_GRACE_S = 5.0
"""The operation's own deadline strikes first; what is still there after it is stuck."""


class Teller:
    """Tells `events` what a model's replicas go through."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._overdue: dict[str, float] = {}  # replica -> since when its phase lasts, told once
        self._drains: dict[str, float] = {}  # replica -> since when it is put aside

    def tell(self, model: Managed, name: str, old: ReplicaState, new: ReplicaState) -> None:
        """Tell of the change of the replica `name` from `old` to `new`."""
        took: float | None = None
        if new.phase is not old.phase:
            took = self._tell_phase(model, name, old, new)
            self._measure_aside(model, name, new)
        stale = any(r.is_stale for r in model.replicas if r.name == name)
        if new.parts is not None and new.parts is not old.parts and not stale:
            self._events.sizes_measured(model.name, model.terms.sizes_key, new.parts)
        if new.phase in (Phase.BACKING_OFF, Phase.FAILED) and new.phase is not old.phase:
            self._events.engine_failed(_failure(model, name, old, new))
        self.tell_rungs(model, new.reason, took)

    def _tell_phase(
        self, model: Managed, name: str, old: ReplicaState, new: ReplicaState
    ) -> float | None:
        """Tell of the new phase; return what the way to it took, in seconds."""
        match new.phase:
            case Phase.STARTING:
                model.met[name] = model.told[name]
                self._events.start_began(model.name, name, new.reason)
            case Phase.DOWN if old.phase.is_up and old.doing.is_coming_up:
                # What failed backs off, and is told as that.
                began = old.doing_since if old.started_at is None else old.started_at
                lasted = new.since - began
                self._events.start_called_off(model.name, name, new.reason, lasted)
            case Phase.READY if old.phase is Phase.WAKING and new.last_wake is not None:
                model.wakes = [*model.wakes, new.last_wake.total][-REMEMBERED:]
                self._events.woke(model.name, name, new.last_wake, new.cycles)
                self._keep_figures(model, name, new)
                return new.last_wake.total
            case Phase.READY if old.phase is Phase.WARMING and new.last_start is not None:
                took = new.last_start.total
                model.starts = [*model.starts, took][-REMEMBERED:]
                same = model.starts_from.get(model.met[name], [])
                model.starts_from[model.met[name]] = [*same, took][-REMEMBERED:]
                self._events.start_ready(model.name, name, model.met[name], new.last_start)
                return took
            case Phase.ASLEEP if new.last_nap is not None and old.phase is Phase.FALLING_ASLEEP:
                self._events.slept(model.name, name, _level(model), new.last_nap, new.cycles)
                return new.last_nap.seconds
            case _:
                pass
        return None

    def _measure_aside(self, model: Managed, name: str, new: ReplicaState) -> None:
        """Keep how long it took from a drain's begin until the engine sleeps or has ended."""
        match new.phase:
            case Phase.DRAINING:
                self._drains[name] = new.since
            case Phase.FALLING_ASLEEP | Phase.STOPPING:
                pass
            case _:
                began = self._drains.pop(name, None)
                if began is not None and new.phase in (Phase.ASLEEP, Phase.DOWN):
                    model.asides = [*model.asides, new.since - began][-REMEMBERED:]

    def _keep_figures(self, model: Managed, name: str, new: ReplicaState) -> None:
        """Keep what the first sleep and wake of an engine took, where that is new."""
        replica = next(r for r in model.replicas if r.name == name)
        key, nap, wake = model.figures_key(replica), new.first_nap, new.last_wake
        if key is None or nap is None or wake is None or new.cycles > 1 or replica.is_stale:
            return  # only the first sleep of an engine tells what one takes, and of what it is
        figures = SleepFigures(nap.seconds, wake.total, nap.host_ram, nap.device_kept)
        model.figures[key] = figures
        self._events.sleep_measured(model.name, key, figures)

    def tell_rungs(self, model: Managed, reason: str, seconds: float | None) -> None:
        """Tell of each replica that stands on another rung than was last told."""
        for replica in model.replicas:
            old, new = model.told[replica.name], model.rung_of(replica)
            if old is not new:
                model.told[replica.name] = new
                change = RungChange(model.name, replica.name, old, new, reason, seconds)
                self._events.rung_changed(change)

    def tell_staging(self, model: Managed, kind: FileKind, problem: str) -> None:
        """Tell why files of a model are not in RAM, or not all."""
        self._events.staging_failed(model.name, kind, problem)

    def tell_staged(self, model: Managed, kind: FileKind, seconds: float, read: int) -> None:
        """Tell that files came into RAM."""
        self._events.staged(model.name, kind, seconds, read)

    def tell_eviction(self, model: Managed, kind: FileKind, sentence: str) -> None:
        """Tell what pushed files of a model out of RAM."""
        self._events.staging_evicted(model.name, kind, sentence)

    def tell_cards(
        self, doubts: Iterable[tuple[str, str | None]], moved: Iterable[Quarantine]
    ) -> None:
        """Tell of cards that go out of service or come back, and of doubts about others."""
        for quarantine in moved:
            self._events.card_quarantined(quarantine)
        for card, trouble in doubts:
            self._events.card_in_doubt(card, trouble)

    def watch(self, model: Managed, replica: Replica) -> None:
        """Name an operation that has outlived its own deadline, once."""
        late = replica.overdue
        if late is None or late < OVERDUE_GRACE_S:
            return
        since = replica.state.since
        if self._overdue.get(replica.name) == since:
            return
        self._overdue[replica.name] = since
        operation = Operation(model.name, replica.name, replica.state.phase, late)
        self._events.operation_overdue(operation)


def _level(model: Managed) -> int:
    return 1 if model.terms.sleep is None else model.terms.sleep.level


def _failure(model: Managed, name: str, old: ReplicaState, new: ReplicaState) -> EngineFailure:
    return EngineFailure(
        model.name,
        name,
        model.met.get(name, model.told[name]),
        cause=new.reason,
        follows=_what_follows(model.name, new),
        seconds=new.since - old.doing_since,
        during=old.doing,
        cycle=old.cycles,
        sleep_level=_level(model),
        rehearsal=old.rehearses,
    )


def _what_follows(model: str, state: ReplicaState) -> str:
    if state.phase is Phase.FAILED and state.for_good:
        return "not tried again, which would help nobody: mend the args, then `warmctl reload`"
    if state.phase is Phase.FAILED:
        return (
            f"given up after {count(state.failures, 'failure')} in a row: mend the cause, then "
            f"`warmctl set {model} auto`, or `warmctl reload` where it was the config"
        )
    delay = 0.0 if state.retry_at is None else max(0.0, state.retry_at - state.since)
    return f"failure {state.failures} in a row, next try in {duration(delay)}"
