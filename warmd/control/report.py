"""GET /report: what warmth brought and cost over weeks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from aiohttp import web

from warmd.control.asked import RefusedError, read_since
from warmd.history import HistoryError
from warmd.reckoning import Account
from warmd.status import Status

Handler = Callable[[web.Request], Awaitable[web.Response]]

_DEFAULT_S = 14 * 86400.0


class Reckons(Protocol):
    """Who has the history and knows the models."""

    def snapshot(self) -> Status:
        """Everything that is so at this moment."""

    async def report(self, models: Collection[str] | None, since: float) -> Account:
        """What happened to `models` (their own names), or to all, since `since` (Unix seconds).

        Raises `warmd.history.HistoryError`.
        """


def report_handler(reckons: Reckons, resolve: Callable[[str], str]) -> Handler:
    """Make the handler; `resolve` returns a model's own name, or raises what the API answers."""

    async def handle(request: web.Request) -> web.Response:
        status = reckons.snapshot()
        names = request.query.getall("model", [])
        models = [resolve(name) for name in names] or None
        since = read_since(request.query.get("since"), status.time, _DEFAULT_S)
        try:
            account = await reckons.report(models, since)
        except HistoryError as error:
            raise RefusedError(503, str(error)) from None
        trouble = {"history_trouble": status.history_trouble}
        # Of many models it is long: nobody's request waits until it is put into words.
        text = await asyncio.to_thread(lambda: json.dumps(dataclasses.asdict(account) | trouble))
        return web.json_response(text=text)

    return handle
