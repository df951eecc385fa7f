"""GET /size: what one engine of a model takes of each GPU, estimated and measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web

from warmd.engine import SizingError
from warmd.engine.sizing import Estimate

Handler = Callable[[web.Request], Awaitable[web.Response]]


class Sizes(Protocol):
    """Who knows what models take."""

    async def size(self, model: str) -> Estimate:
        """Say what one engine of `model` (its own name) takes. Raises `SizingError`."""


def size_handler(sizes: Sizes, resolve: Callable[[str], str]) -> Handler:
    """Make the handler; `resolve` turns a name or alias into a model's own name."""

    async def handle(request: web.Request) -> web.Response:
        model = resolve(request.query.get("model", ""))
        try:
            found = await sizes.size(model)
        except SizingError as error:
            return web.json_response({"error": str(error)}, status=422)
        return web.json_response({"model": model, **found.facts()})

    return handle
