"""Requests that wait for a model: none is sent to a cold engine, none is forgotten."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

from warmd.gateway import Ask
from warmd.ladder import NotReadyError, Phase, QueueFullError, Rung
from warmd.policy import (
    Demand,
    Progress,
    Serving,
    decide_target,
    measured_ready_in,
    pick,
    ready_in,
    soonest,
    why_not_ready,
)
from warmd.replica import Replica, ReplicaLease
from warmd.spoken import count
from warmd.supervisor.events import Clock
from warmd.supervisor.model import Managed

HELD_RETRY_AFTER_S = 300.0
"""What somebody is told who asks for a model that an operator keeps down until further notice."""


class WaitingRoom:
    """Hands out places on ready replicas, and holds who finds none until one is ready."""

    def __init__(
        self, clock: Clock, changed: Callable[[], None], ahead: Callable[[Replica], float]
    ) -> None:
        """`changed` is called when somebody begins to wait.

        `ahead` returns the seconds until other models are done with a replica's cards.
        """
        self._clock = clock
        self._ahead = ahead
        self._changed = changed
        self._closed = False

    def close(self) -> None:
        """Refuse everybody from now on."""
        self._closed = True

    def take(self, model: Managed, prefix: int | None = None) -> ReplicaLease | None:
        """Return a place on a ready replica at once, and None where there is none.

        Its end counts as the model's last request.
        """
        # What an operator set lower serves nobody new, though its stop may have to wait.
        word = model.override
        if word is not None and word.refuses and word.holds_at(self._clock.wall()):
            return None
        if (replica := _open_one(model, prefix)) is None:
            return None
        model.aside = model.promised = None
        return replica.lease(lambda: self._ended(model))

    async def acquire(self, model: Managed, ask: Ask) -> ReplicaLease:
        """Return a place as `take` does, waiting for one until `max_wait` is over.

        Raises `NotReadyError` after it, and at once where no waiting would help; `QueueFullError`
        where as many wait as may.
        """
        if (lease := self.take(model, ask.prefix)) is not None:
            return lease
        allowed = model.terms.max_wait if ask.max_wait is None else ask.max_wait
        came = self._clock.monotonic()
        ends = came + max(0.0, min(allowed, model.terms.max_wait) - ask.waited)
        self._refuse(model, ends)
        if len(model.waiting) >= model.terms.max_waiting:
            raise self._queue_full(model)
        model.aside = None
        woken = asyncio.Event()
        model.waiting[woken] = came
        self._changed()
        try:
            async with asyncio.timeout(ends - came):
                while True:
                    await woken.wait()
                    if (lease := self.take(model, ask.prefix)) is not None:
                        return lease
                    self._refuse(model, ends)
                    woken.clear()
        except TimeoutError:
            raise self._not_ready(model) from None
        finally:
            del model.waiting[woken]
            # Who gave up waiting wanted it all the same, and mostly comes back.
            self._ended(model)

    def look(self, model: Managed) -> None:
        """Wake who waits for `model`, where something comes of its change: a place, or a refusal.

        Many may wait: what is the same for all of them is looked at once.
        """
        if not model.waiting:
            return
        was, model.soonest_at = model.soonest_at, self._soonest_at(model)
        later = model.soonest_at > max(was, self._clock.monotonic()) + 1.0
        if later or _open_one(model, None) is not None or self._hopeless(model) is not None:
            for woken in model.waiting:
                woken.set()

    def outlook(self, model: Managed, since: float) -> str:
        """Say what `model` is doing, to who waits for it since `since` (monotonic seconds)."""
        ahead = bisect_left(list(model.waiting.values()), since)  # they stand as they came
        doing = why_not_ready(model.name, self._nearest(model))
        return f"{doing}, {ahead} ahead of you" if ahead else doing

    def eta_s(self, model: Managed) -> float | None:
        """Seconds until `model` is ready, as measured: 0 where it is, None where nobody knows."""
        word = model.override
        if self._closed or model.retired or model.is_refused(self._clock.monotonic()):
            return None
        if word is not None and word.refuses and word.holds_at(self._clock.wall()):
            return None
        return measured_ready_in(self._nearest(model))

    def _ended(self, model: Managed) -> None:
        # That a model falls idle is seen by the next tick: waking the loop here would cost a look
        # at every model for every request.
        model.last_request = self._clock.monotonic()

    def _refuse(self, model: Managed, ends: float) -> None:
        """Refuse who waits in vain, or can't wait as long as the quickest way that was measured."""
        if (hopeless := self._hopeless(model)) is not None:
            raise hopeless
        model.soonest_at = self._soonest_at(model)
        if model.soonest_at > max(ends, self._clock.monotonic()):
            raise self._not_ready(model)

    def _hopeless(self, model: Managed) -> NotReadyError | None:
        """Say why no waiting helps; None where it may."""
        if self._closed:
            return NotReadyError(model.name, "warmd is shutting down", 30)
        if model.retired:
            return NotReadyError(model.name, f"{model.name} is no longer served here", 300)
        wall = self._clock.wall()
        wanted = decide_target(
            model.terms.wish, model.override, Demand(1, 0, 0.0), wall, model.diary.says(wall)
        )
        if wanted.rung is not Rung.HOT:
            until = model.override.until if model.override else None
            left = HELD_RETRY_AFTER_S if until is None else until - wall
            calendar = model.terms.wish.calendar
            when = "" if until is None else f" until {calendar.clock(until, wall)}"
            reason = f"{model.name} is kept {wanted.rung}{when}: {wanted.reason}"
            return NotReadyError(model.name, reason, max(1, math.ceil(left)))
        if model.is_refused(self._clock.monotonic()):
            return NotReadyError(model.name, _refusal(model), None)
        wanted_replicas = model.replicas[: wanted.replicas]
        if all(r.state.phase is Phase.FAILED for r in wanted_replicas):
            return self._not_ready(model)
        return None

    def _soonest_at(self, model: Managed) -> float:
        """Return before which moment (monotonic) nobody expects it to be ready."""
        return self._clock.monotonic() + min(soonest(p) for p in self._progresses(model))

    def _not_ready(self, model: Managed) -> NotReadyError:
        """Refuse, with the time at which to come back; until then that counts as waiting."""
        progress = self._nearest(model)
        sentence = why_not_ready(model.name, progress)
        if progress.phase is Phase.FAILED:
            return NotReadyError(model.name, sentence, None)
        retry_after_s = math.ceil(ready_in(progress))
        model.promise(self._clock.monotonic(), retry_after_s)
        self._changed()
        return NotReadyError(model.name, sentence, retry_after_s)

    def _queue_full(self, model: Managed) -> QueueFullError:
        progress, waiting = self._nearest(model), count(len(model.waiting), "request")
        sentence = f"{waiting} wait for {model.name} already, as many as may: "
        return QueueFullError(
            model.name,
            sentence + why_not_ready(model.name, progress),
            math.ceil(ready_in(progress)),
        )

    def _nearest(self, model: Managed) -> Progress:
        return min(self._progresses(model, self._ahead), key=ready_in)

    def _progresses(
        self, model: Managed, ahead: Callable[[Replica], float] = lambda _: 0.0
    ) -> list[Progress]:
        wanted = model.replicas[: model.terms.wish.replicas]
        return [self._progress(model, replica, ahead(replica)) for replica in wanted]

    def _progress(self, model: Managed, replica: Replica, ahead: float) -> Progress:
        now = self._clock.monotonic()
        state = replica.state
        return Progress(
            phase=Phase.FALLING_ASLEEP if replica.is_falling_asleep else state.phase,
            stage=replica.stage,
            elapsed=now - (now if state.started_at is None else state.started_at),
            retry_in=0.0 if state.retry_at is None else state.retry_at - now,
            ahead=ahead,
            starts=model.starts_from_now(replica),
            wakes=model.wakes,
            failures=state.failures,
            cause=state.trouble,
            held_up=model.held_up_by,
            percent=replica.percent,
        )


def _refusal(model: Managed) -> str:
    """Say to a client why its weights are refused: no path, which is the operator's to see."""
    by = next((Path(each.verify).name for each in model.terms.files if each.verify), "`verify`")
    return (
        f"{model.name} can't be started and needs an operator: its weights aren't what they "
        f"shall be ({by})"
    )


def _open_one(model: Managed, prefix: int | None) -> Replica | None:
    """Return the replica that gets the next request; None where none is open."""
    replicas, wanted = model.replicas, model.target.replicas
    if len(replicas) == 1:
        return replicas[0] if replicas[0].is_open else None
    if not model.terms.by_prefix:
        prefix = None
    serving = [
        Serving(replica.load, replica.turn, index)
        for index, replica in enumerate(replicas)
        if replica.is_open
    ]
    if len(serving) > 1:
        # Who is beyond those that are wanted is to fall idle, and serves only where nobody else
        # does.
        serving = [each for each in serving if each.nth < wanted] or serving
    if not serving:
        return None
    return replicas[serving[pick(serving, prefix) if len(serving) > 1 else 0].nth]
