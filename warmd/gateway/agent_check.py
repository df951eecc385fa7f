"""HAProxy's agent-check: whoever connects gets one line, and the connection is closed.

HAProxy sends what `agent-send` says as soon as it has connected, or nothing at all. So a model's
name is awaited for a moment; who has sent none until then asks for the whole box.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import cast

from warmd.config import Address
from warmd.gateway.errors import GatewayError
from warmd.gateway.models import Directory
from warmd.gateway.warmth import agent_answer
from warmd.listeners import BACKLOG, listen_on, who_listens

_NAME_WITHIN_S = 0.2  # far below the 2 s that HAProxy waits unless `agent-inter` says otherwise
_LONGEST_LINE = 512
_MOST = 64  # connections at a time: one for each server line of each HAProxy, for a moment
_CLOSED_WITHIN_S = 2.0


class AgentCheck:
    """Answers on ports of its own."""

    def __init__(self, models: Directory) -> None:
        self._models = models
        self._servers: list[asyncio.Server] = []
        self._asking: set[_Asking] = set()
        self.stopping = False

    async def start(
        self, addresses: Sequence[Address], ready: Sequence[socket.socket] = ()
    ) -> Sequence[socket.socket]:
        """Listen on all addresses and return the sockets; an address of a `ready` one isn't bound.

        Raises `GatewayError`, and then listens nowhere.
        """
        spare: dict[object, socket.socket] = {each.getsockname()[:2]: each for each in ready}
        sockets: list[socket.socket] = []
        try:
            for address in addresses:
                try:
                    sockets += await listen_on(address.host, address.port, spare)
                except OSError as error:
                    raise GatewayError(_cannot_listen(address, error)) from None
            for each in spare.values():
                host, port, *_ = each.getsockname()
                raise GatewayError(
                    "A socket that was handed to warmd for agent checks listens on "
                    f"{Address(host, port)}, which is not in gateway.agent_check: write it there, "
                    "or take it out of the socket unit."
                )
        except GatewayError:
            for each in (*sockets, *ready):
                each.close()
            raise
        loop = asyncio.get_running_loop()
        for each in sockets:
            self._servers.append(await loop.create_server(self._asked, sock=each, backlog=BACKLOG))
        return sockets

    def close(self) -> None:
        """Listen no more, and end what is under way."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for each in tuple(self._asking):
            each.end()

    def _asked(self) -> _Asking:
        return _Asking(self._asking, self._answer)

    def _answer(self, name: str) -> str:
        return agent_answer(self._models, name, stopping=self.stopping)


class _Asking(asyncio.Protocol):
    """One connection; nothing of it outlasts its deadlines."""

    def __init__(self, others: set[_Asking], answer: Callable[[str], str]) -> None:
        self._others = others
        self._answer = answer
        self._said = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a name."""
        stream = cast("asyncio.Transport", transport)  # a stream's always is one
        if len(self._others) >= _MOST:
            stream.abort()
            return
        self._transport = stream
        self._others.add(self)
        self._wait(_NAME_WITHIN_S, self._tell)

    def data_received(self, data: bytes) -> None:
        """Answer once a line is whole; what comes after it isn't read."""
        self._said += data
        if len(self._said) > _LONGEST_LINE:
            self.end()
        elif b"\n" in self._said:
            self._tell()

    def eof_received(self) -> bool:
        """Answer what was said so far."""
        self._tell()
        return True

    def connection_lost(self, _: Exception | None) -> None:
        """Forget it."""
        self._others.discard(self)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def end(self) -> None:
        """Close it without a word."""
        if self._transport is not None:
            self._transport.abort()

    def _tell(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        name = self._said.split(b"\n", 1)[0].decode("utf-8", "replace").strip()
        transport.write(self._answer(name).encode("ascii", "replace") + b"\n")
        transport.close()
        self._wait(_CLOSED_WITHIN_S, self.end)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, then)


def _cannot_listen(address: Address, error: OSError) -> str:
    where = f"Agent checks can't be answered on {address}"
    if error.errno == errno.EADDRINUSE:
        taker = who_listens(lambda host, port: Address(host, port).overlaps(address))
        return f"{where}: the port is taken by {taker}; stop it, or change gateway.agent_check."
    known = error.errno in errno.errorcode  # of a name that can't be found it is none of errno's
    why = os.strerror(error.errno) if error.errno and known else error.strerror or str(error)
    return f"{where}: {why}; change gateway.agent_check."
