"""GET /report: what warmth brought and cost over weeks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Collection
from typing import Protocol

from aiohttp import web

from warmd.control.asked import read_since
from warmd.control.handler import Handler, Observed, Resolve
from warmd.control.refusal import RefusedError
from warmd.history import HistoryError
from warmd.reckoning import Account

_DEFAULT_S = 14 * 86400.0


class Reckons(Observed, Protocol):
    """Who has the history and knows the models."""

    async def report(self, models: Collection[str] | None, since: float) -> Account:
        """What happened to `models` (their own names), or to all, since `since` (Unix seconds).

        Raises `warmd.history.HistoryError`.
        """


def report_handler(reckons: Reckons, resolve: Resolve) -> Handler:
    """Make the handler."""

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
