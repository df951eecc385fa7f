"""What the gateway adds to a request for a hot model, beside the engine asked directly.

The daemon has 32 models, one of them hot. Its engine is the stand-in of stand_in_engine.py, which
costs less than the gateway; the client is load_client.py. Each has a process of its own. All
figures come from several short rounds, in which the kinds of work take turns; of each figure the
median over the rounds is shown.

First byte: one request at a time on connections that stay open, gateway (TCP) and engine (its unix
socket) in turn. `added` is the difference of the two quantiles of one round. There is no pause
between requests: what the daemon still does after an answer's end, the next request waits for.

CPU: of all threads of the process, by its own CPU clock, divided by what the client received. One
chunk is one server-sent event. The paced streams get a chunk at each step of the engine, all
streams at the same moment; a stream's share of the request's own cost is in its chunks. In the
unpaced stream chunks come in one go, and the gateway passes on as many as it finds at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench_rig import (
    MODELS,
    STAND_IN,
    BenchError,
    Daemon,
    LoadClient,
    a_daemon,
    a_folder,
    a_load_client,
    cpu_s,
    quantile,
    until,
)
from report import Table

_ROUNDS = 5
_WARM_UP_S = 0.5
_SHARES = (0.5, 0.99)
_MODEL = "m"
_MESSAGES = [{"role": "user", "content": "Say hello in one short sentence."}]


def _chat(**more: object) -> str:
    return json.dumps({"model": _MODEL, "messages": _MESSAGES, **more})


@dataclass(frozen=True)
class _Load:
    """A kind of work whose CPU is measured. `per`: what the cost is divided by."""

    name: str
    per: str
    connections: int
    body: str


_LATENCIES = {
    "chat, whole": _chat(max_tokens=1),
    "chat, stream": _chat(max_tokens=4, stream=True, pace_ms=1),
}
_LOADS = (
    _Load("request, 1 at a time", "answers", 1, _chat(max_tokens=1)),
    _Load("request, 16 at a time", "answers", 16, _chat(max_tokens=1)),
    _Load("chunk, 1 stream, 10 ms", "events", 1, _chat(max_tokens=100, stream=True, pace_ms=10)),
    _Load("chunk, 64 streams, 20 ms", "events", 64, _chat(max_tokens=50, stream=True, pace_ms=20)),
    _Load("chunk, 1 stream, unpaced", "events", 1, _chat(max_tokens=500, stream=True)),
)


@dataclass(frozen=True)
class _Cost:
    daemon_us: float
    engine_us: float
    per_s: float


def run(seconds: float) -> list[Table]:
    """Measure for about `seconds`."""
    models = {f"cold-{number:02}": 'resting = "cold"' for number in range(1, MODELS)}
    models[_MODEL] = 'resting = "hot"'
    with a_folder() as folder, a_daemon(folder, models, config=STAND_IN) as daemon:
        until(lambda: daemon.status(_MODEL)["rung"] == "hot", "the stand-in engine is ready")
        with a_load_client() as client:
            return _measure(daemon, client, seconds)


def _measure(daemon: Daemon, client: LoadClient, seconds: float) -> list[Table]:
    engine = daemon.status(_MODEL)["replicas"][0]
    socket = str(daemon.run_dir / "engines" / engine["name"] / "engine.sock")
    gateway = ["127.0.0.1", daemon.port]
    pids = daemon.pid, engine["pid"]
    piece = seconds / _ROUNDS / (len(_LATENCIES) + len(_LOADS))
    delays: dict[str, list[Sequence[float]]] = {
        f"{name}, p{share * 100:.0f}": [] for name in _LATENCIES for share in _SHARES
    }
    costs: dict[str, list[_Cost]] = {load.name: [] for load in _LOADS}
    for number in range(_ROUNDS + 1):
        length = piece if number else min(piece, _WARM_UP_S)
        for name, body in _LATENCIES.items():
            said = client.do(do="turns", ways=[socket, gateway], body=body, seconds=length)
            for share in _SHARES if number else ():
                found = _added(share, *said["first_byte_s"])
                delays[f"{name}, p{share * 100:.0f}"].append(found)
        for load in _LOADS:
            before = [cpu_s(pid) for pid in pids]
            said = client.do(
                do="fan",
                way=gateway,
                connections=load.connections,
                body=load.body,
                seconds=length,
            )
            cost = _cost(load, said, [cpu_s(pid) - b for pid, b in zip(pids, before, strict=True)])
            if number:
                costs[load.name].append(cost)
    return [_delay_table(delays), _cost_table(costs)]


def _added(share: float, direct: list[float], through: list[float]) -> Sequence[float]:
    one, other = (1000 * quantile(each, share) for each in (direct, through))
    return one, other, other - one, other / one


def _cost(load: _Load, said: Any, spent_s: Sequence[float]) -> _Cost:
    count = said[load.per]
    expected = said["answers"] * (json.loads(load.body)["max_tokens"] + 1)
    if load.per == "events" and count != expected:
        raise BenchError(f"{load.name}: {count} events came through, and {expected} were sent")
    daemon_us, engine_us = (1e6 * spent / count for spent in spent_s)
    return _Cost(daemon_us, engine_us, count / said["seconds"])


def _delay_table(delays: dict[str, list[Sequence[float]]]) -> Table:
    rows = {
        name: [median(values) for values in zip(*rounds, strict=True)]
        for name, rounds in delays.items()
    }
    columns = ("direct", "gateway", "added", "ratio")
    return Table(f"gateway: first byte, ms, medians of {_ROUNDS} rounds", columns, rows)


def _cost_table(costs: dict[str, list[_Cost]]) -> Table:
    rows = {}
    for name, rounds in costs.items():
        daemon = median(cost.daemon_us for cost in rounds)
        engine = median(cost.engine_us for cost in rounds)
        rate = median(cost.per_s for cost in rounds)
        rows[name] = (daemon, engine, daemon / engine, rate)
    return Table(
        f"gateway: CPU us each, medians of {_ROUNDS} rounds",
        ("daemon", "stand-in", "ratio", "each/s"),
        rows,
    )
