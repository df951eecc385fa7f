"""From a request's arrival for a cold model to the engine's exec.

The engine is a bash script that says, as its first act, what time it is, and then sleeps. One
request after the other goes through the gateway, on a connection that stays open:

    arrival     the client's clock just before the one send that hands over the whole request, so
                that the send itself counts
    decision    the supervisor begins the start: the admin API's status.time - start.elapsed
    exec        the last instruction before execve in the engine's process: decision plus the
                stage `program` of the start, which the shim has stamped
    first line  the script's own clock: what is left of an exec, the kernel's and bash's part

All are moments of one clock, CLOCK_REALTIME; the daemon counts in CLOCK_MONOTONIC and tells the
difference. Staging of the model's weights (1 MiB) begins once its program runs, as it does for any
cold model. In between the model is set cold, which calls the start off
and answers the request with 503, then set auto, and the next request waits until nothing of the
last engine or of its staging is left. So no start ever becomes ready: what comes after exec is the
engine's own time. `bare spawn` is the floor: the same script started by a small program, in turn.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from bench_rig import BenchError, Daemon, a_daemon, a_folder, decision_and_exec, quantile, until
from first_lines import FirstLines
from report import Table, Value

_MODEL = "m"
_PATIENCE_S = 10.0
_ENOUGH = 300
_FEWEST = 5
_WARM_UP = 3


@dataclass(frozen=True)
class _Start:
    """The moments of one start, in Unix seconds."""

    arrival: float
    decision: float
    exec: float
    first_line: float


def run(seconds: float) -> list[Table]:
    """Measure as many starts as fit into `seconds`, at most 300."""
    with a_folder() as folder:
        engine = FirstLines(folder, "exec sleep 60")
        # With a reservation each start looks at the model's files and at what earlier ones told.
        lines = (
            'resting = "cold"\nidle = { after = "1ms", then = "cold" }\npool = "p"\nvram = "2GiB"'
        )
        pool = '[pools.p]\nvram = "2GiB"\n'
        try:
            with a_daemon(folder, {_MODEL: lines}, python=engine.script, config=pool) as daemon:
                return [_measure(daemon, engine, seconds)]
        finally:
            engine.close()


def _measure(daemon: Daemon, engine: FirstLines, seconds: float) -> Table:
    client = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=_PATIENCE_S)
    client.connect()
    starts: list[_Start] = []
    bare: list[float] = []
    end = time.monotonic() + seconds
    try:
        while len(starts) < _ENOUGH and (time.monotonic() < end or len(starts) < _FEWEST):
            starts.append(_one_start(daemon, engine, client))
            bare.append(engine.bare_spawn())
    finally:
        client.close()
    if len(starts) > _FEWEST + _WARM_UP:
        starts, bare = starts[_WARM_UP:], bare[_WARM_UP:]
    return _table(starts, bare)


def _one_start(daemon: Daemon, engine: FirstLines, client: http.client.HTTPConnection) -> _Start:
    _ask_until_cold(daemon)
    arrival = _send(client)
    first_line = engine.next()
    decision, exec_at = decision_and_exec(daemon, _MODEL)
    daemon.control("POST", "/set", {"model": _MODEL, "rung": "cold"})
    answer = client.getresponse()
    answer.read()
    if answer.status != 503:
        raise BenchError(f"a request whose model is set cold was answered {answer.status}")
    return _Start(arrival, decision, exec_at, first_line)


def _ask_until_cold(daemon: Daemon) -> None:
    until(lambda: _is_down(daemon), "the engine has ended")
    daemon.control("POST", "/set", {"model": _MODEL, "rung": "auto"})
    model = daemon.status(_MODEL)
    if not _is_down(daemon) or model["target"] != "cold":
        raise BenchError(f"the model does not rest cold: {model['reason']}")


def _is_down(daemon: Daemon) -> bool:
    if daemon.status(_MODEL)["replicas"][0]["phase"] != "down":
        return False
    # The forkserver and the stage keeper: no shim, no engine, no process that holds files.
    children = psutil.Process(daemon.pid).children(recursive=True)
    return len([each for each in children if _name(each) != "warmd-stage"]) == 1


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def _send(client: http.client.HTTPConnection) -> float:
    messages = [{"role": "user", "content": "Say hello in one short sentence."}]
    body = json.dumps({"model": _MODEL, "messages": messages}).encode()
    client.putrequest("POST", "/v1/chat/completions")
    client.putheader("Content-Type", "application/json")
    client.putheader("Content-Length", str(len(body)))
    if isinstance(client.sock, socket.socket):
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    arrival = time.time()
    client.endheaders(body)  # head and body in one send
    return arrival


def _table(starts: Sequence[_Start], bare: Sequence[float]) -> Table:
    spans = {
        "arrival -> decision": [s.decision - s.arrival for s in starts],
        "decision -> exec": [s.exec - s.decision for s in starts],
        "arrival -> exec": [s.exec - s.arrival for s in starts],
        "arrival -> first line": [s.first_line - s.arrival for s in starts],
        "bare spawn -> first line": list(bare),
    }
    rows: dict[str, Sequence[Value]] = {
        name: [1000 * quantile(span, share) for share in (0.5, 0.99, 1.0)]
        for name, span in spans.items()
    }
    rows["target, arrival -> exec"] = (None, "< 20", None)
    first, floor = rows["arrival -> first line"], rows["bare spawn -> first line"]
    rows["ratio, first lines"] = [
        one / other if isinstance(one, float) and isinstance(other, float) else None
        for one, other in zip(first, floor, strict=True)
    ]
    return Table(f"exec: {len(starts)} cold requests, ms", ("p50", "p99", "max"), rows)
