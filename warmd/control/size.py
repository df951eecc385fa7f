"""GET /size: what one engine of a model takes of each GPU, estimated and measured."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from warmd.control.handler import Handler, Resolve
from warmd.engine import SizingError
from warmd.engine.sizing import Estimate


class Sizes(Protocol):
    """Who knows what models take."""

    async def size(self, model: str) -> Estimate:
        """Say what one engine of `model` (its own name) takes. Raises `SizingError`."""


def size_handler(sizes: Sizes, resolve: Resolve) -> Handler:
    """Make the handler."""

    async def handle(request: web.Request) -> web.Response:
        model = resolve(request.query.get("model", ""))
        try:
            found = await sizes.size(model)
        except SizingError as error:
            return web.json_response({"error": str(error)}, status=422)
        return web.json_response({"model": model, **found.facts()})

    return handle
