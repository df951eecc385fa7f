"""The listening sockets, the connections that came in, and how both end."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import weakref
from collections.abc import Sequence
from typing import Protocol

from warmd import config
from warmd.gateway.client import FIRST_WORD_S, KEPT_S, Answering, ClientConnection
from warmd.gateway.errors import GatewayError, RefusedError
from warmd.gateway.head import RequestHead
from warmd.gateway.limits import GatewayLimits
from warmd.gateway.request import Request
from warmd.listeners import BACKLOG, listen_on, who_listens

Address = tuple[str, int]
"""A host and a port."""

_SWEEP_S = 30.0  # how often idle connections are looked through

# A client's host that vanished is noticed within a minute, also while its request waits.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
_FLUSH_S = 1.0  # for what is already written to reach the client when its connection is closed
_LOOK_EVERY_S = 0.01


class Answerer(Protocol):
    """Makes answers of what connections bring; see `client.Front`."""

    def request_began(self, head: RequestHead) -> Request:
        """Make a request of a head; what is wrong with it is in `refused`."""

    def request_failed(self, refused: RefusedError) -> Request:
        """Make one of bytes that are none."""

    def answer(self, request: Request, client: ClientConnection) -> Answering | None:
        """Begin to answer a whole request; None where that is done. Raises `RefusedError`."""

    def refused(self, request: Request, refused: RefusedError) -> None:
        """Hear that a request ended before a model was found for it."""


class Listener:
    """Takes requests in and hands them to an `Answerer`: the `Front` of all connections."""

    def __init__(
        self, answerer: Answerer, limits: GatewayLimits, tls: ssl.SSLContext | None = None
    ) -> None:
        self._tls = tls
        self._answerer = answerer
        self.limits = limits
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clients: set[ClientConnection] = set()
        # Those whose TLS handshake isn't over; one that fails is let go by whoever carried it out.
        self._shaking_hands: weakref.WeakSet[ClientConnection] = weakref.WeakSet()
        self._servers: list[asyncio.Server] = []
        self._sweeping: asyncio.TimerHandle | None = None
        self.sockets: tuple[socket.socket, ...] = ()
        self._in_flight = 0
        self._none_in_flight = asyncio.Event()
        self._none_in_flight.set()
        self.stopping = False

    # What connections tell: `client.Front`

    def connected(self, client: ClientConnection) -> None:
        """Hear of a new connection."""
        self._clients.add(client)
        if self._tls is not None:
            self._shaking_hands.discard(client)
            if self.stopping:
                client.close_if_idle()

    def disconnected(self, client: ClientConnection) -> None:
        """Hear that it is gone."""
        self._clients.discard(client)

    def request_began(self, head: RequestHead) -> Request:
        """Make a request of a head, and count it."""
        self._count_one()
        return self._answerer.request_began(head)

    def request_failed(self, refused: RefusedError) -> Request:
        """Make a request of bytes that are none, and count it."""
        self._count_one()
        return self._answerer.request_failed(refused)

    def answer(self, request: Request, client: ClientConnection) -> Answering | None:
        """Have a whole request answered."""
        return self._answerer.answer(request, client)

    def refused(self, request: Request, refused: RefusedError) -> None:
        """Have it noted that a request ended before a model was found for it."""
        self._answerer.refused(request, refused)

    def request_is_over(self) -> None:
        """Count one less."""
        self._in_flight -= 1
        if not self._in_flight:
            self._none_in_flight.set()

    def _count_one(self) -> None:
        if not self._in_flight:
            self._none_in_flight.clear()
        self._in_flight += 1

    # What the daemon asks

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
        self._loop = loop = asyncio.get_running_loop()

        def client() -> ClientConnection:
            made = ClientConnection(self, loop)
            if self._tls is not None:
                self._shaking_hands.add(made)
            return made

        for bound in sockets:
            self._servers.append(
                await loop.create_server(
                    client,
                    sock=bound,
                    backlog=BACKLOG,
                    ssl=self._tls,
                    ssl_handshake_timeout=self.limits.header_timeout if self._tls else None,
                )
            )
        self._sweeping = loop.call_later(_SWEEP_S, self._sweep)
        return names

    def _sweep(self) -> None:
        """Close the connections that were idle for too long."""
        assert self._loop is not None  # noqa: S101  # it runs this
        oldest = self._loop.time() - KEPT_S
        for client in tuple(self._clients):
            if client.idle_since is not None and client.idle_since < oldest:
                client.end(at_once=False)
        self._sweeping = self._loop.call_later(_SWEEP_S, self._sweep)

    def stop_accepting(self) -> None:
        """Close the listening sockets and the idle connections; requests under way go on.

        A connection that has just come is given a moment to say what it wants.
        """
        self.stopping = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for client in tuple(self._clients):
            client.close_if_idle()

    async def hear_out(self) -> None:
        """Return when whoever had just come has said what it wants: after a moment at most."""
        for _ in range(round(2 * FIRST_WORD_S / _LOOK_EVERY_S)):
            expects = any(each.expects_a_request for each in self._clients)
            if not expects and not self._shaking_hands:
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
        for client in tuple(self._clients):
            client.end(at_once=False)
        while self._clients:
            await asyncio.sleep(_LOOK_EVERY_S)
            if loop.time() >= flushed_by:
                for client in tuple(self._clients):
                    client.end(at_once=True)
        await self._none_in_flight.wait()


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
