"""`warmctl probe`: begins a probe, tells what it does, and shows what it has measured."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from warmd.cli.client import Client, NoDaemonError, RefusedError, of_this_version
from warmd.cli.probe import probe_table
from warmd.cli.words import clean

_LOOK_S = 0.5


def add_probe(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    anywhere: argparse.ArgumentParser,
    duration: Callable[[str], float],
) -> None:
    """Add the command; `duration` reads a time."""

    def times(text: str) -> list[float]:
        return [0.0 if each.strip() == "0" else duration(each.strip()) for each in text.split(",")]

    command = commands.add_parser(
        "probe",
        parents=[anywhere],
        help="measure the first request after a quiet time against the ones right after it",
        epilog="The model is kept hot meanwhile; a user's request begins the quiet time anew. "
        "Ctrl-C ends the probe. Exit status: 1 where it ended early.",
    )
    command.add_argument("model", metavar="MODEL", help="a model's name or alias")
    command.add_argument(
        "--idle",
        type=times,
        metavar="TIMES",
        default=[900.0, 1800.0, 3600.0],
        help='after how long each, such as "15m,30m" (default: 15m,30m,60m); 0 measures at once, '
        "with the start where the model isn't hot",
    )
    command.add_argument("--json", action="store_true", help="print the daemon's JSON as it is")


def probe(client: Client, model: str, idle: list[float], *, as_json: bool) -> int:
    """Probe `model`; return the exit status. Ctrl-C ends the probe as well."""
    told = client.post("/probe", {"model": model, "idle": idle})
    with of_this_version():
        number, said = told["id"], ""
        try:
            while told["ended"] is None:
                if told["doing"] != said and sys.stderr.isatty():
                    said = told["doing"]
                    print(f"\r\x1b[K{clean(said)}", end="", file=sys.stderr, flush=True)
                time.sleep(_LOOK_S)
                told = client.parse(client.get(f"/probe?id={number}"))
        except KeyboardInterrupt:
            with suppress(NoDaemonError, RefusedError):
                told = client.post("/probe/end", {"id": number})
        if said:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        print(json.dumps(told) if as_json else probe_table(told))
        return 1 if told["failed"] else 0
