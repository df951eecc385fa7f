"""GET /history: what happened to one model, or to all, since some time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Protocol

from aiohttp import web

from warmd.control.asked import read_since
from warmd.control.handler import Handler, Observed, Resolve, trouble
from warmd.control.refusal import RefusedError
from warmd.history import HistoryError, Report


class Remembers(Observed, Protocol):
    """Who has the history."""

    async def history(self, model: str | None, since: float) -> Report:
        """What happened to `model` (its own name), or to all, since `since` (Unix seconds).

        Raises `warmd.history.HistoryError`.
        """


def history_handler(past: Remembers, resolve: Resolve) -> Handler:
    """Make the handler."""

    async def handle(request: web.Request) -> web.Response:
        name = request.query.get("model")
        model = None if name is None else resolve(name)
        since = read_since(request.query.get("since"), past.snapshot().time)
        try:
            report = await past.history(model, since)
        except HistoryError as error:
            raise RefusedError(503, str(error)) from None
        return web.json_response(asdict(report) | trouble(past))

    return handle
