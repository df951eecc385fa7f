"""What warmd adds to an engine's wake, and to its falling asleep.

The engine is the stand-in of stand_in_engine.py, one of 32 models, the others cold. Its sleep and
its wake take 10 ms each by its own clock, which is subtracted. In each cycle

    order -> ready         the model, asleep, is set hot by the admin API: from the client's clock
                           before it connects, to `since` of the replica that is ready
    order -> asleep        it is set asleep in the same way
    request -> first byte  asleep and set auto it is asked by a client of the gateway, on a
                           connection that stays open: from its clock before the one send, to the
                           return of its first read

The engine is asked twice before anybody reaches it after a wake: the warm-up request and the
canary. Both are shown as the daemon measured them, and are not in what is `added`: that is what is
left. What the engine's own time is made of: its clock from the arrival of POST /wake_up to its
answer; all that warmd asks beside, such as /is_sleeping, is warmd's doing. All moments are of one
clock, CLOCK_REALTIME.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_rig import MODELS, STAND_IN, BenchError, Daemon, a_daemon, a_folder, quantile, until
from load_client import connected, request_of
from report import Table, Value

_MODEL = "m"
_PATIENCE_S = 10.0
_ENOUGH = 300
_FEWEST = 100
_WARM_UP = 5
# What the daemon does after the engine's last answer of an operation; asking it would disturb it.
_SETTLING_S = 0.03
_SLEEPER = """resting = "asleep"
idle = { after = "1ms" }
sleep = { rehearse = false, cycles = 100000, slowest = "0%" }"""


@dataclass(frozen=True)
class _Span:
    """One operation, in seconds: all of it, the engine's own part, and what was asked to prove."""

    whole: float
    engine: float
    first_answer: float = 0.0
    canary: float = 0.0

    @property
    def added(self) -> float:
        return self.whole - self.engine - self.first_answer - self.canary


class _Told:
    """The pipe in which the engine tells what it did."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._reader = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # O_RDWR: never at its end
        self._unread = b""

    def next(self, what: str) -> float:
        """Wait until the engine has done `what`; return how long that took, in seconds."""
        while True:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                told = json.loads(line)
                if told["what"] == what:
                    return float(told["done"] - told["began"])
            elif select.select([self._reader], [], [], _PATIENCE_S)[0]:
                self._unread += os.read(self._reader, 65536)
            else:
                raise BenchError(f"the engine told of no {what} within {_PATIENCE_S:g} s")

    def forget(self) -> None:
        """Pass over what was told until now."""
        while select.select([self._reader], [], [], 0)[0]:
            os.read(self._reader, 65536)
        self._unread = b""

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._reader)


def run(seconds: float) -> list[Table]:
    """Measure as many cycles as fit into `seconds`, from 100 to 300."""
    models = {f"cold-{number:02}": 'resting = "cold"' for number in range(1, MODELS)}
    models[_MODEL] = _SLEEPER
    with a_folder() as folder:
        told = _Told(folder / "told")
        config = f'sleep = "drill"\n{STAND_IN}\nSTAND_IN_TELLS = "{folder / "told"}"'
        try:
            with a_daemon(folder, models, config=config) as daemon:
                return [_measure(daemon, told, seconds)]
        finally:
            told.close()


def _measure(daemon: Daemon, told: _Told, seconds: float) -> Table:
    _wait_for(daemon, "asleep")
    client = connected(["127.0.0.1", daemon.port])
    orders: list[_Span] = []
    requests: list[_Span] = []
    sleeps: list[_Span] = []
    end = time.monotonic() + seconds
    try:
        while len(orders) < _ENOUGH and (time.monotonic() < end or len(orders) < _FEWEST):
            orders.append(_order(daemon, told))
            sleeps.append(_sleep(daemon, told))
            requests.append(_request(daemon, told, client))
            _sleep(daemon, told)
    finally:
        client.close()
    return _table(orders[_WARM_UP:], requests[_WARM_UP:], sleeps[_WARM_UP:])


def _wait_for(daemon: Daemon, phase: str) -> Any:
    def replica() -> Any:
        found = daemon.status(_MODEL)["replicas"][0]
        return found if found["phase"] == phase else None

    return until(replica, f"the engine is {phase}")


def _order(daemon: Daemon, told: _Told) -> _Span:
    told.forget()
    ordered = time.time()
    daemon.control("POST", "/set", {"model": _MODEL, "rung": "hot"})
    engine = told.next("wake")
    told.next("completion")  # the canary, the last that is asked
    time.sleep(_SETTLING_S)
    replica = _wait_for(daemon, "ready")
    return _Span(replica["since"] - ordered, engine, *_proof(replica))


def _sleep(daemon: Daemon, told: _Told) -> _Span:
    told.forget()
    ordered = time.time()
    daemon.control("POST", "/set", {"model": _MODEL, "rung": "asleep"})
    engine = told.next("sleep")
    time.sleep(_SETTLING_S)
    return _Span(_wait_for(daemon, "asleep")["since"] - ordered, engine)


def _request(daemon: Daemon, told: _Told, client: socket.socket) -> _Span:
    daemon.control("POST", "/set", {"model": _MODEL, "rung": "auto"})
    model = daemon.status(_MODEL)
    if model["target"] != "asleep" or model["rung"] != "asleep":
        raise BenchError(f"the model does not rest asleep: {model['reason']}")
    told.forget()
    body = {"model": _MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    request = request_of(json.dumps(body))
    began = time.time()
    client.sendall(request)
    answer = client.recv(1 << 16)
    took = time.time() - began
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise BenchError(f"a request for a sleeper was answered {answer!r}")
    wake = told.next("wake")
    return _Span(took, wake, *_proof(daemon.status(_MODEL)["replicas"][0]))


def _proof(replica: Any) -> tuple[float, float]:
    wake = replica["sleep"]["last_wake"]
    return wake["first_answer"], wake["canary"]


def _table(orders: list[_Span], requests: list[_Span], sleeps: list[_Span]) -> Table:
    rows: dict[str, Sequence[Value]] = {}
    for name, spans, aim in (
        ("wake: order -> ready", orders, "< 20"),
        ("wake: request -> first byte", requests, "< 20"),
        ("order -> asleep", sleeps, None),
    ):
        rows[name] = _figures([s.whole for s in spans])
        rows[f"{name}, the engine's own"] = _figures([s.engine for s in spans])
        if spans is not sleeps:
            rows[f"{name}, warm-up request"] = _figures([s.first_answer for s in spans])
            rows[f"{name}, canary"] = _figures([s.canary for s in spans])
        rows[f"{name}, ADDED"] = (*_figures([s.added for s in spans])[:-1], aim)
    title = f"wake: {len(orders)} cycles of one of {MODELS} models, ms"
    return Table(title, ("p50", "p99", "max", "aim"), rows)


def _figures(values: Sequence[float]) -> Sequence[Value]:
    ms = [1000 * value for value in values]
    return (quantile(ms, 0.5), quantile(ms, 0.99), max(ms), None)
