"""The listening sockets, the connections that came in, and how both end."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from warmd import config
from warmd.gateway.connection import FIRST_WORD_S, Connection
from warmd.gateway.errors import GatewayError
from warmd.gateway.limits import GatewayLimits
from warmd.listeners import BACKLOG, listen_on, who_listens

Address = tuple[str, int]
"""A host and a port."""

Answering = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

# A client's host that vanished is noticed within a minute, also while its request waits.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
_FLUSH_S = 1.0  # for what is already written to reach the client when its connection is closed
_LOOK_EVERY_S = 0.01


class _ConnectionFactory(web.Server):
    """Makes a `Connection` for every client; a client that leaves cancels its request."""

    def __init__(self, answer: Answering, limits: GatewayLimits) -> None:
        super().__init__(answer, handler_cancellation=True)
        self._limits = limits

    def __call__(self) -> Connection:
        return Connection(self, self._limits, asyncio.get_running_loop())


class Listener:
    """Takes requests in and hands them to `answer`, which returns a response written to its end."""

    def __init__(
        self, answer: Answering, limits: GatewayLimits, tls: ssl.SSLContext | None = None
    ) -> None:
        self._tls = tls
        self._answer = answer
        self._limits = limits
        self._factory: _ConnectionFactory | None = None
        self._servers: list[asyncio.Server] = []
        self.sockets: tuple[socket.socket, ...] = ()
        self._in_flight = 0
        self._none_in_flight = asyncio.Event()
        self._none_in_flight.set()
        self.stopping = False

    @property
    def in_flight(self) -> int:
        """How many requests are being answered, those that wait for an engine included."""
        return self._in_flight

    async def start(
        self, addresses: Sequence[Address], ready: Sequence[socket.socket] = ()
    ) -> list[Address]:
        """Listen on every address, or on none and raise `GatewayError`; port 0 takes a free one.

        An address that one of the `ready` sockets listens on is not bound again.
        """
        self._factory = _ConnectionFactory(self._handle, self._limits)
        spare: dict[object, socket.socket] = {each.getsockname()[:2]: each for each in ready}
        sockets: list[socket.socket] = []
        try:
            for address in addresses:
                sockets += await _bind(address, spare)
            if spare:
                raise GatewayError(_not_asked_for(next(iter(spare.values()))))
        except GatewayError:
            for bound in (*sockets, *ready):
                bound.close()
            raise
        names: list[Address] = [bound.getsockname()[:2] for bound in sockets]
        self.sockets = tuple(sockets)
        loop = asyncio.get_running_loop()
        for bound in sockets:
            self._servers.append(
                await loop.create_server(
                    self._factory,
                    sock=bound,
                    backlog=BACKLOG,
                    ssl=self._tls,
                    ssl_handshake_timeout=self._limits.header_timeout if self._tls else None,
                )
            )
        return names

    def stop_accepting(self) -> None:
        """Close the listening sockets and the idle connections; requests under way go on.

        A connection that has just come is given a moment to say what it wants.
        """
        self.stopping = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        for connection in self._connections():
            connection.close_if_idle()

    async def hear_out(self) -> None:
        """Return when whoever had just come has said what it wants: after a moment at most."""
        for _ in range(round(2 * FIRST_WORD_S / _LOOK_EVERY_S)):
            if not any(each.expects_a_request for each in self._connections()):
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def drain(self, timeout_s: float) -> bool:
        """Wait until no request is in flight; False where some still are after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._none_in_flight.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End every connection, whatever is on it, and return when nothing of it is left."""
        self.stop_accepting()
        loop = asyncio.get_running_loop()
        flushed_by = loop.time() + _FLUSH_S
        for connection in self._connections():
            connection.end(at_once=False)
        while self._connections():
            await asyncio.sleep(_LOOK_EVERY_S)
            if loop.time() >= flushed_by:
                for connection in self._connections():
                    connection.end(at_once=True)
        await self._none_in_flight.wait()

    def _connections(self) -> list[Connection]:
        connections = [] if self._factory is None else self._factory.connections
        return [each for each in connections if isinstance(each, Connection)]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101  # made by our factory
        connection.request_began()
        self._in_flight += 1
        self._none_in_flight.clear()
        try:
            return await self._answer(request)
        finally:
            if request.content.is_eof():
                connection.request_ended()
            self._in_flight -= 1
            if not self._in_flight:
                self._none_in_flight.set()
            if self.stopping:
                connection.close()


async def _bind(address: Address, ready: dict[object, socket.socket]) -> list[socket.socket]:
    """Listen; sockets that do so already are taken out of `ready`."""
    try:
        bound = await listen_on(*address, ready)
    except OSError as error:
        raise GatewayError(_cannot_listen(*address, error)) from None
    for listening in bound:
        for level, option, value in _KEEPALIVE:
            listening.setsockopt(level, option, value)
    return bound


def _not_asked_for(handed_over: socket.socket) -> str:
    match handed_over.getsockname():
        case (str(host), int(port), *_):
            name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case other:
            name = str(other)
    return (
        f"A socket that was handed to warmd listens on {name}, which is not in gateway.listen: "
        "write it there, or take it out of the socket unit or whatever else starts warmd."
    )


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(error, socket.gaierror):
        return (
            f"The gateway can't listen on {where}: the name {host} has no address here; "
            "write an address of this machine in gateway.listen."
        )
    match error.errno:
        case errno.EADDRINUSE:
            wanted = config.Address(host, port)
            taker = who_listens(lambda *there: config.Address(*there).overlaps(wanted))
            why = f"the port is taken by {taker}"
            shows = "" if taker.pid else f"`sudo ss -ltnp sport = :{port}` names it; "
            remedy = f"{shows}stop it, or change gateway.listen"
        case errno.EACCES:
            why = "ports below 1024 are for root"
            remedy = "change gateway.listen or give the daemon CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            why = "this machine does not have that address"
            remedy = "`ip address` shows those it has; change gateway.listen"
        case _:
            why = os.strerror(error.errno) if error.errno else str(error)
            remedy = "change gateway.listen"
    return f"The gateway can't listen on {where}: {why}; {remedy}."
