"""What the gateway adds to a request for a hot model, beside nginx and Go's reverse proxy.

The daemon has 32 models, one of them hot. Its engine is the stand-in of stand_in_engine.py, which
costs less than any proxy; the client is load_client.py. Each has a process of its own. nginx and
Go's (other_proxies.py, where they are here) stand before the same engine. All figures come from
several short rounds, in which the kinds of work and the proxies take turns; of each figure the
median over the rounds is shown.

First byte: one request at a time on connections that stay open, by each way in turn. `added` is
the difference of the two quantiles of one round. There is no pause between requests: what the
daemon still does after an answer's end, the next request waits for. `beside 64 streams`: while
another client has so many paced streams through the same proxy.

CPU: of all threads of the process, by its own CPU clock, divided by what the client received. One
chunk is one server-sent event of some 200 bytes. The paced streams get a chunk at each step of the
engine, all streams at the same moment, or `apart`, each by a clock of its own; a stream's share of
the request's own cost is in its chunks. In the unpaced stream chunks come in one go, and a proxy
passes on as many as it finds at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench_rig import (
    MODELS,
    STAND_IN,
    BenchError,
    LoadClient,
    a_daemon,
    a_folder,
    a_load_client,
    cpu_s,
    quantile,
    raise_file_limit,
    until,
)
from many_streams import many_streams
from other_proxies import GO, NGINX, Proxy, missing, other_proxies
from report import Table, Value

WARMD = "warmd"
_DIRECT = "direct"
_ROUNDS = 5
_WARM_UP_S = 0.5
_SHARES = (0.5, 0.99)
_MODEL = "m"
_MESSAGES = [{"role": "user", "content": "Say hello in one short sentence."}]


def _chat(**more: object) -> str:
    return json.dumps({"model": _MODEL, "messages": _MESSAGES, **more})


@dataclass(frozen=True)
class _Load:
    """A kind of work whose CPU is measured. `per`: what the cost is divided by.

    Each connection has one of the bodies, which all ask for as many tokens.
    """

    name: str
    per: str
    connections: int
    bodies: Sequence[str]


_LATENCIES = {
    "chat, whole": _chat(max_tokens=1),
    "chat, stream": _chat(max_tokens=4, stream=True, pace_ms=1),
}
_STREAMS = _Load(
    "chunk, 64 streams, 20 ms", "events", 64, [_chat(max_tokens=25, stream=True, pace_ms=20)]
)
_BESIDE = "chat, beside 64 streams"
_LOADS = (
    _Load("request, 1 at a time", "answers", 1, [_chat(max_tokens=1)]),
    _Load("request, 64 at a time", "answers", 64, [_chat(max_tokens=1)]),
    _Load("chunk, 1 stream, 10 ms", "events", 1, [_chat(max_tokens=50, stream=True, pace_ms=10)]),
    _STREAMS,
    _Load(
        "chunk, 64 streams, each apart",
        "events",
        64,
        [_chat(max_tokens=25, stream=True, pace_ms=18 + each / 16) for each in range(64)],
    ),
    _Load("chunk, 1 stream, unpaced", "events", 1, [_chat(max_tokens=500, stream=True)]),
)

_ByWay = dict[str, list[float]]
"""A figure of each round, by the name of the way."""


@dataclass
class _Found:
    """First bytes in ms by row, and CPU in us by load."""

    delays: dict[str, _ByWay] = field(default_factory=dict)
    costs: dict[str, _ByWay] = field(default_factory=dict)

    def add_delays(self, name: str, way: str, seconds: Sequence[float]) -> None:
        for share in _SHARES:
            row = self.delays.setdefault(f"{name}, p{share * 100:.0f}", {})
            row.setdefault(way, []).append(1000 * quantile(seconds, share))

    def add_costs(self, load: _Load, costs: Mapping[str, float]) -> None:
        for way, us in costs.items():
            self.costs.setdefault(load.name, {}).setdefault(way, []).append(us)


def run(seconds: float) -> list[Table]:
    """Measure for about `seconds`."""
    raise_file_limit()
    models = {f"cold-{number:02}": 'resting = "cold"' for number in range(1, MODELS)}
    models[_MODEL] = 'resting = "hot"'
    with a_folder() as folder, a_daemon(folder, models, config=STAND_IN) as daemon:
        until(lambda: daemon.status(_MODEL)["rung"] == "hot", "the stand-in engine is ready")
        engine = daemon.status(_MODEL)["replicas"][0]
        socket = str(daemon.run_dir / "engines" / engine["name"] / "engine.sock")
        ours = Proxy(WARMD, daemon.pid, ("127.0.0.1", daemon.port))
        with (
            a_load_client() as client,
            a_load_client() as other,
            other_proxies(folder, socket) as others,
        ):
            proxies = [ours, *others]
            bench = _Bench(proxies, Proxy(_DIRECT, engine["pid"], socket), client, other)
            tables = bench.measure(seconds)
            return [*tables, many_streams(daemon, _MODEL, proxies, client, _chat)]


@dataclass(frozen=True)
class _Bench:
    proxies: Sequence[Proxy]
    engine: Proxy
    client: LoadClient
    other: LoadClient

    def measure(self, seconds: float) -> list[Table]:
        pieces = len(_LATENCIES) + (len(_LOADS) + 1) * len(self.proxies) + 1
        piece = seconds / _ROUNDS / pieces
        found = _Found()
        for number in range(_ROUNDS + 1):
            # The first round warms up.
            self._round(min(piece, _WARM_UP_S) if not number else piece, found)
            if not number:
                found = _Found()
        return [_delay_table(found.delays), _cost_table(found.costs)]

    def _round(self, length: float, found: _Found) -> None:
        ways = [self.engine, *self.proxies]
        for name, body in _LATENCIES.items():
            took = self._turns(ways, body, length)
            for way, seconds in zip(ways, took, strict=True):
                found.add_delays(name, way.name, seconds)
        for way in ways:
            self.other.begin(**_fan(way, _STREAMS, length))
            (took_beside,) = self._turns([way], _LATENCIES["chat, whole"], length)
            self.other.answer()
            found.add_delays(_BESIDE, way.name, took_beside)
        for load in _LOADS:
            for proxy in self.proxies:
                found.add_costs(load, self._costs(load, proxy, length))

    def _turns(self, ways: Sequence[Proxy], body: str, length: float) -> Any:
        named = [way.way for way in ways]
        return self.client.do(do="turns", ways=named, body=body, seconds=length)["first_byte_s"]

    def _costs(self, load: _Load, proxy: Proxy, length: float) -> dict[str, float]:
        """CPU of `proxy`, and what the engine spends behind warmd."""
        pids = {proxy.name: proxy.pid}
        if proxy.name == WARMD:
            pids["stand-in"] = self.engine.pid
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        said = self.client.do(**_fan(proxy, load, length))
        spent = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
        count = said[load.per]
        expected = said["answers"] * (json.loads(load.bodies[0])["max_tokens"] + 1)
        if load.per == "events" and count != expected:
            raise BenchError(f"{load.name}: {count} events came through, and {expected} were sent")
        return {name: 1e6 * seconds / count for name, seconds in spent.items()}


def _fan(way: Proxy, load: _Load, seconds: float) -> dict[str, Any]:
    return {
        "do": "fan",
        "way": way.way,
        "connections": load.connections,
        "bodies": load.bodies,
        "seconds": seconds,
    }


def _delay_table(delays: Mapping[str, _ByWay]) -> Table:
    def row(by_way: _ByWay) -> Sequence[Value]:
        shown = [_median(by_way, name) for name in (_DIRECT, WARMD, NGINX, GO)]
        added = [_over_rounds(by_way, name, lambda a, b: a - b) for name in (_DIRECT, NGINX)]
        return *shown, *added

    return Table(
        f"gateway: first byte, ms, medians of {_ROUNDS} rounds",
        (_DIRECT, WARMD, NGINX, GO, "added", "over nginx"),
        {name: row(by_way) for name, by_way in delays.items()},
        missing(),
    )


def _cost_table(costs: Mapping[str, _ByWay]) -> Table:
    def row(by_way: _ByWay) -> Sequence[Value]:
        shown = [_median(by_way, name) for name in (WARMD, NGINX, GO, "stand-in")]
        ratios = [_over_rounds(by_way, name, lambda a, b: a / b) for name in (NGINX, GO)]
        return *shown, *ratios

    return Table(
        f"gateway: CPU us each, medians of {_ROUNDS} rounds",
        (WARMD, NGINX, GO, "stand-in", "to nginx", "to Go"),
        {name: row(by_way) for name, by_way in costs.items()},
    )


def _median(by_way: _ByWay, name: str) -> float | None:
    return median(by_way[name]) if name in by_way else None


def _over_rounds(
    by_way: _ByWay, other: str, compare: Callable[[float, float], float]
) -> float | None:
    """Compare warmd with another way, round by round."""
    if other not in by_way:
        return None
    return median(compare(*each) for each in zip(by_way[WARMD], by_way[other], strict=True))
