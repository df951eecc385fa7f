"""Runs the benchmarks that are named, all by default; see scripts/bench for the options."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import calendar_bench
import cold_exec
import coldstart
import crash
import gateway
import idle
import past
import restart
import staging
import sweep
import tick
import wake
from bench_rig import HERE, BenchError
from report import Table, as_json, as_text, this_host

_START_AND_END_S = 90.0  # what a benchmark may take beyond its seconds


@dataclass(frozen=True)
class _Bench:
    seconds: float
    run: Callable[[float], Sequence[Table]]
    start_and_end_s = _START_AND_END_S
    only_by_name = False


@dataclass(frozen=True)
class _BenchOnDisk:
    """One that needs a folder on a real disk."""

    seconds: float
    run: Callable[[float, Path], Sequence[Table]]
    start_and_end_s: float = _START_AND_END_S
    only_by_name: bool = False  # it takes minutes, and an engine


BENCHES: dict[str, _Bench | _BenchOnDisk] = {
    "idle": _Bench(20.0, idle.run),
    "gateway": _Bench(90.0, gateway.run),
    "exec": _Bench(30.0, cold_exec.run),
    "wake": _Bench(30.0, wake.run),
    "crash": _Bench(20.0, crash.run),
    "restart": _Bench(40.0, restart.run),
    "tick": _Bench(10.0, tick.run),
    "sweep": _Bench(10.0, sweep.run),
    "calendar": _Bench(10.0, calendar_bench.run),
    "past": _Bench(10.0, past.run),
    "staging": _BenchOnDisk(180.0, staging.run),
    "coldstart": _BenchOnDisk(300.0, coldstart.run, 1200.0, only_by_name=True),
}
FOLDER = HERE.parents[1] / ".cache"


def main() -> int:
    """Return 0 whatever the times are, 1 where a benchmark could not be run."""
    asked = _parse(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    signal.signal(signal.SIGALRM, _overdue)
    host = this_host()
    found: dict[str, Sequence[Table]] = {}
    failed = False
    if not asked.json:
        print(host.line, flush=True)
    for name in asked.names or [name for name in BENCHES if not BENCHES[name].only_by_name]:
        seconds = asked.seconds or BENCHES[name].seconds
        print(f"{name}: measuring for about {seconds:g} s", file=sys.stderr, flush=True)
        signal.setitimer(signal.ITIMER_REAL, seconds + BENCHES[name].start_and_end_s)
        try:
            found[name] = _run(BENCHES[name], seconds, asked.folder)
        except BenchError as error:
            failed = True
            print(f"{name} could not be measured: {error}", file=sys.stderr)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if not asked.json:
            for table in found.get(name, ()):
                print(f"\n{as_text(table)}", flush=True)
    if asked.json:
        benches = {name: as_json(tables) for name, tables in found.items()}
        print(json.dumps({"host": asdict(host), "benchmarks": benches}, indent=1))
    return 1 if failed else 0


def _run(bench: _Bench | _BenchOnDisk, seconds: float, folder: Path) -> Sequence[Table]:
    return bench.run(seconds) if isinstance(bench, _Bench) else bench.run(seconds, folder)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--seconds", type=float, metavar="N", help="how long each measures")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        default=FOLDER,
        help="on the disk that staging is measured on (default: .cache in the repository)",
    )
    asked = parser.parse_args(argv)
    if unknown := set(asked.names) - BENCHES.keys():
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if asked.seconds is not None and not 1 <= asked.seconds <= 3600:
        parser.error("--seconds takes a number from 1 to 3600")
    return asked


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _overdue(_: int, __: FrameType | None) -> None:
    raise BenchError("it did not end in time, so something hangs")


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of our output has left
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)
