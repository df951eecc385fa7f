"""The way of a request through the gateway: path, key, body, model, and on to an engine."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence

from aiohttp import web

from warmd.gateway.body import BodyBudget, HeldBody, read_body
from warmd.gateway.connection import refusal
from warmd.gateway.errors import RefusedError
from warmd.gateway.forward import Forwarder
from warmd.gateway.keys import Keys
from warmd.gateway.limits import GatewayLimits
from warmd.gateway.models import Models, RequestDone
from warmd.gateway.naming import model_name
from warmd.gateway.own_answers import OwnAnswer, model_entries, probe_answer
from warmd.gateway.paths import Endpoint, Health, ModelList, Readiness, clip, route
from warmd.gateway.server import Address, Listener


class Gateway:
    """The HTTP front. `on_done` gets one record of each request that names a model that exists."""

    def __init__(
        self,
        models: Models,
        limits: GatewayLimits,
        on_done: RequestDone,
        keys: Keys | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._limits = limits
        self._keys = keys
        self._clock = clock
        self._budget = BodyBudget(limits.max_buffered)
        self._listener = Listener(self._answer, limits)
        self._forwarder = Forwarder(models, on_done, clock, lambda: self._listener.stopping)

    @property
    def in_flight(self) -> int:
        """How many requests are being answered, those that wait for an engine included."""
        return self._listener.in_flight

    @property
    def buffered(self) -> int:
        """How many bytes of request bodies are held."""
        return self._budget.held

    async def start(
        self, addresses: Sequence[Address], ready: Sequence[socket.socket] = ()
    ) -> list[Address]:
        """Listen and return what was bound; raises `GatewayError`, and then listens nowhere.

        `ready`: sockets that listen already, each on one of the addresses; they are ours from now.
        """
        return await self._listener.start(addresses, ready)

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """What it listens on; from `start` to `stop_accepting`."""
        return self._listener.sockets

    async def stop_accepting(self) -> None:
        """Take no new connection; requests under way go on, those of the last to come included."""
        self._listener.stop_accepting()
        await self._listener.hear_out()

    async def drain(self, timeout_s: float) -> bool:
        """Wait until no request is in flight; False where some still are after `timeout_s`."""
        return await self._listener.drain(timeout_s)

    def cut_off(self) -> None:
        """End what is still under way, and tell each client so, also in the midst of a stream."""
        self._forwarder.cut_off(
            RefusedError(
                503,
                "warmd is restarted and could not wait longer for this answer: "
                "send the request again.",
                code="restarting",
                retry_after_s=1,
            )
        )

    async def close(self) -> None:
        """End every connection, whatever is on it, and return when nothing of it is left."""
        await self._listener.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer to the last byte, so that whoever drains knows when it is out."""
        arrived = self._clock()
        try:
            try:
                return await self._serve(request, arrived)
            except RefusedError as refused:
                response = refusal(refused, request.raw_path)
                return await self._finish(request, response)
        except ConnectionError:
            # The client has gone, and the server notices when it finds nowhere to write this.
            request.protocol.force_close()
            return web.Response()

    async def _serve(self, request: web.BaseRequest, arrived: float) -> web.StreamResponse:
        target = route(request.method, request.raw_path)
        if isinstance(target, (Health, Readiness)):
            answer = probe_answer(target, self._models, stopping=self._listener.stopping)
            return await self._finish(request, _response(answer))
        if self._keys is not None and self._keys.holder(request.headers) is None:
            raise RefusedError(
                401,
                "This needs a valid API key, as `Authorization: Bearer KEY` or `x-api-key: KEY`.",
                code="invalid_api_key",
            )
        match target:
            case ModelList(name):
                return await self._finish(request, self._show(name))
            case Endpoint():
                with HeldBody(self._budget) as body:
                    await read_body(request, self._limits, body)
                    model = self._model(request, target, body)
                    return await self._forwarder.forward(request, target, model, body, arrived)

    async def _finish(self, request: web.BaseRequest, response: web.Response) -> web.Response:
        """Write an answer of our own; a connection with an unread body on it is not used again."""
        if self._listener.stopping or not request.content.is_eof():
            response.force_close()
        await response.prepare(request)
        await response.write_eof()
        return response

    def _model(self, request: web.BaseRequest, endpoint: Endpoint, body: HeldBody) -> str:
        content_type = request.headers.get("Content-Type", "")
        name = model_name(body.data, endpoint.model_in, content_type)
        if name is None:
            raise RefusedError(
                400,
                f"The field `model` is missing; the models here: {self._names()}.",
                param="model",
                code="model_missing",
            )
        return self._resolve(name)

    def _resolve(self, name: str) -> str:
        model = self._models.resolve(name)
        if model is None:
            raise RefusedError(
                404,
                f"There is no model {clip(name)}; the models here: {self._names()}.",
                param="model",
                code="model_not_found",
            )
        return model

    def _names(self) -> str:
        names = [name for card in self._models.cards() for name in (card.name, *card.aliases)]
        return ", ".join(names) or "none"

    def _show(self, name: str | None) -> web.Response:
        """Answer `/v1/models`."""
        entries = model_entries(self._models)
        document: object
        if name is None:
            document = {"object": "list", "data": list(entries.values())}
        elif name in entries:
            document = entries[name]
        else:
            root = self._resolve(name)
            document = {**entries[root], "id": name}
        return _response(OwnAnswer(200, document))


def _response(answer: OwnAnswer) -> web.Response:
    headers = {"Server": "warmd", "Content-Type": "application/json", **answer.headers}
    return web.Response(status=answer.status, body=answer.body, headers=headers)
