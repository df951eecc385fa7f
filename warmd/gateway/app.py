"""The way of a request through the gateway: path, key, body, model, and on to an engine."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Sequence

from aiohttp import web

from warmd.gateway.access import Access, Limits, Place
from warmd.gateway.body import BodyBudget, HeldBody, read_body
from warmd.gateway.connection import refusal
from warmd.gateway.errors import RefusedError
from warmd.gateway.forward import Forwarder
from warmd.gateway.keys import Keys
from warmd.gateway.limits import GatewayLimits
from warmd.gateway.models import ModelCard, Models, Refusal, Refused, RequestDone
from warmd.gateway.naming import model_name
from warmd.gateway.paths import MODELS, Endpoint, ModelList, clip, route
from warmd.gateway.server import Address, Listener


def _untold(refusal: Refusal) -> None:
    """Nobody wants to know."""


class Gateway:
    """The HTTP front. `on_done` gets one record of each request that names a model that exists."""

    def __init__(
        self,
        models: Models,
        limits: GatewayLimits,
        on_done: RequestDone,
        keys: Keys | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        limits_of_keys: Limits = dict,
        on_refused: Refused = _untold,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._models = models
        self._limits = limits
        self._access = Access(keys, limits_of_keys)
        self._on_refused = on_refused
        self._clock = clock
        self._budget = BodyBudget(limits.max_buffered)
        self._listener = Listener(self._answer, limits, tls)
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
        holder: str | None = None
        path = ""  # the table's, once it is known
        place: Place | None = None
        try:
            with HeldBody(self._budget) as body:
                try:
                    target = route(request.method, request.raw_path)
                    path = target.path if isinstance(target, Endpoint) else MODELS
                    headers = request.headers
                    holder = self._access.holder(
                        headers.get("Authorization", ""), headers.get("x-api-key", "")
                    )
                    if isinstance(target, ModelList):
                        return await self._finish(request, self._show(target.name, holder))
                    place = self._access.enter(holder)
                    await read_body(request, self._limits, body)
                    model = self._model(request, target, body, holder)
                except RefusedError as refused:
                    self._on_refused(Refusal(path, refused.status, refused.code, holder))
                    raise
                return await self._forwarder.forward(
                    request, target, model, body, arrived, holder=holder
                )
        finally:
            if place is not None:
                place.release()

    async def _finish(self, request: web.BaseRequest, response: web.Response) -> web.Response:
        """Write an answer of our own; a connection with an unread body on it is not used again."""
        if self._listener.stopping or not request.content.is_eof():
            response.force_close()
        await response.prepare(request)
        await response.write_eof()
        return response

    def _model(
        self, request: web.BaseRequest, endpoint: Endpoint, body: HeldBody, holder: str | None
    ) -> str:
        content_type = request.headers.get("Content-Type", "")
        name = model_name(body.data, endpoint.model_in, content_type)
        if name is None:
            raise RefusedError(
                400,
                f"The field `model` is missing; the models here: {self._names(holder)}.",
                param="model",
                code="model_missing",
            )
        return self._resolve(name, holder)

    def _resolve(self, name: str, holder: str | None) -> str:
        model = self._models.resolve(name)
        if model is None or not self._access.may_use(holder, model):
            # The same for both: what others use is nothing that a limited key should learn.
            ours = "" if holder is None else " that this key may use"
            raise RefusedError(
                404,
                f"There is no model {clip(name)}{ours}; the models here: {self._names(holder)}.",
                param="model",
                code="model_not_found",
            )
        return model

    def _cards(self, holder: str | None) -> list[ModelCard]:
        return [each for each in self._models.cards() if self._access.may_use(holder, each.name)]

    def _names(self, holder: str | None) -> str:
        names = [name for card in self._cards(holder) for name in (card.name, *card.aliases)]
        return ", ".join(names) or "none"

    def _show(self, name: str | None, holder: str | None) -> web.Response:
        """Answer `/v1/models`; an alias is an entry of its own, with the model as its root."""
        entries = {
            shown: _entry(shown, card)
            for card in self._cards(holder)
            for shown in (card.name, *card.aliases)
        }
        document: object
        if name is None:
            document = {"object": "list", "data": list(entries.values())}
        elif name in entries:
            document = entries[name]
        else:
            root = self._resolve(name, holder)
            document = {**entries[root], "id": name}
        return web.Response(
            body=json.dumps(document).encode(),
            headers={"Server": "warmd", "Content-Type": "application/json"},
        )


def _entry(shown: str, card: ModelCard) -> dict[str, object]:
    return {
        "id": shown,
        "object": "model",
        "created": card.created,
        "owned_by": "warmd",
        "root": card.name,
        "parent": None,
        "warmd": {"rung": card.rung.value},
    }
