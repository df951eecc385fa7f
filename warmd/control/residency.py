"""GET /residency: what of each model's files is in RAM, measured as it is asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from aiohttp import web

from warmd.control.handler import Handler
from warmd.residency import SetInRam


class Measures(Protocol):
    """Who can measure what is in RAM."""

    async def residency(self) -> Sequence[SetInRam]:
        """Measure each set of files."""


def residency_handler(measures: Measures) -> Handler:
    """Make the handler."""

    async def handle(_: web.Request) -> web.Response:
        began = time.monotonic()
        found = await measures.residency()
        took = time.monotonic() - began
        told = {"time": time.time(), "seconds": took, "sets": [_facts(each) for each in found]}
        return web.json_response(told)

    return handle


def _facts(each: SetInRam) -> dict[str, Any]:
    known, measured = each.known, each.measured
    files = known.files
    return {
        "models": known.models,
        "kind": known.kind,
        "files": None if files is None else len(files),
        "bytes": None if measured is None else measured.total,
        "resident": None if measured is None else measured.resident,
        "by": "" if measured is None else measured.by,
        "trouble": None if measured is None else measured.trouble,
        "state": known.state,
        "held": known.held,
        "place": known.place,
        "problem": known.problem,
    }
