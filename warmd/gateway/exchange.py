"""One request and the engine that answers it: a place, a second try, the stream, the record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from warmd.gateway.answer import AnswerHead
from warmd.gateway.client import ClientConnection
from warmd.gateway.errors import RefusedError
from warmd.gateway.head import engine_head
from warmd.gateway.link import EngineLink
from warmd.gateway.links import Links
from warmd.gateway.models import Ask, Lease, Models, RequestRecord
from warmd.gateway.paths import Endpoint
from warmd.gateway.reply import connection_line
from warmd.gateway.request import Request
from warmd.ladder import NotReadyError, QueueFullError, Rung

log = logging.getLogger("warmd.gateway")

CONNECT_S = 10.0
_ATTEMPTS = 2
_CLIENT_LEFT = 499
_LAST_CHUNK = b"0\r\n\r\n"


class _Framing(Enum):
    """How the client learns where the answer's body ends."""

    LENGTH = "length"
    CHUNKS = "chunks"
    CLOSE = "close"

    def framed(self, piece: bytes) -> bytes:
        """Return a piece as it goes to the client."""
        match self:
            case _Framing.CHUNKS:
                return b"%x\r\n%b\r\n" % (len(piece), piece)
            case _Framing.LENGTH | _Framing.CLOSE:
                return piece


class Desk(Protocol):
    """Whoever has all exchanges."""

    models: Models
    links: Links
    stopping: bool
    clock: Callable[[], float]

    def is_over(self, exchange: Exchange, record: RequestRecord) -> None:
        """Hear that a request has come to its end."""


@dataclass(slots=True)
class Wanted:
    """What a request asks for, beside its body."""

    model: str
    endpoint: Endpoint
    prefix: int | None = None
    max_wait: float | None = None


class Exchange:
    """From a whole request to the last byte of its answer.

    Nothing is sent to the client before the first byte of the answer's body: until then another
    engine can be asked, and the whole time in the engine's queue and prefill lies before it.
    """

    __slots__ = (
        "_attempts",
        "_bytes_in",
        "_client",
        "_desk",
        "_engine_head",
        "_first_byte_s",
        "_framing",
        "_head",
        "_idle_s",
        "_is_out",
        "_is_over",
        "_lease",
        "_link",
        "_met",
        "_replica",
        "_request",
        "_sent",
        "_spared",
        "_task",
        "_waited_s",
        "_wanted",
    )

    def __init__(
        self, desk: Desk, request: Request, wanted: Wanted, client: ClientConnection
    ) -> None:
        models, model = desk.models, wanted.model
        self._desk = desk
        self._request = request
        self._wanted = wanted
        self._client = client
        self._met: Rung = models.rung(model)
        self._idle_s = models.idle_s(model)
        self._spared = models.spared(model)
        self._waited_s: float | None = None
        self._first_byte_s: float | None = None
        self._attempts = 0
        self._bytes_in = len(request.body.data)
        self._sent = 0  # bytes of the answer's body
        self._replica: str | None = None
        self._engine_head = b""
        self._lease: Lease | None = None
        self._link: EngineLink | None = None
        self._task: asyncio.Task[None] | None = None
        self._head: AnswerHead | None = None
        self._framing = _Framing.LENGTH
        self._is_out = False  # bytes of the answer are on their way to the client
        self._is_over = False

    def begin(self) -> None:
        """Ask an engine at once where one is ready, else wait for it."""
        wanted = self._wanted
        lease = self._desk.models.take(wanted.model, wanted.prefix)
        if lease is None:
            self._spawn(self._wait())
        else:
            self._ask(lease)

    def fail(self) -> None:
        """Come to an end without an answer, by a bug of ours."""
        self._let_go()
        self._end(500)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self._task = asyncio.create_task(self._guarded(work))

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception as error:
            log.error("A bug in the gateway ended a request.", exc_info=error)
            self._task = None
            self.cut_off(RefusedError(500, "The gateway failed; its log says why."))

    # The place

    async def _wait(self) -> None:
        wanted = self._wanted
        try:
            ask = Ask(self._age(), wanted.max_wait, wanted.prefix)
            lease = await self._desk.models.acquire(wanted.model, ask)
        except NotReadyError as error:
            self._refuse(
                RefusedError(
                    503, error.reason, code="model_not_ready", retry_after_s=error.retry_after_s
                )
            )
        except QueueFullError as error:
            self._refuse(
                RefusedError(
                    429, error.reason, code="queue_full", retry_after_s=error.retry_after_s
                )
            )
        else:
            self._task = None
            self._ask(lease)

    def _ask(self, lease: Lease) -> None:
        self._lease = lease
        self._replica = lease.replica
        self._attempts += 1
        self._waited_s = self._age()
        link = self._desk.links.take(lease.socket)
        if link is None:
            self._spawn(self._connect(lease))
        else:
            self._send(link)

    async def _connect(self, lease: Lease) -> None:
        try:
            link = await self._desk.links.connect(lease.socket, CONNECT_S)
        except (OSError, TimeoutError):
            self._task = None
            self._engine_lost()
        else:
            self._task = None
            self._send(link)

    def _send(self, link: EngineLink) -> None:
        if not self._engine_head:
            head, wanted = self._request.head, self._wanted
            assert head is not None  # noqa: S101  # it is a request
            self._engine_head = engine_head(
                wanted.endpoint.path,
                head.fields,
                len(self._request.body.data),
                self._request.identity,
            )
        self._link = link
        link.ask(self, self._engine_head, self._request.body.data)

    # The answer: `link.Asker`

    def answer_began(self, head: AnswerHead) -> None:
        """Keep the head until the body's first byte is there."""
        self._head = head

    def answer_goes_on(self, piece: bytes) -> None:
        """Pass on what came."""
        self._sent += len(piece)
        if self._is_out:
            self._client.write(self._framing.framed(piece))
        else:
            self._first_byte_s = self._age()
            head = self._answer_head()
            self._client.write(head + self._framing.framed(piece))
        if self._client.is_full and self._link is not None:
            self._link.pause()

    def answer_ended(self) -> None:
        """Finish: all of it was passed on."""
        self._link = None
        if not self._is_out:
            self._client.write(self._answer_head())
        if self._framing is _Framing.CHUNKS:
            self._client.write(_LAST_CHUNK)
        head, lease = self._head, self._lease
        assert head is not None  # noqa: S101  # it has begun
        assert lease is not None  # noqa: S101  # it was asked under one
        if head.status < 400:
            lease.answered()
        self._end(head.status)
        self._client.finish(keeps=self._keeps())

    def answer_broken(self, *, unheard: bool) -> None:
        """Try once more where nothing is out yet, else tell the client that this is no end."""
        self._link = None
        lease = self._lease
        assert lease is not None  # noqa: S101  # it was asked under one
        if unheard:
            self._head = None
            # The engine closed an idle connection just then: it has not seen this request.
            self._spawn(self._connect(lease))
        else:
            self._engine_lost()

    def _answer_head(self) -> bytes:
        """Write the head as the client gets it; from now on there is no second try."""
        head, lease, request = self._head, self._lease, self._request
        assert head is not None  # noqa: S101  # it has begun
        assert lease is not None  # noqa: S101  # it was asked under one
        self._is_out = True
        request.body.drop()
        if head.length is not None:
            self._framing, framing = _Framing.LENGTH, b""  # the engine's own field says it
        elif request.is_1_0:
            self._framing, framing = _Framing.CLOSE, b""
        else:
            self._framing, framing = _Framing.CHUNKS, b"Transfer-Encoding: chunked\r\n"
        return b"%b%bX-Request-Id: %b\r\nX-Warmd-Rung: %b\r\nX-Warmd-Waited: %.3f\r\n" % (
            head.passed_on,
            framing,
            request.identity.encode(),
            self._met.value.encode(),
            self._waited_s or 0.0,
        ) + b"X-Warmd-Replica: %b\r\n%b\r\n" % (
            lease.replica.encode(),
            connection_line(keeps=self._keeps(), is_1_0=request.is_1_0),
        )

    def _keeps(self) -> bool:
        return (
            self._framing is not _Framing.CLOSE
            and self._request.keeps_alive
            and not self._desk.stopping
        )

    # The bad ends

    def _engine_lost(self) -> None:
        lease, self._lease = self._lease, None
        assert lease is not None  # noqa: S101  # it was asked under one
        lease.lost()
        lease.release()
        model = self._wanted.model
        if self._is_out:
            why = f"The engine of {model} broke off in the middle of its answer"
            self._cut(RefusedError(502, f"{why}: send the request again.", code="engine_lost"))
        elif self._attempts < _ATTEMPTS:
            self._head = None
            self.begin()
        else:
            self._refuse(
                RefusedError(
                    502,
                    f"Two engines of {model} broke off before their first byte: "
                    "try again; if it stays so, the daemon's log says why they end.",
                    code="engine_lost",
                )
            )

    def cut_off(self, why: RefusedError) -> None:
        """End it before its time, and tell the client why, also in the midst of a stream."""
        self._let_go()
        if self._is_out:
            self._cut(why)
        else:
            self._refuse(why)

    def _refuse(self, why: RefusedError) -> None:
        self._task = None
        self._end(why.status)
        self._client.refuse(why)

    def _cut(self, why: RefusedError) -> None:
        """End the client's connection so that a half answer can't be taken for a whole one."""
        assert self._head is not None  # noqa: S101  # it is out
        is_stream = self._head.is_stream
        if is_stream:
            self._client.write(self._framing.framed(self._wanted.endpoint.dialect.event(why)))
        self._end(why.status)
        # Where the connection's end is the answer's end, only a reset tells the difference.
        self._client.cut(resets=self._framing is _Framing.CLOSE and not is_stream)

    # The client: `client.Answering`

    def client_left(self) -> None:
        """Leave the engine: it stops working for nobody."""
        if self._is_over:
            return
        if self._lease is not None and self._first_byte_s is None:
            self._lease.given_up()
        self._let_go()
        self._end(503 if self._desk.stopping else _CLIENT_LEFT)

    def client_reads_on(self) -> None:
        """Take more from the engine."""
        if self._link is not None:
            self._link.resume()

    # The end

    def _let_go(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        link, self._link = self._link, None
        if link is not None:
            link.drop()

    def _end(self, status: int) -> None:
        self._is_over = True
        self._request.body.drop()
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()
        total = self._age()
        self._desk.is_over(
            self,
            RequestRecord(
                model=self._wanted.model,
                path=self._wanted.endpoint.path,
                status=status,
                met=self._met,
                idle_s=self._idle_s,
                waited_s=total if self._waited_s is None else self._waited_s,
                first_byte_s=self._first_byte_s,
                total_s=total,
                spared=self._spared,
                request_id=self._request.identity,
                replica=self._replica,
                key=self._request.holder,
                bytes_in=self._bytes_in,
                bytes_out=self._sent,
            ),
        )

    def _age(self) -> float:
        return self._desk.clock() - self._request.arrived
