"""What a tick costs, from the clock to the actions begun: calendars, targets, scaling, facts, plan.

Everything in it is the daemon's own but its engines, which the tests' fakes play.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace

import calendar_bench
from rig import House, next_step

from warmd.ladder import Phase, Rung
from warmd.policy import Hygiene, Scale
from warmd.supervisor import Rules, SleepPolicy

MODELS, REPLICAS, CARDS = 64, 2, 16
_SLEEP = SleepPolicy(1, Hygiene(50, 10**9), rehearse=False, key="k")
_JUMP_EVERY, _JUMP_S = 20, 600.0
"""After so many seconds so many pass at once: windows open and close, engines rise and go."""


async def measure(seconds: float) -> tuple[list[float], list[float], float]:
    """Return the CPU time of ticks in ms, each a second or ten minutes after the one before.

    And how many engines were up on average.
    """
    chance = random.Random(7)  # noqa: S311  no secret is made of it
    house = _house(chance)
    taken: tuple[list[float], list[float]] = ([], [])
    up = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        jumps = sum(map(len, taken)) % _JUMP_EVERY == 0
        house.time.now += _JUMP_S if jumps else 1.0
        for make in house.makes.values():
            make.up.set()  # at each start it isn't
        began = time.process_time()
        house.supervisor.tick()
        taken[jumps].append((time.process_time() - began) * 1000)
        up += sum(replica.state.phase.is_up for replica in house.replicas)
        for _ in range(20):
            await next_step()
    phases = {replica.state.phase for replica in house.replicas}
    if not phases & {Phase.READY, Phase.ASLEEP}:
        raise RuntimeError(f"no engine got up in the bench: {phases}")
    await house.launcher.close()
    return *taken, up / sum(map(len, taken))


def _house(chance: random.Random) -> House:
    """Pools of four models on each GPU, with room for three engines; each may scale to two."""
    house = House()
    house.time.wall_ahead = calendar_bench.MONDAY - house.time.now
    house.stager.done.set()
    house.supervisor.rules = Rules(pools={f"p{card}": 100 for card in range(CARDS)})
    for n in range(MODELS):
        name = f"m{n}"
        terms = house.terms(
            name, Rung.STAGED, REPLICAS, sleep=_SLEEP, pool=f"p{n % CARDS}", vram=30
        )
        fits = [replace(fit, cards=frozenset({f"GPU-{n % CARDS}"})) for fit in terms.fits]
        calendar = calendar_bench.drawn(chance)
        calendar.at(calendar_bench.MONDAY)  # as the daemon does aside, before it takes a config
        wish = replace(
            terms.wish,
            replicas=1,
            most=REPLICAS,
            calendar=calendar,
            scale=Scale(REPLICAS, 4, 10.0, 60.0),
        )
        house.supervisor.adopt(name, replace(terms, wish=wish, fits=tuple(fits)))
    for make in house.makes.values():
        make.answers.set()
    return house
