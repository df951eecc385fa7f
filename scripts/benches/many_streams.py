"""A crowd: 2,000 streams at one time, what they cost in memory, and how late the daemon's loop is.

The streams are of eight paces close to each other, so that eight groups of 250 get their chunks at
moments of their own, as from so many engines. Memory is the process's resident set.

The loop's lag: a question to the admin API that costs nothing, on a connection that stays open,
asked every 10 ms while all streams flow. The admin API is served by the loop that ticks, so the
answer comes as late as a tick would. What the answer takes while nothing flows stands beside it.
"""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from bench_rig import BenchError, Daemon, LoadClient, cpu_s, quantile, until
from other_proxies import Proxy
from report import Table, Value

_STREAMS = 2000
_GROUPS = 8
_PACE_MS = 400
_CHUNKS = 12
_WATCHED_S = 2.5
_EVERY_S = 0.01
_MIB = 1 << 20
_QUESTION = b"GET /nothing HTTP/1.1\r\nHost: warmd\r\n\r\n"


def many_streams(
    daemon: Daemon,
    model: str,
    proxies: Sequence[Proxy],
    client: LoadClient,
    chat: Callable[..., str],
) -> Table:
    """Measure each proxy in turn; the first one is the daemon's."""
    # The daemon has two connections for each stream, and some files beside.
    streams = min(_STREAMS, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500) // 2)
    bodies = [
        chat(max_tokens=_CHUNKS, stream=True, pace_ms=_PACE_MS + 10 * group)
        for group in range(_GROUPS)
    ]
    figures: list[list[float | None]] = []
    for number, proxy in enumerate(proxies):
        asked = None if number else daemon.run_dir / "control.sock"
        quiet = _asked(asked, 0.5)
        memory, cpu = _memory(proxy), cpu_s(proxy.pid)
        client.begin(do="fan", way=proxy.way, connections=streams, bodies=bodies, seconds=0)
        if not number:
            until(lambda: _in_flight(daemon, model) == streams, "all streams are open")
        else:
            time.sleep(1.0)
        late = _asked(asked, _WATCHED_S)
        crowded = _memory(proxy)
        said = client.answer()
        if said["events"] != streams * (_CHUNKS + 1):
            raise BenchError(f"{proxy.name}: {said['events']} events of {streams} streams came")
        spent = 1e6 * (cpu_s(proxy.pid) - cpu) / said["events"]
        lags = [quantile(late, share) for share in (0.5, 0.99)] if late else [None, None]
        base = quantile(quiet, 0.5) if quiet else None
        figures.append([memory, crowded, crowded - memory, spent, base, *lags])
    names = (
        *("memory before, MiB", "memory with the streams, MiB", "more, MiB"),
        "CPU a chunk, with the requests, us",
        *("the loop's answer, idle, ms", "with the streams, p50, ms", "with the streams, p99, ms"),
    )
    rows: dict[str, Sequence[Value]] = dict(zip(names, zip(*figures, strict=True), strict=True))
    notes = [] if streams == _STREAMS else [f"{streams} streams: `ulimit -n` allows no more"]
    title = f"gateway: {streams:,} streams at a time"
    return Table(title, [proxy.name for proxy in proxies], rows, notes)


def _in_flight(daemon: Daemon, model: str) -> int:
    return sum(int(each["in_flight"]) for each in daemon.status(model)["replicas"])


def _memory(proxy: Proxy) -> float:
    return float(psutil.Process(proxy.pid).memory_info().rss) / _MIB


def _asked(path: Path | None, seconds: float) -> list[float]:
    """Ask again and again; return what each answer took, in ms. Without a path just wait."""
    if path is None:
        time.sleep(seconds)
        return []
    took = []
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(10.0)
        asking.connect(str(path))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.perf_counter()
            asking.sendall(_QUESTION)
            answer = asking.recv(4096)
            took.append(1000 * (time.perf_counter() - began))
            if not answer.startswith(b"HTTP/1.1 404 "):
                raise BenchError(f"the admin API answered {json.dumps(answer.decode())}")
            time.sleep(_EVERY_S)
    return took
