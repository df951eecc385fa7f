"""The way of a request through the gateway: path, key, body, model, and on to an engine."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import time
from collections.abc import Callable, Sequence

from warmd.gateway.access import Access, Limits
from warmd.gateway.body import BodyBudget, HeldBody, too_large
from warmd.gateway.client import Answering, ClientConnection
from warmd.gateway.errors import RefusedError
from warmd.gateway.forward import Forwarder
from warmd.gateway.head import RequestHead, bad_http, request_id
from warmd.gateway.keys import Keys
from warmd.gateway.limits import GatewayLimits
from warmd.gateway.models import ModelCard, Models, Refusal, Refused, RequestDone
from warmd.gateway.naming import read
from warmd.gateway.own_answers import OwnAnswer, model_entries, probe_answer
from warmd.gateway.paths import (
    MODELS,
    Endpoint,
    Health,
    ModelList,
    Readiness,
    clip,
    route,
)
from warmd.gateway.patience import max_wait_of
from warmd.gateway.prefix import prefix_of
from warmd.gateway.reply import reply
from warmd.gateway.request import Request
from warmd.gateway.server import Address, Listener
from warmd.gateway.visit import Wanted


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
        self._listener = Listener(self, limits, tls)
        self._forwarder = Forwarder(models, limits, on_done, clock)
        self._ids = _Ids()

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
        self._forwarder.stopping = True
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
        self._forwarder.stopping = True
        await self._listener.close()
        self._forwarder.close()

    # What connections bring: `server.Answerer`

    def request_began(self, head: RequestHead) -> Request:
        """Look at a head before its body comes; what is wrong with it is in `refused`."""
        request = Request(head, self._clock(), HeldBody(self._budget, self._limits.max_body))
        request.identity = request_id(head) or self._ids.new()
        try:
            request.target = route(head.method, head.target)
            if not isinstance(request.target, (Health, Readiness)):
                self._admit(request, head)
            if head.length is not None and head.length > self._limits.max_body:
                raise too_large(self._limits.max_body)
            encoding = head.field(b"content-encoding")
            if encoding and encoding.lower() != "identity":
                # vLLM takes none, and a small body may unfold to gigabytes.
                raise RefusedError(
                    415,
                    "Compressed request bodies are not accepted: send it without Content-Encoding.",
                    code="unsupported_encoding",
                )
        except RefusedError as refused:
            request.refused = refused
        return request

    def request_failed(self, refused: RefusedError) -> Request:
        """Make a request of bytes that are none."""
        body = HeldBody(self._budget, 0)
        return Request(None, self._clock(), body, refused=refused)

    def answer(self, request: Request, client: ClientConnection) -> Answering | None:
        """Begin to answer a whole request; None where that is done. Raises `RefusedError`."""
        match request.target:
            case Health() | Readiness() as asked:
                stopping = self._listener.stopping
                self._say(request, client, probe_answer(asked, self._models, stopping=stopping))
                return None
            case ModelList(name):
                self._say(request, client, OwnAnswer(200, self._show(name, request.holder)))
                return None
            case Endpoint() as endpoint:
                wanted = self._wanted(request, endpoint)
                return self._forwarder.forward(request, wanted, client)
            case None:
                raise bad_http()

    def _say(self, request: Request, client: ClientConnection, answer: OwnAnswer) -> None:
        keeps = request.keeps_alive and not self._listener.stopping
        more = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items()).encode()
        whole = reply(answer.status, answer.body, keeps=keeps, is_1_0=request.is_1_0, more=more)
        is_head = request.head is not None and request.head.method == "HEAD"
        client.write(whole.removesuffix(answer.body) if is_head else whole)
        client.finish(keeps=keeps)

    def refused(self, request: Request, refused: RefusedError) -> None:
        """Note a request that ended before a model was found for it."""
        match request.target:
            case Endpoint(path):
                pass
            case ModelList():
                path = MODELS
            case Health() | Readiness() | None:
                path = ""
        self._on_refused(
            Refusal(path, refused.status, refused.code, request.holder, request.identity)
        )

    def _admit(self, request: Request, head: RequestHead) -> None:
        request.holder = self._access.holder(head.field(b"authorization"), head.field(b"x-api-key"))
        if isinstance(request.target, Endpoint):
            request.place = self._access.enter(request.holder)

    def _wanted(self, request: Request, endpoint: Endpoint) -> Wanted:
        head = request.head
        assert head is not None  # noqa: S101  # it has a target
        said = read(request.body.data, endpoint.model_in, head.field(b"content-type"))
        if said.model is None:
            raise RefusedError(
                400,
                f"The field `model` is missing; the models here: {self._names(request.holder)}.",
                param="model",
                code="model_missing",
            )
        model = self._resolve(said.model, request.holder)
        wants_prefix = self._models.wants_prefix(model)
        return Wanted(
            model=model,
            endpoint=endpoint,
            prefix=prefix_of(said.document) if wants_prefix else None,
            max_wait=max_wait_of(head.field(b"x-warmd-max-wait") or None),
            streams=said.document.get("stream") is True,
        )

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

    def _show(self, name: str | None, holder: str | None) -> object:
        """Answer `/v1/models`."""
        entries = model_entries(self._models, self._cards(holder))
        if name is None:
            return {"object": "list", "data": list(entries.values())}
        if name in entries:
            return entries[name]
        return {**entries[self._resolve(name, holder)], "id": name}


class _Ids:
    """Names for requests that have none: unique on this host, and cheap."""

    def __init__(self) -> None:
        self._of_this_daemon = os.urandom(6).hex()
        self._numbers = itertools.count(1)

    def new(self) -> str:
        return f"warmd-{self._of_this_daemon}-{next(self._numbers):x}"
