"""The n-th engine of a model, as the supervisor orders it and the gateway uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import aiohttp

from warmd.engine.stages import StartTracker
from warmd.ladder import Phase, Rung, Stage
from warmd.launch import Launcher
from warmd.replica.desk import Desk, Orders, Places, Turn
from warmd.replica.life import Life
from warmd.replica.ports import EngineConnection, Fit, GivesBack, Measure, ReplicaListener
from warmd.replica.record import EngineRecord
from warmd.replica.state import REHEARSED_S, ReplicaState


class ReplicaLease:
    """One request's place on a ready replica."""

    __slots__ = ("_connection", "_ended", "_places", "_visit", "replica", "socket")

    def __init__(
        self,
        name: str,
        places: Places,
        connection: EngineConnection,
        ended: Callable[[], None] | None = None,
        *,
        visit: bool = False,
    ) -> None:
        self._places: Places | None = places
        self._visit = visit
        self._connection = connection
        self._ended = ended
        self.replica = name
        self.socket = connection.socket

    @property
    def session(self) -> aiohttp.ClientSession:
        """A session to its engine, for requests of warmd's own."""
        return self._connection.session

    def lost(self) -> None:
        """Say that the engine broke off in the middle of this request."""
        if self._places is not None:
            self._places.doubted.set()

    def answered(self) -> None:
        """Say that this request got a right answer."""
        if self._places is not None:
            self._places.answered()

    def given_up(self) -> None:
        """Say that the client has left, and the engine hadn't sent a byte."""
        if self._places is not None:
            self._places.count_given_up()

    def release(self) -> None:
        """Give the place back; a second call does nothing."""
        places, self._places = self._places, None
        if places is not None:
            places.give_back(visit=self._visit)
            if self._ended is not None:
                self._ended()


class Replica:
    """The n-th engine of a model.

    The supervisor orders (`begin_…`); what comes of it is told to the listener.
    """

    def __init__(
        self,
        name: str,
        model: str,
        *,
        fit: Fit,
        launcher: Launcher,
        measure: Measure,
        gives_back: GivesBack,
        clock: Callable[[], float],
        listener: ReplicaListener,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.model = model
        self._desk = Desk(name, model, fit, clock=clock, pause=sleep, listener=listener)
        self._next_fit = fit
        self._launcher = launcher
        self._measure = measure
        self._gives_back = gives_back
        self._life: Life | None = None
        self._living: asyncio.Task[None] | None = None

    # What the supervisor orders

    def begin_start(self, reason: str) -> None:
        """Start the engine. Only a replica that is down or backing off can be started."""
        decided_at = self._desk.clock()
        life = self._new_life()
        self._desk.become(
            Phase.STARTING, reason, retry_at=None, started_at=decided_at, ready_at=None
        )
        self._live(life, life.begin(StartTracker(decided_at)))

    def begin_takeover(self, record: EngineRecord) -> None:
        """Check the engine that an earlier daemon left, and take it over or stop it."""
        life = self._new_life()
        self._desk.fit = self._desk.fit.on(record.gpus)
        self._desk.become(Phase.ADOPTING, "an earlier warmd left its engine running")
        self._live(life, life.go_on(record))

    def begin_sleep(self, reason: str, *, rehearsal: bool = False) -> None:
        """Drain the engine and put it to sleep; only a ready one is."""
        if self.state.phase is Phase.READY and not self._desk.orders.ending.is_set():
            self._desk.orders.give_turn(Turn(Rung.ASLEEP, reason, rehearsal))
            self._desk.become(Phase.DRAINING, reason)

    def begin_wake(self, reason: str) -> None:
        """Wake the engine; only one that sleeps is."""
        if self.state.phase is Phase.ASLEEP and not self._desk.orders.ending.is_set():
            self._desk.orders.give_turn(Turn(Rung.HOT, reason))
            self._desk.become(
                Phase.WAKING, reason, started_at=self._desk.clock(), rehearses=self.rehearses
            )

    def begin_stop(self, reason: str, *, anew: bool = False) -> None:
        """Drain and stop the engine, or call off its start. Without an engine nothing happens.

        `anew`: it is stopped only to be started with its new settings.
        """
        if not self.state.phase.is_up or self._desk.orders.stop is not None:
            return
        self._desk.orders.give_stop(reason)
        self._desk.state = replace(self.state, anew=anew or self.state.anew)
        # At once: the next look at the facts must see that the device is taken.
        if self.state.phase is Phase.READY:
            self._desk.become(Phase.DRAINING, reason)
        elif self.state.phase is Phase.ASLEEP:
            self._desk.become(Phase.STOPPING, reason)

    def begin_leaving(self, drain: float) -> None:
        """Let go of the engine and leave it running; what is no engine yet is stopped.

        `drain`: so many seconds its requests may go on at the most.
        """
        if self.state.phase.is_up:
            self._desk.orders.give_leave(drain)

    def forgive(self, reason: str) -> None:
        """Forget earlier failures: an operator wants it tried again."""
        if self.state.phase in (Phase.FAILED, Phase.BACKING_OFF):
            self._desk.become(
                Phase.DOWN, reason, failures=0, retry_at=None, bad_naps=0, trouble=None
            )
        else:
            self._desk.state = replace(self.state, bad_naps=0)

    def refit(self, fit: Fit) -> None:
        """Run with `fit` from the next start on; where it is the same engine, from now on."""
        self._next_fit = fit
        if not self.is_stale:
            running = self._desk.fit
            here = fit if fit.gpus == running.gpus else running
            make = running.make  # it knows its engine
            self._desk.fit = replace(fit, make=make, cards=here.cards, gpus=here.gpus)

    def _new_life(self) -> Life:
        desk = self._desk
        if self.state.phase.is_up:
            raise RuntimeError(f"{self.name} is {self.state.phase} and can't be started")
        desk.fit = self._next_fit
        desk.orders = Orders()
        desk.places.doubted.clear()
        desk.places.given_up = 0
        desk.identity = desk.version = None
        return Life(desk, self._launcher, self._measure, self._gives_back)

    def _live(self, life: Life, living: Coroutine[Any, Any, None]) -> None:
        self._life = life
        self._living = asyncio.create_task(living, name=f"life of {self.name}")

    async def ended(self) -> None:
        """Return when no engine runs here and none is being started."""
        if self._living is not None:
            await asyncio.wait([self._living])

    # What the gateway takes

    def visit(self) -> ReplicaLease | None:
        """Take a place for a request of our own, which is no demand; None as in `lease`."""
        return self.lease(visit=True)

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent to it: it is ready, and not in doubt."""
        desk = self._desk
        return (
            desk.state.phase is Phase.READY
            and not desk.orders.ending.is_set()
            and not desk.places.doubted.is_set()
            and self._life is not None
            and self._life.connection is not None
        )

    def lease(
        self, ended: Callable[[], None] | None = None, *, visit: bool = False
    ) -> ReplicaLease | None:
        """Take a place on this replica; None where it isn't open. `ended` is called at its end."""
        connection = self._life.connection if self._life else None
        if connection is None or not self.is_open:
            return None
        places = self._desk.places
        places.take(visit=visit)
        return ReplicaLease(self.name, places, connection, ended, visit=visit)

    # What it tells about itself

    @property
    def state(self) -> ReplicaState:
        """Where it stands."""
        return self._desk.state

    @property
    def fit(self) -> Fit:
        """What its next engine is run with; the same as now, unless it is stale."""
        return self._next_fit

    @property
    def fits(self) -> tuple[Fit, Fit, Fit]:
        """What its engine is run with, its next one, and the last that was ready."""
        return self._desk.fit, self._next_fit, self._desk.proven

    @property
    def cards(self) -> frozenset[str]:
        """The keys of the GPUs that its engine, or its next one, uses; none where any."""
        return (self._desk.fit if self.state.phase.is_up else self._next_fit).cards

    @property
    def cards_used(self) -> frozenset[str]:
        """The same of the engine that runs, or ran last."""
        return self._desk.fit.cards

    @property
    def in_flight(self) -> int:
        """Requests that it serves now."""
        return self._desk.places.in_flight

    @property
    def load(self) -> int:
        """Requests that count as its own for who is to get the next one (`Places.load`)."""
        places = self._desk.places  # asked for each request: the usual case first
        return places.load(self._desk.fit.limits.hang) if places.given_up else places.in_flight

    @property
    def turn(self) -> int:
        """Higher where it got its last request of a user later, among all replicas."""
        return self._desk.places.turn

    @property
    def served(self) -> int:
        """How many requests of users it has served, or serves."""
        return self._desk.places.served

    @property
    def used_at(self) -> float:
        """When its last request ended, whoever asked, or it got ready; monotonic seconds."""
        return self._desk.places.used_at

    @property
    def answered_at(self) -> float:
        """When it last gave a right answer, whoever asked; monotonic seconds."""
        return self._desk.places.answered_at

    @property
    def queued(self) -> int:
        """How many of them wait inside its engine, as it last said."""
        return min(self._desk.queued, self.in_flight)

    @property
    def version(self) -> str | None:
        """The version of its running engine, where that is known."""
        return self._desk.version

    @property
    def is_stale(self) -> bool:
        """Whether its engine was started with settings that have changed since."""
        return self.is_stale_under(self._next_fit)

    def is_stale_under(self, fit: Fit) -> bool:
        """Whether its engine is another one than `fit` would make."""
        return self.state.phase.is_up and not self._desk.fit.is_kept_under(fit)

    @property
    def sleeps(self) -> bool:
        """Whether its engine, or its next one, can be put to sleep."""
        fit = self._desk.fit if self.state.phase.is_up else self._next_fit
        return fit.sleep is not None and not self.state.is_sleepless

    @property
    def is_falling_asleep(self) -> bool:
        """Whether it is drained for its sleep, or falls asleep."""
        falls = self.state.phase in (Phase.DRAINING, Phase.FALLING_ASLEEP)
        return falls and self._desk.orders.stop is None

    @property
    def goes_on(self) -> bool:
        """Whether its engine is ready, or comes up, and isn't to end."""
        phase = self.state.phase
        up = phase in (Phase.READY, Phase.WAKING) or phase.is_coming_up
        return up and not self._desk.orders.ending.is_set()

    @property
    def rehearses(self) -> bool:
        """Whether its sleep is a rehearsal; what isn't woken at once is a sleeper like any."""
        state = self.state
        if state.phase is Phase.ASLEEP:
            return state.rehearses and self._desk.clock() - state.since < REHEARSED_S
        return state.rehearses and state.phase in (Phase.FALLING_ASLEEP, Phase.WAKING)

    @property
    def is_renewed(self) -> bool:
        """Whether its settings have changed since its engine was last ready."""
        return not self._desk.proven.is_kept_under(self._next_fit)

    @property
    def overdue(self) -> float | None:
        """Seconds by which its operation is later than its own limit; None while it isn't."""
        limit = self._desk.fit.limits.of(self.state.phase)
        if limit is None:
            return None
        late = self._desk.clock() - self.state.since - limit
        return late if late > 0 else None

    @property
    def stage(self) -> Stage | None:
        """The stage of the start that is under way."""
        coming_up = self.state.phase.is_coming_up
        tracker = self._life.tracker if coming_up and self._life else None
        return tracker.stage if tracker else None

    @property
    def percent(self) -> int | None:
        """How far that stage has come, where the engine tells."""
        tracker = self._life.tracker if self.stage and self._life else None
        return tracker.percent if tracker else None

    def stage_seconds(self) -> Mapping[Stage, float]:
        """Seconds by stage of the start that is under way."""
        tracker = self._life.tracker if self.stage and self._life else None
        return tracker.so_far(self._desk.clock()) if tracker else {}
