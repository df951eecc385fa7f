"""What a replica and the life of its engine share: orders, places, and the one writer of state."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from warmd.ladder import Phase, Rung
from warmd.replica.ports import Fit, ReplicaListener
from warmd.replica.record import EngineRecord
from warmd.replica.state import ReplicaState

_TURNS = itertools.count(1)
_ENDS = (Phase.STOPPING, Phase.DOWN, Phase.BACKING_OFF, Phase.FAILED)


@dataclass(frozen=True)
class Turn:
    """An order to fall asleep, or to wake."""

    to: Rung
    reason: str
    rehearsal: bool = False


class Orders:
    """What the supervisor has asked for and the engine's life has not taken up yet."""

    def __init__(self) -> None:
        self.stop: str | None = None  # why the engine shall end
        self.leave: float | None = None  # the daemon goes, the engine stays; s for requests to end
        self.ending = asyncio.Event()  # either of them has come
        self.any = asyncio.Event()
        self._turn: Turn | None = None

    def give_stop(self, reason: str) -> None:
        """Ask for the engine's end; the first reason stands."""
        if self.stop is None:
            self.stop = reason
        self.ending.set()
        self.any.set()

    def give_leave(self, drain: float) -> None:
        """Ask to let go of the engine and leave it running, in `drain` seconds at the most."""
        self.leave = drain
        self.ending.set()
        self.any.set()

    def give_turn(self, turn: Turn) -> None:
        """Ask for sleep or for the wake."""
        self._turn = turn
        self.any.set()

    def take_turn(self) -> Turn | None:
        """Return the turn that was asked for, once."""
        turn, self._turn = self._turn, None
        if not self.ending.is_set():
            self.any.clear()
        return turn


class Places:
    """The requests that an engine serves, and whether it is in doubt. `clock`: monotonic seconds.

    Visits are requests of our own: a drain waits for them, and they are nobody's demand.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.in_flight = 0
        self.visits = 0
        self.served = 0  # users' requests so far
        self.turn = 0  # higher where a user's request came later, among all replicas
        self.given_up = 0  # by clients that got no byte, since it gave its last right answer
        self._given_up_at = -math.inf
        self.used_at = -math.inf  # when the last one ended, whoever asked
        self.answered_at = -math.inf  # and the last that got a right answer
        self.doubted = asyncio.Event()  # nobody is sent to it until it has answered again
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def busy(self) -> int:
        """All requests, visits included."""
        return self.in_flight + self.visits

    def take(self, *, visit: bool = False) -> None:
        """Count one request more."""
        if visit:
            self.visits += 1
        else:
            self.in_flight += 1
            self.served += 1
            self.turn = next(_TURNS)
        self.idle.clear()

    def give_back(self, *, visit: bool = False) -> None:
        """Count one request less."""
        if visit:
            self.visits -= 1
        else:
            self.in_flight -= 1
        self.used_at = self._clock()
        if self.busy == 0:
            self.idle.set()

    def answered(self) -> None:
        """Keep that a right answer has just come."""
        self.answered_at = self._clock()
        self.given_up = 0

    def count_given_up(self) -> None:
        """Keep that a client has left before it got a byte: it may have hung."""
        self.given_up += 1
        self._given_up_at = self._clock()

    def load(self, hang_after: float) -> int:
        """Requests that count as its own: it isn't idle only because clients gave up on it.

        These are held against it until it answers, for `hang_after` seconds at the most.
        """
        if self.given_up and self._clock() - self._given_up_at >= hang_after:
            self.given_up = 0
        return self.in_flight + self.given_up


class Desk:
    """One replica's orders, places and state. `clock` and `pause` tell and pass monotonic seconds.

    `identity` and `version` are the running engine's.
    """

    def __init__(
        self,
        name: str,
        model: str,
        fit: Fit,
        *,
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[None]],
        listener: ReplicaListener,
    ) -> None:
        self.name = name
        self.model = model
        self.fit = fit
        self.clock = clock
        self.pause = pause
        self.listener = listener
        self.orders = Orders()
        self.places = Places(clock)
        self.state = ReplicaState(since=clock())
        self.identity: str | None = None
        self.version: str | None = None
        self.queued = 0  # requests that wait inside the engine, by its own last word
        self.proven = fit  # what it was last ready with

    def become(self, phase: Phase, reason: str, **changes: object) -> None:
        """Change the state, write it down beside the engine where that may outlive us, tell it."""
        old = self.state
        now = self.clock()
        if phase not in _ENDS:
            changes["doing"] = phase
            # To come up is one operation, up to the first answer.
            changes["doing_since"] = old.doing_since if phase is Phase.WARMING else now
        if phase is Phase.READY:
            self.proven = self.fit
            self.places.answered()
            self.places.used_at = now
        self.state = replace(old, phase=phase, reason=reason, since=now, **changes)  # type: ignore[arg-type]  # the fields are ReplicaState's own
        self.note()
        self.listener.replica_changed(self.model, self.name, old, self.state)

    def learn(self, **facts: object) -> None:
        """Keep what was learnt of the engine in the phase that lasts, and tell it."""
        old = self.state
        self.state = replace(old, **facts)  # type: ignore[arg-type]  # as above
        self.listener.replica_changed(self.model, self.name, old, self.state)

    def note(self) -> None:
        """Write down what a later daemon must know, before the operation that makes it so."""
        if self.fit.outlives and self.identity is not None:
            record = EngineRecord.of(self.state, self.identity, self.version, self.fit)
            self.fit.make.note(record.as_json())
