"""`warmctl probe`: begins a probe, tells what it does, and shows what it has measured."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress

from warmd.cli.client import Client, NoDaemonError, RefusedError, of_this_version
from warmd.cli.probe import probe_table
from warmd.cli.words import clean

_LOOK_S = 0.5


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
