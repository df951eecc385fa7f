"""Metrics over TCP, for Prometheus: GET /metrics and nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from warmd.config.address import Address
from warmd.control.http_log import quiet_log
from warmd.control.unix_socket import ControlError
from warmd.listeners import who_listens

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

    async def start(self) -> None:
        """Listen on all addresses. Raises `ControlError` and listens on none where one fails."""
        await self._runner.setup()
        for address in self._addresses:
            try:
                await web.TCPSite(self._runner, address.host, address.port).start()
            except OSError as error:
                await self.close()
                raise ControlError(_cannot_serve(address, error)) from error

    async def close(self) -> None:
        """Stop serving."""
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
