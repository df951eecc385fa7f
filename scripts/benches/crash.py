"""From the death of a hot engine to the exec of the next one.

The engine is the stand-in of stand_in_engine.py below a bash script that says the time as its first
act, one of 32 models, the others cold; beside it runs a child that ends on SIGTERM, for a real
engine has some. Its main process is killed with SIGKILL, and nobody asks it anything:

    kill -> decision  from the clock just before kill(2) to the supervisor's decision to start the
                      next one: its end was told, nothing of its tree was left, it was written down
    kill -> exec      to the last instruction before execve in the next engine's process
    kill -> first line  to that script's own clock

All moments are of one clock. `restart.stable_after` is 1 ms here, so that every failure is a first
one, which is tried again at once.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from bench_rig import (
    MODELS,
    STAND_IN,
    Daemon,
    a_daemon,
    a_folder,
    decision_and_exec,
    quantile,
    until,
)
from first_lines import FirstLines
from report import Table, Value

_MODEL = "m"
_ENOUGH = 100
_FEWEST = 30
# Only then is it ready for longer than `stable_after`, and what the daemon does after it is over.
_QUIET_S = 0.1


@dataclass(frozen=True)
class _Death:
    """Seconds from the kill."""

    decision: float
    exec: float
    first_line: float


def run(seconds: float) -> list[Table]:
    """Kill as often as fits into `seconds`, from 30 to 100 times."""
    models = {f"cold-{number:02}": 'resting = "cold"' for number in range(1, MODELS)}
    models[_MODEL] = 'resting = "hot"'
    with a_folder() as folder:
        engine = FirstLines(folder, f'sleep 600 &\nexec {shlex.quote(sys.executable)} "$@"')
        config = f'sleep = "off"\n{STAND_IN}\n[restart]\nstable_after = "1ms"'
        try:
            with a_daemon(folder, models, engine.script, config) as daemon:
                engine.next()
                return [_measure(daemon, engine, seconds)]
        finally:
            engine.close()


def _measure(daemon: Daemon, engine: FirstLines, seconds: float) -> Table:
    deaths: list[_Death] = []
    end = time.monotonic() + seconds
    while len(deaths) < _ENOUGH and (time.monotonic() < end or len(deaths) < _FEWEST):
        replica = until(lambda: _ready(daemon), "the engine is ready", poll_s=0.02)
        time.sleep(_QUIET_S)
        killed = time.time()
        os.kill(replica["pid"], signal.SIGKILL)
        first_line = engine.next()
        decision, exec_at = decision_and_exec(daemon, _MODEL)
        deaths.append(_Death(decision - killed, exec_at - killed, first_line - killed))
    rows: dict[str, Sequence[Value]] = {}
    names = ("kill -> decision", "kill -> exec", "kill -> first line")
    for name, values in zip(names, zip(*map(astuple, deaths), strict=True), strict=True):
        ms = [1000 * value for value in values]
        aim = "<= 100" if name == "kill -> exec" else None
        rows[name] = (quantile(ms, 0.5), quantile(ms, 0.99), max(ms), aim)
    return Table(f"crash: {len(deaths)} deaths, ms", ("p50", "p99", "max", "aim"), rows)


def _ready(daemon: Daemon) -> Any:
    replica = daemon.status(_MODEL)["replicas"][0]
    return replica if replica["phase"] == "ready" else None
