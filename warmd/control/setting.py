"""POST /set: keep a model on a rung, or give it back to policy."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from aiohttp import web

from warmd.control.asked import read_asked, read_replicas, read_rung, read_seconds, read_word
from warmd.control.handler import Handler, Observed, Resolve, trouble
from warmd.control.refusal import RefusedError
from warmd.ladder import Rung


class Settles(Observed, Protocol):
    """Who writes down what operators say."""

    async def settle(self) -> None:
        """Wait, for a moment at most, until what was just said is written, or refused."""


class Sets(Settles, Protocol):
    """Who takes an operator's word on a model."""

    def set_target(
        self, model: str, rung: Rung | None, for_s: float | None, replicas: int | None = None
    ) -> str:
        """Keep `model` (its own name) on `rung` for `for_s` seconds or until further notice.

        `rung` None gives it back to policy, `replicas` None leaves their number to it. Returns a
        sentence that says what happens now. Raises
        `ValueError` with a sentence where it is refused.
        """

    async def shortfalls(self) -> Collection[str]:
        """Say what will be late for its calendar before long, as things stand now."""


def set_handler(models: Sets, resolve: Resolve) -> Handler:
    """Make the handler."""

    async def handle(request: web.Request) -> web.Response:
        asked = read_asked(await request.read(), ("model", "rung", "for", "replicas"))
        model = resolve(read_word(asked, "model"))
        rung = read_rung(read_word(asked, "rung"))
        for_s, replicas = read_seconds(asked.get("for"), rung), asked.get("replicas")
        many = read_replicas(replicas, rung)
        late = await models.shortfalls() if rung is Rung.HOT else ()
        try:
            sentence = models.set_target(model, rung, for_s, many)
        except ValueError as refused:
            raise RefusedError(409, str(refused)) from refused
        if rung is Rung.HOT and (more := [s for s in await models.shortfalls() if s not in late]):
            sentence = f"{sentence}; while that holds, {'; '.join(more)}"
        await models.settle()
        return web.json_response({"models": {model: sentence}} | trouble(models))

    return handle
