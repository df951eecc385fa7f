"""A first request and the ones right after it, at one engine, under equal conditions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

import aiohttp

from warmd.engine import WarmupAnswer, WarmupSpec
from warmd.policy.first_delay import NEXT
from warmd.replica import Replica

Ask = Callable[[aiohttp.ClientSession, WarmupSpec], Awaitable[WarmupAnswer]]
"""Asks an engine and judges the answer; raises `EngineError` in one sentence."""


class DisturbedError(Exception):
    """Users came in between: what was measured is worth nothing, and they go first."""


class NotHotError(Exception):
    """The engine isn't ready any more. The text is why."""


@dataclass(frozen=True)
class Burst:
    """Seconds to the first token and in all: of the first request, and of those after it."""

    first: tuple[float, float]
    next: tuple[tuple[float, float], ...]

    @property
    def usual_s(self) -> float:
        """The median to the first token of those after it."""
        return median(token for token, _ in self.next)


async def measure(replica: Replica, spec: WarmupSpec, ask: Ask) -> Burst:
    """Ask a quiet engine eleven times, one after the other.

    Raises `DisturbedError`, `NotHotError`, and `EngineError` where an answer is wrong.
    """
    samples: list[tuple[float, float]] = []
    served = replica.served
    for _ in range(1 + NEXT):
        _undisturbed(replica, served)
        place = replica.visit()
        if place is None:
            raise NotHotError(replica.state.reason)
        try:
            answer = await ask(place.session, spec)
            place.answered()
        finally:
            place.release()
        samples.append((answer.first_token_s, answer.seconds))
    _undisturbed(replica, served)
    return Burst(samples[0], tuple(samples[1:]))


def _undisturbed(replica: Replica, served: int) -> None:
    if replica.in_flight or replica.served != served:
        raise DisturbedError
