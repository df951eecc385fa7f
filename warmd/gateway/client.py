"""One client's connection: HTTP/1.1 read strictly, one answer after the other, and deadlines."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import socket
import struct
import termios
from typing import Protocol, cast

from warmd.gateway.errors import RefusedError
from warmd.gateway.limits import GatewayLimits
from warmd.gateway.reading import RequestReader, Source
from warmd.gateway.reply import refusal
from warmd.gateway.request import Request

log = logging.getLogger("warmd.gateway")

# Longer than the 600 s of the usual proxies, so that they close an idle connection, not we: a
# request on its way to a connection that is being closed would be lost.
KEPT_S = 620.0
# How long the rest of a refused body is read, so that the client gets to read the refusal.
_LINGER_S = 2.0
# A connection that was accepted the moment before we stop has its request on the way; on a host
# that is out of breath it may take its time.
FIRST_WORD_S = 0.5
# So many requests may wait on one connection behind the one that is answered.
_IN_LINE = 16
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


_HEAD = object()


class Answering(Protocol):
    """What answers a request on a connection, and hears how the connection fares meanwhile."""

    def client_left(self) -> None:
        """Hear that nobody is there to read the answer."""

    def client_reads_on(self) -> None:
        """Hear that the client takes more, after it was full."""


class Front(Source, Protocol):
    """Whoever made the connection."""

    limits: GatewayLimits
    stopping: bool

    def connected(self, client: ClientConnection) -> None:
        """Hear of a new connection."""

    def disconnected(self, client: ClientConnection) -> None:
        """Hear that it is gone."""

    def request_is_over(self) -> None:
        """Hear that one of these was answered, or that its client has left."""

    def answer(self, request: Request, client: ClientConnection) -> Answering | None:
        """Begin to answer a whole request; None where that is done already.

        Raises `RefusedError`.
        """

    def refused(self, request: Request, refused: RefusedError) -> None:
        """Hear that a request ended before a model was found for it."""


class ClientConnection(asyncio.Protocol):
    """Reads requests, has each answered in its turn, and ends where it must."""

    __slots__ = (
        "__weakref__",
        "_answering",
        "_front",
        "_is_advancing",
        "_is_new",
        "_is_paused",
        "_line",
        "_loop",
        "_now",
        "_reader",
        "_stall",
        "_timer",
        "_transport",
        "_watched",
        "idle_since",
        "is_full",
    )

    def __init__(self, front: Front, loop: asyncio.AbstractEventLoop) -> None:
        self._front = front
        self._loop = loop
        self._reader = RequestReader(front)
        self._line = self._reader.line  # the first one is answered now, or read
        self._transport: asyncio.Transport | None = None
        self._answering: Answering | None = None
        self._now: Request | None = None  # the one that is answered now
        self._is_new = True  # nothing has come yet
        self._is_paused = self._is_advancing = False
        self._watched: object = _HEAD  # what the deadline is for
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self.idle_since: float | None = None
        self.is_full = False  # more would have to be kept here: the client doesn't read

    # What answers it

    def write(self, data: bytes) -> None:
        """Send it to the client."""
        if self._transport is not None:
            self._transport.write(data)

    def finish(self, *, keeps: bool) -> None:
        """End the answer that was written; without `keeps` the connection as well."""
        request = self._now
        assert request is not None  # noqa: S101  # whose answer it is
        self._now = self._answering = None
        self._line.popleft()
        request.let_go()
        self._front.request_is_over()
        if not keeps:
            self._close_after_answer(reads_on=not request.is_whole)
        elif not self._is_advancing:
            self._advance()

    def cut(self, *, resets: bool) -> None:
        """End the connection in the midst of an answer, so that it isn't taken for a whole one."""
        transport = self._transport
        if transport is None:
            return
        if resets:
            client = transport.get_extra_info("socket")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            self.finish(keeps=False)

    def refuse(self, refused: RefusedError) -> None:
        """Answer the request that is answered now with an error."""
        request = self._now
        assert request is not None  # noqa: S101  # whoever refuses answers one
        request.body.drop()
        keeps = request.keeps_alive and not self._front.stopping
        more = b"X-Request-Id: %b\r\n" % request.identity.encode() if request.identity else b""
        self.write(refusal(refused, request.path, keeps=keeps, is_1_0=request.is_1_0, more=more))
        self.finish(keeps=keeps)

    # What the listener asks

    @property
    def expects_a_request(self) -> bool:
        """Whether one is sure to come, or has begun to."""
        return self._is_new or self._reader.in_head

    def close_if_idle(self) -> None:
        """Close the connection unless a request is on it, or has begun to come.

        Where none has come yet it is given a moment.
        """
        if self._is_new:
            self._loop.call_later(FIRST_WORD_S, self._close_if_idle)
        else:
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self._is_new and self._has_unread():
            self._is_new = True  # it came before our end of the connection, so it is answered
            self._loop.call_later(FIRST_WORD_S, self._close_if_idle)
            return
        self._is_new = False
        if not self._line and not self._reader.in_head:
            self.end(at_once=False)

    def _has_unread(self) -> bool:
        """Whether the kernel holds bytes of a next request that the event loop hasn't read."""
        if self._line or self._transport is None:
            return False
        client = self._transport.get_extra_info("socket")
        return any(fcntl.ioctl(client.fileno(), termios.FIONREAD, bytes(4)))

    def end(self, *, at_once: bool) -> None:
        """Close the connection; what was written still goes out unless `at_once`."""
        self._reader.is_deaf = True
        if self._transport is not None:
            if at_once:
                self._transport.abort()
            else:
                self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the deadline for the first head."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self._front.connected(self)
        self._arm(self._front.limits.header_timeout)

    def data_received(self, data: bytes) -> None:
        """Read what came; answer what is whole."""
        reader = self._reader
        if reader.is_deaf:
            return
        self._is_new = False
        self.idle_since = None
        reader.feed(data)
        self._watch()
        self._advance()

    def eof_received(self) -> None:
        """Take a client that says it will send no more for one that has left, as nginx does."""

    def pause_writing(self) -> None:
        """Start the deadline for a client that doesn't read."""
        self._stall = self._loop.call_later(self._front.limits.stall_timeout, self._stalled)
        self.is_full = True

    def resume_writing(self) -> None:
        """End the deadline for a client that doesn't read."""
        self._end_stall()
        self.is_full = False
        if self._answering is not None:
            self._answering.client_reads_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        self._transport = None
        self._reader.is_deaf = True
        self._disarm()
        self._end_stall()
        answering, self._answering, self._now = self._answering, None, None
        for request in self._line:
            request.let_go()
            self._front.request_is_over()
        self._line.clear()
        if answering is not None:
            answering.client_left()
        self._front.disconnected(self)

    # What it does

    def _advance(self) -> None:
        """Answer what stands first, and what comes behind it once it is its turn."""
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            while self._now is None and self._line and self._transport is not None:
                request = self._line[0]
                if not request.is_whole and request.refused is None:
                    self._tell_to_continue(request)
                    break
                self._answer(request)
        finally:
            self._is_advancing = False
        self._pace()

    def _answer(self, request: Request) -> None:
        self._now = request
        try:
            if request.refused is not None:
                raise request.refused
            answering = self._front.answer(request, self)
        except RefusedError as refused:
            self._front.refused(request, refused)
            self.refuse(refused)
            return
        except Exception as error:
            log.error("A bug in the gateway ended a request.", exc_info=error)
            self.refuse(RefusedError(500, "The gateway failed; its log says why."))
            return
        if self._now is request:
            self._answering = answering

    def _tell_to_continue(self, request: Request) -> None:
        """Answer `Expect: 100-continue` (RFC 9110, 10.1.1): all checks of the head are passed."""
        head = request.head
        if head is not None and head.expects and not request.is_told_to_continue:
            request.is_told_to_continue = True
            if not request.body.data:
                self.write(_CONTINUE)

    def _pace(self) -> None:
        """Read no further ahead than a few requests."""
        if self._transport is None or self._transport.is_closing():
            return
        is_ahead = len(self._line) > _IN_LINE
        if is_ahead and not self._is_paused:
            self._transport.pause_reading()
        elif self._is_paused and not is_ahead:
            self._transport.resume_reading()
        self._is_paused = is_ahead
        if not self._line:
            self.idle_since = self._loop.time()

    def _close_after_answer(self, *, reads_on: bool) -> None:
        """Close; with `reads_on` what still comes is read for a while, or it would reset the
        connection before the client has read the answer.
        """
        self._reader.is_deaf = True
        transport = self._transport
        if transport is None:
            return
        if not reads_on:
            transport.close()
            return
        self._disarm()
        self._timer = self._loop.call_later(_LINGER_S, transport.close)
        if transport.can_write_eof():
            transport.write_eof()

    # Deadlines

    def _watch(self) -> None:
        """Have a deadline for a head or a body that has begun, and none for anything else."""
        last = self._line[-1] if self._line else None
        if self._reader.in_head:
            watched, seconds = _HEAD, self._front.limits.header_timeout
        elif last is not None and not last.is_whole and last.refused is None:
            watched, seconds = last, self._front.limits.body_timeout
        else:
            self._disarm()
            return
        if self._timer is None or self._watched is not watched:
            self._watched = watched
            self._arm(seconds)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self._loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        last = self._line[-1] if self._line else None
        if last is not None and self._watched is last:
            seconds = self._front.limits.body_timeout
            last.refused = RefusedError(
                408, f"The body did not come within {seconds:g} seconds.", code="body_timeout"
            )
            self._advance()
        elif self._reader.in_head:
            seconds = self._front.limits.header_timeout
            self._reader.fail(
                RefusedError(
                    408, f"The head did not come within {seconds:g} seconds.", code="head_timeout"
                )
            )
            self._advance()
        elif last is None and self._transport is not None:
            self._transport.close()

    def _stalled(self) -> None:
        self._stall = None
        if self._transport is not None:
            self._transport.abort()

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
