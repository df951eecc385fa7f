"""Metrics over TCP, for Prometheus: GET /metrics and nothing else."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from warmd.config.address import Address
from warmd.control.http_log import FIRST_WORD_S, quiet_log
from warmd.control.unix_socket import ControlError
from warmd.listeners import listen_on, who_listens

_SHUTDOWN_S = 1.0


class MetricsServer:
    """Serves what `expose` returns at /metrics on each of `addresses`."""

    def __init__(self, addresses: Sequence[Address], expose: Callable[[], bytes]) -> None:
        self._addresses = addresses
        app = web.Application()

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(body=expose(), headers={"Content-Type": CONTENT_TYPE_LATEST})

        app.router.add_get("/metrics", metrics)
        self._runner = web.AppRunner(
            app, access_log=None, logger=quiet_log, shutdown_timeout=_SHUTDOWN_S
        )

    @property
    def listening(self) -> tuple[tuple[str, int], ...]:
        """The addresses that are served, with the real ports."""
        return tuple((address[0], address[1]) for address in self._runner.addresses)

    async def start(self, ready: Sequence[socket.socket] = ()) -> Sequence[socket.socket]:
        """Listen on all addresses and return the sockets; an address of a `ready` one isn't bound.

        Raises `ControlError` and listens on none where one fails.
        """
        await self._runner.setup()
        spare: dict[object, socket.socket] = {each.getsockname()[:2]: each for each in ready}
        sockets: list[socket.socket] = []
        for address in self._addresses:
            try:
                found = await listen_on(address.host, address.port, spare)
            except OSError as error:
                await self.close()
                raise ControlError(_cannot_serve(address, error)) from error
            for each in found:
                await web.SockSite(self._runner, each).start()
            sockets += found
        for each in spare.values():
            await self.close()
            host, port, *_ = each.getsockname()
            raise ControlError(
                f"a socket that was handed to warmd for metrics listens on {Address(host, port)}, "
                "which is not in [metrics] listen: write it there, or out of the socket unit"
            )
        return sockets

    async def close(self) -> None:
        """Stop serving; who has come before is answered."""
        for site in list(self._runner.sites):
            await site.stop()
        await asyncio.sleep(FIRST_WORD_S)
        await self._runner.cleanup()


def _cannot_serve(address: Address, error: OSError) -> str:
    where = f"metrics can't be served on {address}"
    if error.errno == errno.EADDRINUSE:
        taker = who_listens(lambda host, port: Address(host, port).overlaps(address))
        return f"{where}: the port is taken by {taker}; stop it, or change [metrics] listen"
    # asyncio's own sentence tells the address once more; of a name that it can't find, the number
    # is none of errno's.
    known = error.errno in errno.errorcode
    why = os.strerror(error.errno) if error.errno and known else error.strerror or str(error)
    return f"{where}: {why}; change [metrics] listen"
