"""What warmd costs at rest: memory and CPU of the daemon and of its helper, with 32 cold models.

The helper is the forkserver, which waits for an engine to start. Memory is read from
/proc/PID/smaps_rollup: RSS counts a shared page in every process that maps it, PSS its share of it,
so that the PSS of several processes may be added up. CPU is that of all threads, by the process's
own CPU clock, in percent of one core. Waking is voluntary context switches of the main thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from bench_rig import MODELS, BenchError, Daemon, a_daemon, a_folder, cpu_s
from report import Table, Value

_SETTLING_S = 3.0
_MIB = 2**20
_TARGET: Sequence[Value] = ("<= 80", "<= 80", "< 0.5", None)


def run(seconds: float) -> list[Table]:
    """Measure for `seconds` after the daemon has come to rest."""
    models = {f"model-{number:02}": 'resting = "cold"' for number in range(MODELS)}
    with a_folder() as folder, a_daemon(folder, models) as daemon:
        time.sleep(_SETTLING_S)
        pids = {"daemon": daemon.pid, "helper": _helper(daemon)}
        began = time.monotonic()
        cpu = {name: cpu_s(pid) for name, pid in pids.items()}
        woken = {name: _switches(pid) for name, pid in pids.items()}
        time.sleep(seconds)
        took = time.monotonic() - began
        rows: dict[str, Sequence[Value]] = {}
        together = [0.0] * 4
        for name, pid in pids.items():
            figures = [
                _memory(pid, "Rss"),
                _memory(pid, "Pss"),
                100 * (cpu_s(pid) - cpu[name]) / took,
                (_switches(pid) - woken[name]) / took,
            ]
            rows[name] = figures
            together = [old + new for old, new in zip(together, figures, strict=True)]
    rows["together"] = together
    rows["target"] = _TARGET
    title = f"idle: {MODELS} cold models, {took:.0f} s"
    return [Table(title, ("RSS MiB", "PSS MiB", "CPU %", "wakes/s"), rows)]


def _helper(daemon: Daemon) -> int:
    children = psutil.Process(daemon.pid).children(recursive=True)
    if len(children) != 1:
        names = ", ".join(child.name() for child in children) or "none"
        raise BenchError(f"an idle daemon has one child, the forkserver, and this one has: {names}")
    return children[0].pid


def _memory(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) * 1024 / _MIB
    raise BenchError(f"/proc/{pid}/smaps_rollup has no line {field}")


def _switches(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "voluntary_ctxt_switches":
            return int(rest)
    raise BenchError(f"/proc/{pid}/status does not count context switches")
