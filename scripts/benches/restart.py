"""A daemon is replaced while its engines run on and clients go on asking.

Eight stand-in engines run, five of them hot and three asleep, and outlive the daemon. The gateway's
listening socket is the benchmark's, which hands it over as a service manager does: connections
queue in it while no daemon runs. A client begins 20 requests a second to the hot models, each on a
connection of its own, each answered in 10 pieces over 90 ms. One second later the daemon is ended,
by SIGTERM or by SIGKILL in turn, and the next one is started as soon as it is gone:

    signal -> end      until the old daemon's process has ended
    exec -> begun      from the new one's start, just before fork(2), until its modules are loaded
    exec -> adopted    until the last of the eight engines is taken over
    longest wait       of a request for its first byte, its connection included

Requests that failed are counted over all rounds. SIGKILL breaks those that the old process had
taken in; `cut` counts them, the ones begun before it was gone; `failed` counts all others.
"""

from __future__ import annotations

import fcntl
import json
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench_rig import (
    STAND_IN,
    BenchError,
    Daemon,
    LoadClient,
    a_daemon,
    a_folder,
    a_load_client,
    until,
)
from report import Table, Value

_HOT = [f"hot-{number}" for number in range(1, 6)]
_ASLEEP = [f"asleep-{number}" for number in range(1, 4)]
_PER_S = 20
_BEFORE_S = 1.0
_AFTER_S = 3.0
_FEWEST = 3
_SIGNALS = (signal.SIGTERM, signal.SIGKILL)


@dataclass(frozen=True)
class _Round:
    """One replacement, times in seconds."""

    end: float
    begun: float
    adopted: float
    longest_wait: float
    requests: int
    cut: int
    failed: Sequence[str]


def run(seconds: float) -> list[Table]:
    """Replace it as often as fits into `seconds`, at least three times by each signal."""
    models = dict.fromkeys(_HOT, 'resting = "hot"')
    models |= dict.fromkeys(_ASLEEP, 'resting = "asleep"')
    models = {name: f'{line}\nsleep = {{ slowest = "0%" }}' for name, line in models.items()}
    found: dict[signal.Signals, list[_Round]] = {number: [] for number in _SIGNALS}
    config = f'sleep = "drill"\n{STAND_IN}'
    with (
        a_folder() as folder,
        _a_listener() as listener,
        a_daemon(folder, models, config=config, listener=listener) as daemon,
        a_load_client() as client,
    ):
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(found[_SIGNALS[-1]]) < _FEWEST:
            for number in _SIGNALS:
                found[number].append(_replace(daemon, client, number))
    return [_table(found)]


def _a_listener() -> socket.socket:
    """Listen on a free port; not as descriptor 3, as which it is handed over."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        return socket.socket(fileno=fcntl.fcntl(listening, fcntl.F_DUPFD_CLOEXEC, 10))


def _engines(daemon: Daemon) -> dict[str, Any] | None:
    """Return the replica of each model, once all are as they rest."""
    models = daemon.control("GET", "/status")["models"]
    replicas = {name: model["replicas"][0] for name, model in models.items()}
    phases = {name: "ready" if name in _HOT else "asleep" for name in replicas}
    rest = all(replica["phase"] == phases[name] for name, replica in replicas.items())
    return replicas if rest else None


def _replace(daemon: Daemon, client: LoadClient, number: signal.Signals) -> _Round:
    before = until(lambda: _engines(daemon), "all engines are up", poll_s=0.05) or {}
    bodies = [
        {"model": name, "messages": [], "stream": True, "max_tokens": 10, "pace_ms": 10}
        for name in _HOT
    ]
    client.begin(
        do="steady",
        way=["127.0.0.1", daemon.port],
        bodies=[json.dumps(body) for body in bodies],
        per_s=_PER_S,
        seconds=_BEFORE_S + _AFTER_S,
    )
    time.sleep(_BEFORE_S)
    signalled = time.time()
    daemon.end(number)
    ended = time.time()
    daemon.begin()
    daemon.wait_until_it_serves()
    after = until(lambda: _engines(daemon), "all engines are taken over", poll_s=0.05) or {}
    for name, replica in after.items():
        if replica["pid"] != before[name]["pid"] or not replica["reason"].startswith("taken over"):
            raise BenchError(f"{name} was not taken over: {replica['reason']}; {daemon.log}")
    begun = daemon.control("GET", "/status")["started"]
    requests = client.answer()["requests"]
    failed = [each for each in requests if each["failed"]]
    cut = [each for each in failed if number is signal.SIGKILL and each["began"] <= ended]
    return _Round(
        end=ended - signalled,
        begun=begun - ended,
        adopted=max(replica["since"] for replica in after.values()) - ended,
        longest_wait=max(each["first_byte_s"] or 0.0 for each in requests),
        requests=len(requests),
        cut=len(cut),
        failed=[each["failed"] for each in failed if each not in cut],
    )


def _table(found: dict[signal.Signals, list[_Round]]) -> Table:
    rows: dict[str, Sequence[Value]] = {}
    for number, rounds in found.items():
        for name, values, aim in (
            ("signal -> end", [r.end for r in rounds], None),
            ("exec -> begun", [r.begun for r in rounds], None),
            ("exec -> adopted", [r.adopted for r in rounds], "<= 2"),
            ("longest wait", [r.longest_wait for r in rounds], None),
        ):
            rows[f"{number.name}: {name}, s"] = (median(values), max(values), aim)
        asked = sum(r.requests for r in rounds)
        if number is signal.SIGKILL:
            rows[f"{number.name}: cut of {asked} requests"] = (
                None,
                sum(r.cut for r in rounds),
                None,
            )
        failed = sum(len(r.failed) for r in rounds)
        rows[f"{number.name}: failed of {asked} requests"] = (None, failed, "0")
    notes = sorted({why for rounds in found.values() for r in rounds for why in r.failed})
    return Table(
        f"restart: 8 engines, {len(found[signal.SIGTERM])} rounds by each signal",
        ("median", "worst", "aim"),
        rows,
        notes,
    )
