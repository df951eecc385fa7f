"""Requests of warmd's own in quiet hours: keep-alives, and the warm-ups of cron entries.

They go to the engine alone, so nobody else counts them as requests; when one is due is decided by
`policy.keepalive`, from facts, at each tick.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from warmd.aside import aside
from warmd.bursts import Ask, DisturbedError, NotHotError, measure
from warmd.config import Settings, WarmupKind
from warmd.cron import Cron
from warmd.engine import EngineError, warm_up
from warmd.gateway import RequestRecord
from warmd.history import Probed
from warmd.ladder import Phase, Rung
from warmd.policy import Choice, FirstDelay, Quiet, Synthetic, Witness, choose, due, first_delay
from warmd.policy.keepalive import AUTO_IDLES
from warmd.replica import Replica
from warmd.spoken import duration
from warmd.supervisor import Clock, Managed, Supervisor
from warmd.warmups import Asks, asks_of

AUTO = "auto"
TRAFFIC = "traffic"

KNOWN_S = 30 * 86400.0
"""So long a measurement counts: engines and hosts change."""

_WEEK_S = 8 * 86400.0

log = logging.getLogger("warmd")


class Tells(Protocol):
    """Who writes down what was asked."""

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
        """Count it; `tell`: that it failed, or is answered again, is news."""


class Measurements(Protocol):
    """Who keeps measurements."""

    def keep(self, model: str, key: str, probed: Probed) -> None:
        """Keep one; returns at once."""

    def probed(self, model: str, key: str, since: float) -> list[Probed]:
        """Return what was kept, oldest first; waits for the disk."""


class Firing:
    """When a cron entry fired last, told without looking for it each time."""

    def __init__(self, cron: Cron) -> None:
        self._cron = cron
        self._last: float | None = None
        self._from, self._until = math.inf, -math.inf

    def before(self, wall: float) -> float | None:
        """Return when it fired last at `wall` (Unix seconds) or before."""
        if not self._from <= wall < self._until:
            self._last = self._cron.last_until(wall)
            following = self._cron.next_after(wall)
            self._from = wall if self._last is None else self._last
            self._until = math.inf if following is None else following
        return self._last


def leaves(crons: Sequence[Cron], quiet: float, wall: float) -> bool:
    """Whether there are `quiet` seconds in the week from `wall` on in which no entry fires."""
    at, end = wall, wall + _WEEK_S
    while at < end:
        fired = [last for cron in crons if (last := cron.last_until(at + quiet)) is not None]
        if max(fired, default=at) <= at:
            return True
        at = max(fired)
    return False


@dataclass
class _Kept:
    """One model that is kept warm. Times by replica are monotonic seconds."""

    asks: Asks
    crons: tuple[Firing, ...]
    key: str
    known: list[FirstDelay] | None = None  # None: not read yet
    choice: Choice | None = None
    idles: Sequence[float] = AUTO_IDLES  # quiet times that its planned warm-ups leave
    witness: Witness = field(default_factory=lambda: Witness(AUTO_IDLES[0]))
    kind: WarmupKind | None = None  # what the model serves
    tried: dict[str, float] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)

    @property
    def every(self) -> float | None:
        """How often a quiet engine is asked."""
        return self.choice.every if self.asks.auto and self.choice else self.asks.every


class KeepingWarm:
    """Asks quiet engines. One tick is cheap, and nothing in it waits."""

    def __init__(
        self,
        supervisor: Supervisor,
        settings: Callable[[], Settings],
        tells: Tells,
        log_book: Measurements,
        *,
        clock: Clock,
        ask: Ask = warm_up,
    ) -> None:
        """`settings` returns those in force."""
        self._supervisor = supervisor
        self._settings = settings
        self._tells = tells
        self._log_book = log_book
        self._clock = clock
        self._ask = ask
        self._read: Settings | None = None
        self._kept: dict[str, _Kept] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._visited: dict[str, float] = {}  # model -> when warmd itself last asked it

    async def close(self) -> None:
        """Ask nothing more."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def tick(self) -> None:
        """Begin what is due."""
        if self._settings() is not self._read:
            self._fit(self._settings())
        for name, kept in self._kept.items():
            model = self._supervisor.models.get(name)
            if model is None:
                continue
            if model.terms.sizes_key != kept.key:
                self._read = None  # other GPUs have come: what was measured is known by another key
            model.keeps = self._told(kept)
            if kept.asks.auto and kept.known is None:
                self._begin(kept, "", self._recall(name, kept))
            elif model.hold is None and not model.retired:
                for replica in model.replicas:
                    self._look(model, kept, replica)

    def heard(self, record: RequestRecord) -> None:
        """Hear of a user's request that is over: `auto` may learn from it what idle costs."""
        kept = self._kept.get(record.model)
        if kept is None or not kept.asks.auto or kept.known is None or record.met is not Rung.HOT:
            return
        now = self._clock.monotonic()
        came = now - record.total_s
        ours = came - max(self._visited.get(record.model, -math.inf), self._ready(record.model))
        waited = record.first_byte_s
        good = waited is not None and record.status == 200
        shown = kept.witness.see(
            min(record.idle_s, ours),
            max(0.0, waited - record.waited_s) if good and waited is not None else None,
            now,
        )
        if shown is not None and not math.isinf(shown.idle_s):
            self._learn(record.model, kept, shown, self._probed(TRAFFIC, "", shown, ()))

    def _ready(self, name: str) -> float:
        """Return when an engine of a model got ready last, which asked it something."""
        model = self._supervisor.models.get(name)
        ready = () if model is None else (r.state for r in model.replicas)
        return max((s.since for s in ready if s.phase is Phase.READY), default=math.inf)

    # What is due

    def _fit(self, settings: Settings) -> None:
        self._read, before = settings, self._kept
        self._kept = {}
        for name, model in self._supervisor.models.items():
            if name not in settings.models:
                continue
            asks, key = asks_of(settings, name), model.terms.sizes_key
            if not (asks.every or asks.auto or asks.crons):
                model.keeps = None
                continue
            kept = before.get(name)
            if kept is None or kept.asks != asks or kept.key != key:
                kept = _Kept(asks, tuple(Firing(cron) for cron in asks.crons), key)
            self._kept[name] = kept

    def _told(self, kept: _Kept) -> str | None:
        if kept.asks.auto:
            return None if kept.choice is None else f"auto: {kept.choice.why}"
        return None if kept.asks.every is None else f"every {duration(kept.asks.every)}"

    def _look(self, model: Managed, kept: _Kept, replica: Replica) -> None:
        if replica.state.phase is not Phase.READY or replica.name in kept.running:
            return
        now, wall = self._clock.monotonic(), self._clock.wall()
        tried = kept.tried.get(replica.name, -math.inf)
        quiet = Quiet(
            now - replica.answered_at, now - tried, busy=bool(model.waiting or replica.in_flight)
        )
        firings = [at for cron in kept.crons if (at := cron.before(wall)) is not None]
        kind = due(quiet, kept.every, wall - max(firings) if firings else None)
        if kind is not None:
            kept.tried[replica.name] = now
            self._begin(kept, replica.name, self._keep(model.name, kept, replica, kind))
        elif self._measures(kept, quiet, now - replica.used_at):
            kept.tried[replica.name] = now
            self._begin(kept, replica.name, self._measure(model.name, kept, replica))

    @staticmethod
    def _measures(kept: _Kept, quiet: Quiet, idle_s: float) -> bool:
        after = None if kept.choice is None else kept.choice.measures
        return after is not None and not quiet.busy and min(idle_s, quiet.tried_s) >= after

    def _begin(self, kept: _Kept, who: str, work: Coroutine[object, object, None]) -> None:
        if who in kept.running:
            work.close()
            return
        kept.running.add(who)
        task = asyncio.create_task(work, name=f"keep warm {who}")
        self._tasks.add(task)

        def done(ended: asyncio.Task[None]) -> None:
            self._tasks.discard(ended)
            kept.running.discard(who)
            if not ended.cancelled() and (bug := ended.exception()) is not None:
                log.error("a fault of warmd's own as it kept %s warm", who, exc_info=bug)

        task.add_done_callback(done)

    # What is asked

    async def _keep(self, model: str, kept: _Kept, replica: Replica, kind: Synthetic) -> None:
        spec = kept.asks.keepalive if kind is Synthetic.KEEPALIVE else kept.asks.warmup
        idle_s, began = self._clock.monotonic() - replica.used_at, self._clock.monotonic()
        place = replica.visit()
        if place is None:
            return
        self._visited[model] = began
        first_token_s, trouble = None, None
        try:
            answer = await self._ask(place.session, replace(spec, kind=kept.kind or spec.kind))
            place.answered()
            kept.kind, first_token_s = answer.kind, answer.first_token_s
        except EngineError as error:
            trouble = str(error)
        finally:
            place.release()
        seconds = self._clock.monotonic() - began
        told_already = replica.name in kept.failing
        self._tells.synthetic_done(
            model,
            replica.name,
            kind,
            idle_s=idle_s,
            seconds=seconds,
            first_token_s=first_token_s,
            trouble=trouble,
            tell=(trouble is not None) is not told_already,
        )
        (kept.failing.discard if trouble is None else kept.failing.add)(replica.name)

    async def _measure(self, model: str, kept: _Kept, replica: Replica) -> None:
        idle_s = self._clock.monotonic() - replica.used_at
        self._visited[model] = self._clock.monotonic()
        spec = replace(kept.asks.probe, kind=kept.kind or kept.asks.probe.kind)
        try:
            burst = await measure(replica, spec, self._ask)
        except (DisturbedError, NotHotError):
            return  # users come first; the next quiet time is another try
        except EngineError as error:
            log.warning("%s: the keep-alive can't be measured: %s", replica.name, error)
            return
        shown = first_delay(idle_s, burst.first[0], [token for token, _ in burst.next])
        probed = self._probed(AUTO, replica.name, shown, burst.next)
        self._learn(model, kept, shown, replace(probed, first_total_s=burst.first[1]))

    def _probed(
        self,
        source: str,
        replica: str,
        shown: FirstDelay,
        following: tuple[tuple[float, float], ...],
    ) -> Probed:
        usual = following or ((shown.usual_s, shown.usual_s),)
        at = self._clock.wall()
        first = shown.first_s
        return Probed(at, replica, source, shown.idle_s, Rung.HOT.value, first, first, usual)

    async def _recall(self, name: str, kept: _Kept) -> None:
        since = self._clock.wall() - KNOWN_S
        crons, wall = [Cron(each.text, each.zone) for each in kept.asks.crons], self._clock.wall()
        kept.idles = await aside(lambda: [each for each in AUTO_IDLES if leaves(crons, each, wall)])
        found = await aside(lambda: self._log_book.probed(name, kept.key, since))
        kept.known = list(_delays(found))
        kept.choice = choose(kept.known, kept.idles)
        self._tell(name, kept.choice)

    def _learn(self, name: str, kept: _Kept, shown: FirstDelay, probed: Probed) -> None:
        kept.known = [*(kept.known or ()), shown]
        self._log_book.keep(name, kept.key, probed)
        choice = choose(kept.known, kept.idles)
        if choice != kept.choice:
            kept.choice = choice
            self._tell(name, choice)

    @staticmethod
    def _tell(name: str, choice: Choice) -> None:
        log.info("%s: keep-alive: %s", name, choice.why, extra={"warmd": {"model": name}})


def _delays(found: list[Probed]) -> Iterator[FirstDelay]:
    for each in found:
        if each.met == Rung.HOT.value and each.next:
            tokens = [token for token, *_ in each.next]
            yield first_delay(each.idle_s, each.first_token_s, tokens)
