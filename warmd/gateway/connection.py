"""One client's connection: aiohttp's HTTP/1.1 with the deadlines that it does not keep itself."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import socket
import struct
import termios

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from warmd.gateway.errors import RefusedError
from warmd.gateway.limits import GatewayLimits
from warmd.gateway.paths import dialect_of

log = logging.getLogger("warmd.gateway")

# Longer than the 600 s of the usual proxies, so that they close an idle connection, not we: a
# request on its way to a connection that is being closed would be lost.
_KEEPALIVE_S = 620.0
# How long the rest of a refused body is read, so that the client gets to read the refusal.
_LINGER_S = 2.0
# A connection that was accepted the moment before we stop has its request on the way; on a host
# that is out of breath it may take its time.
FIRST_WORD_S = 0.5

_TOO_SLOW = b"\r\n".join(
    (
        b"HTTP/1.1 408 Request Timeout",
        b"Server: warmd",
        b"Connection: close",
        b"Content-Length: 0\r\n\r\n",
    )
)


def refusal(refused: RefusedError, target: str) -> web.Response:
    """Make the answer to a refused request in the dialect of the path that it asked for."""
    headers = {"Server": "warmd", "Content-Type": "application/json"}
    if refused.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, refused.retry_after_s))
    if refused.allow is not None:
        headers["Allow"] = refused.allow
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = dialect_of(target).body(refused)
    return web.Response(status=refused.status, headers=headers, body=body)


class Connection(web.RequestHandler):
    """Closed when a request's head, or a client's reading, takes too long.

    aiohttp bounds how long a connection may be idle, but not how long a head that has begun may
    take, nor how long a client may leave an answer unread, which would hold a place on a replica.
    """

    __slots__ = (
        "_busy",
        "_head_begun",
        "_head_timer",
        "_limits",
        "_new",
        "_stall_timer",
        "_transport",
    )

    def __init__(
        self, server: web.Server, limits: GatewayLimits, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            logger=log,
            access_log=None,  # type: ignore[arg-type]  # documented as the way to have none
            keepalive_timeout=_KEEPALIVE_S,
            tcp_keepalive=False,  # inherited from the listening socket
            lingering_time=_LINGER_S,
            auto_decompress=False,
        )
        self._limits = limits
        self._busy = False
        self._new = True
        self._head_begun = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def request_began(self) -> None:
        """Say that a request's head has come whole and is being answered."""
        self._busy = True
        self._new = False
        self._head_begun = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def request_ended(self) -> None:
        """Say that the answer is written, and no rest of the request's body is to come."""
        self._busy = False

    @property
    def expects_a_request(self) -> bool:
        """Whether one is sure to come, or has begun to."""
        return self._new or self._head_begun

    def close_if_idle(self) -> None:
        """Close the connection unless a request is on it, or has begun to come.

        Where none has come yet it is given a moment.
        """
        if self._new:
            self._loop.call_later(FIRST_WORD_S, self._close_if_idle)
        else:
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self._new and self._has_unread():
            self._new = True  # it came before our end of the connection, so it is answered
            self._loop.call_later(FIRST_WORD_S, self._close_if_idle)
            return
        self._new = False
        if not self._busy and not self._head_begun:
            self.close()
            if self._transport is not None:
                self._transport.close()

    def _has_unread(self) -> bool:
        """Whether the kernel holds bytes of a next request that the event loop hasn't read."""
        if self._busy or self._transport is None:
            return False
        client = self._transport.get_extra_info("socket")
        return any(fcntl.ioctl(client.fileno(), termios.FIONREAD, bytes(4)))

    def end(self, *, at_once: bool) -> None:
        """Close the connection; what was written still goes out unless `at_once`."""
        if self._transport is None:
            return
        if at_once:
            self._transport.abort()
        else:
            self._transport.close()

    def reset(self) -> None:
        """Close the connection with an RST, so that nobody takes its end for an orderly one."""
        if self._transport is not None:
            client = self._transport.get_extra_info("socket")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the deadline for the first head."""
        super().connection_made(transport)
        self._transport = self.transport
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Start the deadline for a head with its first byte."""
        if not self._busy and data:
            self._head_begun = True
            if self._head_timer is None:
                self._await_head()
        super().data_received(data)

    def pause_writing(self) -> None:
        """Start the deadline for a client that does not read."""
        super().pause_writing()
        self._stall_timer = self._loop.call_later(self._limits.stall_timeout, self._stalled)

    def resume_writing(self) -> None:
        """End the deadline for a client that does not read."""
        super().resume_writing()
        self._end_stall()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End every deadline."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._end_stall()
        self._transport = None
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bad HTTP with a sentence and no log line, and a bug of ours with both."""
        if status == 400:
            refused = _bad_head(exc)
        else:
            log.error("A bug in the gateway ended a request.", exc_info=exc)
            refused = RefusedError(500, "The gateway failed; its log says why.")
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is already out")
        response = refusal(refused, request.raw_path)
        response.force_close()
        return response

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(self._limits.header_timeout, self._head_too_slow)

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self._busy or self._transport is None:
            return
        if self._head_begun:
            self._transport.write(_TOO_SLOW)
        self._transport.close()

    def _stalled(self) -> None:
        self._stall_timer = None
        if self._transport is not None:
            self._transport.abort()

    def _end_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None


def _bad_head(exc: BaseException | None) -> RefusedError:
    if isinstance(exc, LineTooLong) or "Too many headers" in str(exc):
        return RefusedError(431, "The request's head is too long.", code="head_too_long")
    return RefusedError(400, "This is not a valid HTTP/1.1 request.", code="bad_http")
