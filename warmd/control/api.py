"""The admin API: what warmctl asks of the daemon, as HTTP on a unix socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from warmd.control.explain import Explains, explain_handler
from warmd.control.gpus import Surveys, gpu_handler, gpus_handler
from warmd.control.history import Remembers, history_handler
from warmd.control.http_log import FIRST_WORD_S, quiet_log
from warmd.control.probe import Probing, probe_handlers
from warmd.control.refusal import UnknownModelError, errors_in_json
from warmd.control.reloading import Reloads, plan_handler, reload_handler
from warmd.control.report import Reckons, report_handler
from warmd.control.residency import Measures, residency_handler
from warmd.control.setting import Sets, set_handler
from warmd.control.size import Sizes, size_handler
from warmd.control.stage import Stages, stage_handler
from warmd.control.unix_socket import listen_privately
from warmd.status import Status

_MAX_BODY = 64 * 1024
_SHUTDOWN_S = 1.0


class Operations(
    Explains, Remembers, Reckons, Sizes, Surveys, Measures, Reloads, Sets, Stages, Protocol
):
    """The owner of the models, as an operator sees it."""

    def shutdown(self) -> str:
        """End the daemon and every engine, also where engines outlive it; return a sentence."""


class ControlServer:
    """What an operator may ask and tell, by GET and POST, on a unix socket.

    `path` is the socket's, `expose` returns the metrics; `report` gets a sentence where its group
    can't be set; `probing` measures first requests, where anybody does.
    """

    def __init__(
        self,
        path: Path,
        group: str,
        operations: Operations,
        expose: Callable[[], bytes],
        report: Callable[[str], None],
        *,
        probing: Probing | None = None,
    ) -> None:
        self._path = path
        self._group = group
        self._report = report
        self._runner = web.AppRunner(
            _application(operations, expose, probing),
            access_log=None,
            logger=quiet_log,
            shutdown_timeout=_SHUTDOWN_S,
        )
        self._server: asyncio.Server | None = None
        self._inode = 0

    async def start(self, ready: Sequence[socket.socket] = ()) -> socket.socket:
        """Open the socket and answer; return it. Raises `warmd.control.ControlError`.

        `ready`: what listens there already, where anything does.
        """
        sock = listen_privately(self._path, self._group, self._report, ready)
        self._inode = self._path.stat().st_ino
        await self._runner.setup()
        server = self._runner.server
        assert server is not None  # noqa: S101  # setup() has made it
        self._server = await asyncio.get_running_loop().create_unix_server(server, sock=sock)
        return sock

    async def close(self, *, leave: bool = False) -> None:
        """Stop answering and take the socket's file away, unless it is to `leave` it to the next.

        Who has come before is answered.
        """
        if self._server is None:
            return
        self._server.close()
        await asyncio.sleep(FIRST_WORD_S)
        await self._runner.cleanup()
        # Whoever came after us may have its own socket there by now.
        if not leave and self._path.exists() and self._path.stat().st_ino == self._inode:
            self._path.unlink()
        self._server = None


def _application(
    operations: Operations, expose: Callable[[], bytes], probing: Probing | None
) -> web.Application:
    def resolve(name: str) -> str:
        return _resolve(name, operations.snapshot())

    async def status(_: web.Request) -> web.Response:
        return web.json_response(asdict(operations.snapshot()))

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=expose(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def shutdown(_: web.Request) -> web.Response:
        return web.json_response({"sentence": operations.shutdown()})

    get, post = web.get, web.post
    app = web.Application(client_max_size=_MAX_BODY, middlewares=[errors_in_json])
    app.add_routes(
        [
            get("/status", status),
            get("/metrics", metrics),
            get("/explain", explain_handler(operations, resolve)),
            get("/history", history_handler(operations, resolve)),
            get("/report", report_handler(operations, resolve)),
            get("/size", size_handler(operations, resolve)),
            get("/gpus", gpus_handler(operations)),
            get("/residency", residency_handler(operations)),
            post("/set", set_handler(operations, resolve)),
            post("/stage", stage_handler(operations, resolve)),
            post("/plan", plan_handler(operations)),
            post("/reload", reload_handler(operations)),
            post("/gpu/return", gpu_handler(operations.return_gpu)),
            post("/gpu/forget", gpu_handler(operations.forget_gpu)),
            post("/shutdown", shutdown),
        ]
    )
    if probing is not None:
        begin, show, end = probe_handlers(probing, resolve)
        app.add_routes([post("/probe", begin), get("/probe", show), post("/probe/end", end)])
    return app


def _resolve(name: str, status: Status) -> str:
    own = {known: known for known in status.models}
    # A name that has passed on is the new model's, while the old one is still being stopped.
    for model in (m for m in status.models.values() if not m.retired):
        own |= dict.fromkeys((*model.aliases, model.name), model.name)
    if name not in own:
        raise UnknownModelError(name, own)
    return own[name]
