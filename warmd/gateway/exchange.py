"""One request and the engine that answers it: a place, a second try, the stream, the record."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Protocol

from warmd.gateway.answer import AnswerHead
from warmd.gateway.client import ClientConnection
from warmd.gateway.errors import RefusedError
from warmd.gateway.framing import LAST_CHUNK, Framing, before_the_engine, passed_on
from warmd.gateway.head import engine_head
from warmd.gateway.limits import GatewayLimits
from warmd.gateway.link import EngineLink
from warmd.gateway.links import Links
from warmd.gateway.models import Ask, Lease, Models, RequestRecord
from warmd.gateway.request import Request
from warmd.gateway.visit import Visit, Wanted
from warmd.ladder import NotReadyError, QueueFullError

log = logging.getLogger("warmd.gateway")

_ATTEMPTS = 2
_CLIENT_LEFT = 499
JUST_THEN_S = 1.0
"""Within so long after a request, a kept connection's end is that of an idle one, not a crash."""


class Desk(Protocol):
    """Whoever has all exchanges."""

    models: Models
    links: Links
    stopping: bool
    clock: Callable[[], float]
    limits: GatewayLimits

    def is_over(self, exchange: Exchange, record: RequestRecord) -> None:
        """Hear that a request has come to its end."""


class Exchange:
    """From a whole request to the last byte of its answer.

    Nothing is sent to the client before the first byte of the answer's body: until then another
    engine can be asked, and the whole time in the engine's queue and prefill lies before it.
    """

    __slots__ = (
        "_asked_at",
        "_attempts",
        "_client",
        "_desk",
        "_engine_head",
        "_framing",
        "_head",
        "_is_out",
        "_is_over",
        "_lease",
        "_link",
        "_of_an_error",
        "_piece_at",
        "_request",
        "_says_at",
        "_sent_at",
        "_talks",
        "_task",
        "_timer",
        "_visit",
        "_wanted",
    )

    def __init__(
        self, desk: Desk, request: Request, wanted: Wanted, client: ClientConnection
    ) -> None:
        self._desk = desk
        self._request = request
        self._wanted = wanted
        self._client = client
        self._visit = Visit(desk.models, wanted.model, len(request.body.data))
        self._attempts = 0
        self._engine_head = b""
        self._lease: Lease | None = None
        self._link: EngineLink | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._head: AnswerHead | None = None
        self._framing = Framing.LENGTH
        self._is_out = False  # bytes of the engine's answer are on their way to the client
        self._is_over = False
        self._talks = False  # words of ours are, as it waits
        self._of_an_error: list[bytes] = []  # an engine's error behind words of ours
        self._says_at = self._asked_at = self._piece_at = math.inf
        self._sent_at = 0.0

    def begin(self) -> None:
        """Ask an engine at once where one is ready, else wait for it."""
        limits = self._desk.limits
        if self._wanted.streams and limits.say_after is not None:
            self._says_at = self._request.arrived + limits.say_after
            self._watch()
        self._find_a_place()

    def _find_a_place(self) -> None:
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
        self._attempts += 1
        self._visit.replica = lease.replica
        self._visit.waited_s = self._age()
        link = self._desk.links.take(lease.socket)
        if link is None:
            self._spawn(self._connect(lease))
        else:
            self._send(link)

    async def _connect(self, lease: Lease) -> None:
        try:
            link = await self._desk.links.connect(lease.socket, self._desk.limits.connect_timeout)
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
        self._sent_at = self._desk.clock()
        if self._desk.limits.first_byte_timeout is not None:
            self._asked_at = self._sent_at
            self._watch()

    # The answer: `link.Asker`

    def answer_began(self, head: AnswerHead) -> None:
        """Keep the head until the body's first byte is there."""
        self._head = head

    def answer_goes_on(self, piece: bytes) -> None:
        """Pass on what came."""
        self._client.write(self._as_it_goes(piece))
        if self._client.is_full and self._link is not None:
            self._link.pause()

    def _as_it_goes(self, piece: bytes) -> bytes:
        """Return what the client gets of a piece, behind the head where it is the first one."""
        self._visit.bytes_out += len(piece)
        if self._is_out:
            if self._watches_silence:
                self._piece_at = self._desk.clock()
            return self._framing.framed(piece)
        if self._talks and not self._is_a_stream:
            self._of_an_error.append(piece)
            return b""
        self._visit.first_byte_s = self._age()
        return self._answer_head() + self._framing.framed(piece)

    def answer_ended(self, piece: bytes) -> None:
        """Pass on the last piece and finish."""
        self._link = None
        head, lease = self._head, self._lease
        assert head is not None  # noqa: S101  # it has begun
        assert lease is not None  # noqa: S101  # it was asked under one
        last = self._as_it_goes(piece) if piece else b""
        if not self._is_out:
            if self._talks and not self._is_a_stream:
                self._cut_behind_words(head.status)
                return
            last = self._answer_head()
        self._client.write(last + LAST_CHUNK if self._framing is Framing.CHUNKS else last)
        if head.status < 400:
            lease.answered()
        self._end(head.status)
        self._client.finish(keeps=self._keeps())

    def answer_broken(self, *, unheard: bool) -> None:
        """Try once more where nothing is out yet, else tell the client that this is no end."""
        self._link = None
        lease = self._lease
        assert lease is not None  # noqa: S101  # it was asked under one
        if unheard and self._desk.clock() - self._sent_at < JUST_THEN_S:
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
        self._unwatch()
        self._says_at = self._asked_at = math.inf
        if head.length is None and self._desk.limits.silence_timeout is not None:
            self._piece_at = self._desk.clock()
            self._watch()
        if self._talks:
            return b""  # the client has one
        self._framing = Framing.of(head.length, is_1_0=request.is_1_0)
        return passed_on(head, self._framing, request, self._visit, keeps=self._keeps())

    def _keeps(self) -> bool:
        return (
            self._framing is not Framing.CLOSE
            and self._request.keeps_alive
            and not self._desk.stopping
        )

    @property
    def _is_a_stream(self) -> bool:
        return self._head is not None and self._head.is_stream

    # What is told, and what is not waited for any longer

    @property
    def _watches_silence(self) -> bool:
        return self._piece_at != math.inf

    def _watch(self) -> None:
        """Look again when something is due: one timer, whatever it is for."""
        limits = self._desk.limits
        due = min(
            self._says_at,
            self._asked_at + (limits.first_byte_timeout or 0.0),
            self._piece_at + (limits.silence_timeout or 0.0),
        )
        self._unwatch()
        if due != math.inf:
            in_s = max(0.0, due - self._desk.clock())
            self._timer = asyncio.get_running_loop().call_later(in_s, self._look)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        limits, now = self._desk.limits, self._desk.clock()
        model = self._wanted.model
        if limits.silence_timeout is not None and now >= self._piece_at + limits.silence_timeout:
            self._give_up(f"The engine of {model} fell silent for {limits.silence_timeout:g} s")
        elif limits.first_byte_timeout is not None and (
            now >= self._asked_at + limits.first_byte_timeout
        ):
            self._give_up(f"The engine of {model} said nothing for {limits.first_byte_timeout:g} s")
        else:
            if now >= self._says_at:
                self._says_at = now + limits.say_every
                self._say()
            self._watch()

    def _give_up(self, why: str) -> None:
        """End what an engine doesn't; another one isn't asked, as it would take as long."""
        if self._lease is not None and not self._is_out:
            self._lease.given_up()
        self.cut_off(RefusedError(504, f"{why}: send the request again.", code="engine_silent"))

    def _say(self) -> None:
        """Tell a waiting stream how it stands, in a comment, which clients ignore."""
        model = self._wanted.model
        if self._lease is None:
            says = self._desk.models.outlook(model, self._request.arrived)
        else:
            says = f"{model} is at work on this request"
        comment = b": warmd: %b\n\n" % says.encode()
        if self._talks:
            self._client.write(self._framing.framed(comment))
            return
        self._talks = True
        self._framing = Framing.of(None, is_1_0=self._request.is_1_0)
        head = before_the_engine(self._framing, self._request, self._visit, keeps=self._keeps())
        self._client.write(head + self._framing.framed(comment))

    def _cut_behind_words(self, status: int) -> None:
        """Pass on an engine's error as an event, where a stream has begun already."""
        error = b"".join(self._of_an_error)
        event = self._wanted.endpoint.dialect.event_of(error)
        self._client.write(self._framing.framed(event))
        self._end(status)
        self._client.cut(resets=False)

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
            self._of_an_error.clear()
            self._asked_at = math.inf
            self._find_a_place()
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
        if self._talks:
            self._cut(why)
            return
        self._end(why.status)
        self._client.refuse(why)

    def _cut(self, why: RefusedError) -> None:
        """End the client's connection so that a half answer can't be taken for a whole one."""
        is_stream = self._talks or self._is_a_stream
        if is_stream:
            self._client.write(self._framing.framed(self._wanted.endpoint.dialect.event(why)))
        self._end(why.status)
        # Where the connection's end is the answer's end, only a reset tells the difference.
        self._client.cut(resets=self._framing is Framing.CLOSE and not is_stream)

    # The client: `client.Answering`

    def client_left(self) -> None:
        """Leave the engine: it stops working for nobody."""
        if self._is_over:
            return
        if self._lease is not None and self._visit.first_byte_s is None:
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
        self._unwatch()
        self._request.body.drop()
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()
        record = self._visit.record(self._request, self._wanted, status, self._age())
        self._desk.is_over(self, record)

    def _age(self) -> float:
        return self._desk.clock() - self._request.arrived
