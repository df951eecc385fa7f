"""What a tick of a large host costs: planning alone, from facts to actions, and all of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from statistics import quantiles

import whole_tick
from report import Table

from warmd.ladder import Phase, Rung
from warmd.planner import (
    CardFacts,
    ModelFacts,
    RamLedger,
    ReplicaFacts,
    Scene,
    StagingFacts,
    Stranger,
    make_plan,
)
from warmd.policy import Target

GIB = 2**30
MODELS, REPLICAS, CARDS = 64, 2, 16
_AIM_MS = 5.0
_PROGRAM = "program:/opt/vllm/bin/python"
_PHASES = (Phase.READY, Phase.ASLEEP, Phase.DOWN, Phase.BACKING_OFF, Phase.STARTING, Phase.WAKING)


def _scenes(chance: random.Random) -> Iterator[Scene]:
    """Hosts in every state: pools of four models on each GPU, some asked for, some busy."""
    pools = {f"p{card}": 100 * GIB for card in range(CARDS)}
    while True:
        busy = {card for card in range(CARDS) if chance.random() < 0.3}
        models = [_model(chance, n, n % CARDS, busy=n % CARDS in busy) for n in range(MODELS)]
        cards = {card.key: card for card in (_card(chance, n, models) for n in range(CARDS))}
        sets = [each for model in models for each in (model.staging, model.caches)]
        ram = RamLedger(10**12, sum(each.taken for each in sets), 2 * 10**12, 10**12, 0)
        programs = {_PROGRAM: StagingFacts(8 * GIB, held=chance.random() < 0.5)}
        yield Scene(models, ram, 1000.0, pools, cards=cards, programs=programs)


def _card(chance: random.Random, number: int, models: Sequence[ModelFacts]) -> CardFacts:
    """A GPU as the last look found it, with what each engine on it holds and a stranger."""
    key = f"GPU-{number}"
    ours = {
        replica.name: chance.choice((GIB, 40 * GIB))
        for model in models
        for replica in model.replicas
        if key in replica.cards and replica.phase.is_up
    }
    foreign = (Stranger("process 4711 (python)", chance.choice((0, 5 * GIB))),)
    used = sum(ours.values()) + foreign[0].held
    seen = 1000.0 - chance.choice((1.0, 1.0, 20.0))
    return CardFacts(
        key, f"GPU {number}", 141 * GIB, GIB, used, ours, foreign, swept_at=seen, moved_at=990.0
    )


def _model(chance: random.Random, number: int, card: int, *, busy: bool) -> ModelFacts:
    name = f"m{number}"
    waiting = chance.choice((0, 0, 0, 3))
    rung = Rung.HOT if waiting else chance.choice((Rung.HOT, Rung.ASLEEP, Rung.STAGED))
    phases = _PHASES if busy else _PHASES[:4]
    replicas = [
        ReplicaFacts(
            f"{name}.{n}",
            chance.choice(phases),
            retry_at=chance.uniform(900, 1100),
            in_flight=chance.choice((0, 0, 4)),
            since=1000.0 - chance.uniform(0, 600),
            sleeps=True,
            pins=chance.choice((0, 20 * GIB)),
            kept=GIB,
            cards=frozenset({f"GPU-{card}"}),
        )
        for n in range(REPLICAS)
    ]
    return ModelFacts(
        name,
        _target(chance, rung),
        replicas,
        StagingFacts(total=20 * GIB, held=chance.random() < 0.5),
        oldest_wait=chance.uniform(0, 90) if waiting else 0.0,
        waiting=waiting,
        idle_s=chance.uniform(0, 600),
        pool=f"p{card}",
        vram=40 * GIB,
        switch_cost=3.0,
        caches=StagingFacts(total=GIB // 4, held=chance.random() < 0.5),
        program=_PROGRAM,
    )


def _target(chance: random.Random, rung: Rung) -> Target:
    """Some replicas are for their model's load alone, and some were."""
    if rung is Rung.HOT and chance.random() < 0.3:
        return Target(rung, REPLICAS, "because", extra=1)
    fewer = chance.random() < 0.2
    return Target(rung, REPLICAS - fewer, "because", sleepers=int(fewer))


def run(seconds: float) -> Sequence[Table]:
    """Plan for hosts drawn at random, and let one live; CPU time of each, for half of `seconds`."""
    scenes = _scenes(random.Random(7))  # noqa: S311  no secret is made of it
    taken: list[float] = []
    actions = 0
    end = time.monotonic() + seconds / 2
    while time.monotonic() < end:
        scene = next(scenes)
        began = time.process_time()
        actions += len(make_plan(scene).actions)
        taken.append((time.process_time() - began) * 1000)
    whole, later, up = asyncio.run(whole_tick.measure(seconds / 2))
    rows = {
        name: (cuts[49], cuts[98], max(each), aim)
        for name, each, aim in (
            ("planning", taken, _AIM_MS),
            ("the whole tick", whole, _AIM_MS),
            ("the same, 10 min after the last", later, None),
        )
        for cuts in (quantiles(each, n=100, method="inclusive"),)
    }
    title = f"tick: {MODELS} models, {MODELS * REPLICAS} replicas, {CARDS} GPUs"
    notes = (
        f"planning: {len(taken)} hosts, {actions / len(taken):.1f} actions each",
        f"the whole tick: each model with 20 entries and `scale`, {up:.0f} engines up",
    )
    return [Table(f"{title}, ms of CPU", ("p50", "p99", "max", "aim (p99)"), rows, notes)]
