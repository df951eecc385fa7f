"""Probes: what the first request after a quiet time costs, against the ones right after it.

A probe keeps its model hot meanwhile, by a hold that makes room for whoever is asked for. Users go
first: who comes in a quiet time begins it anew.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from warmd.bursts import Ask, DisturbedError, NotHotError, measure
from warmd.config import Settings
from warmd.control.probe import ProbeStatus
from warmd.engine import EngineError, warm_up
from warmd.history import Probed
from warmd.keeping_warm import Firing
from warmd.ladder import Phase, Rung
from warmd.replica import Replica
from warmd.spoken import count, duration
from warmd.supervisor import Clock, Managed, Supervisor
from warmd.warmups import Asks, asks_of

HOLD = "a probe measures it"

NIGHTLY = "nightly"
_ASKED_FOR = "probe"

LATE_S = 3600.0
"""A firing that found the model not hot for so long is left out."""

_ABANDONED_S = 60.0
"""A probe that nobody has looked at for so long is ended: its `warmctl` is gone."""

_LOOK_S = 0.25
_KEPT = 8


log = logging.getLogger("warmd")


class Measurements(Protocol):
    """Who keeps measurements."""

    def keep(self, model: str, key: str, probed: Probed) -> None:
        """Keep one; returns at once."""

    def last_nightly(self) -> dict[str, float]:
        """Return when models were last probed at night, in Unix seconds; waits for the disk."""


class ProbeError(Exception):
    """A probe can't go on. The text is one sentence."""


@dataclass
class _Run:
    """One probe. Times are monotonic seconds."""

    status: ProbeStatus
    source: str
    asks: Asks
    looked_at: float
    gives_up_at: float = math.inf
    task: asyncio.Task[None] | None = None

    def say(self, doing: str) -> None:
        self.status = replace(self.status, doing=doing)

    def finish(self, why: str, *, failed: bool) -> None:
        if self.status.ended is None:
            self.status = replace(self.status, ended=why, failed=failed)


class Probes:
    """Runs probes, one of a model at a time."""

    def __init__(
        self,
        supervisor: Supervisor,
        settings: Callable[[], Settings],
        log_book: Measurements,
        *,
        clock: Clock,
        tell: Callable[[str], None],
        ask: Ask = warm_up,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`settings` returns those in force; `tell` gets what a nightly probe came to."""
        self._supervisor = supervisor
        self._settings = settings
        self._log_book = log_book
        self._clock = clock
        self._tell = tell
        self._ask = ask
        self._pause = pause
        self._numbers = itertools.count(1)
        self._runs: dict[int, _Run] = {}
        self._read: Settings | None = None
        self._nightly: dict[str, tuple[Asks, Firing]] = {}
        self._since = clock.wall()
        self._tried: dict[str, float] | None = None  # when each was last probed at night
        self._fitted = math.inf

    async def close(self) -> None:
        """End all probes."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for run in self._runs.values():
            self._end(run, "warmd is stopping")
        await asyncio.gather(*tasks, return_exceptions=True)

    # What an operator asks

    def begin_probe(self, model: str, idle: tuple[float, ...]) -> ProbeStatus:
        """Measure `model` after so many idle seconds each; raises `ValueError` with a sentence."""
        settings = self._settings()
        if model not in settings.models:
            raise ValueError(f"{model} is no longer in the config and is being stopped")
        return self._begin(model, asks_of(settings, model), idle, _ASKED_FOR).status

    def probe(self, number: int) -> ProbeStatus:
        """Return how far a probe is; raises `LookupError`."""
        run = self._run(number)
        run.looked_at = self._clock.monotonic()
        return run.status

    def end_probe(self, number: int) -> ProbeStatus:
        """End a probe; raises `LookupError`."""
        run = self._run(number)
        self._end(run, "an operator ended it")
        return run.status

    def _run(self, number: int) -> _Run:
        if number not in self._runs:
            raise LookupError(f"there is no probe {number}: warmd has started anew, or it is old")
        return self._runs[number]

    @staticmethod
    def _end(run: _Run, why: str) -> None:
        run.finish(why, failed=True)
        if run.task is not None:
            run.task.cancel()

    def _begin(self, name: str, asks: Asks, idle: tuple[float, ...], source: str) -> _Run:
        model = self._supervisor.models[name]
        why_not = model.why_no_hold(self._clock.wall())
        if why_not is not None:
            raise ValueError(f"{name} can't be probed: {why_not}")
        if model.hold is not None:
            raise ValueError(f"{name} can't be probed: another probe of it runs")
        now = self._clock.monotonic()
        status = ProbeStatus(next(self._numbers), name, idle, "begins")
        run = self._runs[status.id] = _Run(status, source, asks, now)
        if source == NIGHTLY:
            run.gives_up_at = now + 6 * sum(idle) + 600.0
        self._supervisor.hold_hot(model, HOLD)
        run.task = asyncio.create_task(self._live(run, model), name=f"probe of {name}")
        ended = [n for n, each in self._runs.items() if each.status.ended is not None]
        for number in ended[:-_KEPT]:
            del self._runs[number]
        return run

    # What nobody asks

    def tick(self) -> None:
        """Begin what is due at night, and end what nobody looks at any more."""
        now = self._clock.monotonic()
        for run in self._runs.values():
            if run.source == _ASKED_FOR and now - run.looked_at > _ABANDONED_S:
                self._end(run, "nobody looks at it any more")
        if self._settings() is not self._read:
            self._fit(self._settings())
        for name, (asks, firing) in self._nightly.items():
            self._look(name, asks, firing)

    def _fit(self, settings: Settings) -> None:
        self._read, self._fitted = settings, self._clock.wall()
        asked = {name: asks_of(settings, name) for name in settings.models}
        self._nightly = {
            name: (asks, Firing(asks.nightly))
            for name, asks in asked.items()
            if asks.nightly is not None
        }

    def recall(self) -> None:
        """Read when models were last probed at night; waits for the disk."""
        self._tried = self._log_book.last_nightly()

    def _look(self, name: str, asks: Asks, firing: Firing) -> None:
        wall, model = self._clock.wall(), self._supervisor.models.get(name)
        fired = firing.before(wall)
        if model is None or fired is None or self._tried is None:
            return
        if self._tried.get(name, -math.inf) >= fired:
            return
        if wall - fired > LATE_S:
            self._tried[name] = fired
            if fired >= self._fitted:
                what = f"for {duration(LATE_S)} it was not hot, or not free for it"
                self._tell(f"{name}: its nightly probe is left out: {what}")
            return
        hot = any(r.state.phase is Phase.READY for r in model.replicas)
        if not hot or model.hold is not None or model.why_no_hold(wall) is not None:
            return
        self._tried[name] = wall
        self._begin(name, asks, asks.idle, NIGHTLY)

    # One probe

    async def _live(self, run: _Run, model: Managed) -> None:
        try:
            await self._measure_all(run, model)
            run.finish("done", failed=False)
        except asyncio.CancelledError:
            run.finish("it was ended", failed=True)
        except (ProbeError, NotHotError, EngineError) as error:
            run.finish(str(error), failed=True)
        except Exception as bug:
            log.exception("%s: a fault of warmd's own in a probe", model.name)
            run.finish(f"a fault of warmd's own ({bug!r}); see its log", failed=True)
        finally:
            model.hold = None
        if run.source == NIGHTLY:
            self._tell(f"{model.name}: nightly probe: {_came_to(run.status)}")

    async def _measure_all(self, run: _Run, model: Managed) -> None:
        for idle in run.status.idle:
            probed = await self._step(run, model, idle)
            self._log_book.keep(model.name, model.terms.sizes_key, probed)
            run.status = replace(run.status, steps=(*run.status.steps, probed))

    async def _step(self, run: _Run, model: Managed, idle: float) -> Probed:
        met, began = model.rung_met if idle == 0 else Rung.HOT, self._clock.monotonic()
        replica = await self._hot(run, model)
        came_up_s, stages = 0.0, {}
        if met is not Rung.HOT:
            came_up_s = max(0.0, replica.state.since - began)
            stages = _stages(replica, met)
        restarts = 0
        while True:
            restarts += await self._quiet(run, model, replica, idle)
            run.say(f"asks {replica.name} eleven times")
            idle_s = self._clock.monotonic() - replica.used_at
            try:
                burst = await measure(replica, run.asks.probe, self._ask)
                break
            except DisturbedError:
                restarts += 1
        return Probed(
            at=self._clock.wall(),
            replica=replica.name,
            source=run.source,
            idle_s=idle_s,
            met=met.value,
            first_token_s=burst.first[0],
            first_total_s=burst.first[1],
            next=burst.next,
            came_up_s=came_up_s,
            stages=stages,
            restarts=restarts,
        )

    async def _hot(self, run: _Run, model: Managed) -> Replica:
        """Return an engine that is ready; waits for one where there is none.

        Raises `ProbeError` where there will be none: nobody makes room for a probe.
        """
        held_up_since = math.inf
        while True:
            now = self._clock.monotonic()
            self._see(run, model)
            for replica in model.replicas:
                if replica.state.phase is Phase.READY:
                    return replica
            if run.source == NIGHTLY:
                raise ProbeError(f"it is hot no longer: {model.replicas[0].state.reason}")
            first = model.replicas[0].state
            if first.phase is Phase.FAILED:
                raise ProbeError(f"it can't be started: {first.reason}")
            rises = any(r.state.phase.holds_the_device for r in model.replicas)
            if model.held_up_by is None or rises:
                held_up_since = now
            elif now - min(held_up_since, now) > model.terms.max_wait:
                raise ProbeError(f"it can't be made hot: {model.held_up_by}")
            held_up_since = min(held_up_since, now)
            why = "" if model.held_up_by is None else f": {model.held_up_by}"
            run.say(f"waits until {model.name} is hot{why}")
            await self._pause(_LOOK_S)

    async def _quiet(self, run: _Run, model: Managed, replica: Replica, idle: float) -> int:
        """Wait until nobody has asked for `idle` seconds; return how often that began anew."""
        served, restarts = replica.served, 0
        while True:
            self._see(run, model)
            if replica.state.phase is not Phase.READY:
                raise NotHotError(f"it is hot no longer: {replica.state.reason}")
            if replica.served != served:
                served, restarts = replica.served, restarts + 1
            left = idle - (self._clock.monotonic() - replica.used_at)
            if replica.in_flight or model.waiting:
                left = max(left, _LOOK_S)
                run.say("waits: users are served first")
            elif left <= 0:
                return restarts
            else:
                anew = f", begun anew {count(restarts, 'time')}" if restarts else ""
                quiet = f"waits for {duration(idle)} without a request"
                run.say(f"{quiet}, {duration(left)} left{anew}")
            await self._pause(min(left, _LOOK_S))

    def _see(self, run: _Run, model: Managed) -> None:
        why_not = model.why_no_hold(self._clock.wall())
        if why_not is not None:
            raise ProbeError(why_not)
        if self._clock.monotonic() > run.gives_up_at:
            raise ProbeError("users left it no quiet time that was long enough")


def _stages(replica: Replica, met: Rung) -> dict[str, float]:
    state = replica.state
    if met is Rung.ASLEEP and state.last_wake is not None:
        return state.last_wake.parts
    start = state.last_start
    return {} if start is None else {stage.value: s for stage, s in start.stages.items()}


def _came_to(status: ProbeStatus) -> str:
    said = [
        f"after {duration(step.idle_s)} the first token came in {step.first_token_s * 1000:.0f} ms"
        for step in status.steps
    ]
    if status.failed:
        said.append(f"ended: {status.ended}")
    return "; ".join(said)
