"""The admin API: what warmctl asks of the daemon, as HTTP on a unix socket."""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from warmd.config import ConfigError
from warmd.control.asked import (
    RefusedError,
    read_ahead,
    read_asked,
    read_file,
    read_replicas,
    read_rung,
    read_seconds,
    read_since,
    read_word,
)
from warmd.control.gpus import Handler, Surveys, gpus_handler
from warmd.control.http_log import quiet_log
from warmd.control.probe import Probing, probe_handlers
from warmd.control.report import Reckons, report_handler
from warmd.control.residency import Measures, residency_handler
from warmd.control.size import Sizes, size_handler
from warmd.control.stage import stage_handler
from warmd.control.unix_socket import listen_privately
from warmd.foresight import Foresight
from warmd.history import HistoryError, Report, Start
from warmd.ladder import Rung
from warmd.status import CalendarStatus, Decision, Status
from warmd.timeline import Agenda

_MAX_BODY = 64 * 1024
_SHUTDOWN_S = 1.0


class Operations(Sizes, Surveys, Measures, Reckons, Protocol):
    """The owner of the models, as an operator sees it."""

    async def settle(self) -> None:
        """Wait, for a moment at most, until what was just said is written, or refused."""

    def shutdown(self) -> str:
        """End the daemon and every engine, also where engines outlive it; return a sentence."""

    async def reload(self) -> Sequence[str]:
        """Read the config again; return what changes.

        Raises `ConfigError`, and `ValueError` with a sentence where it is refused.
        """

    async def plan(self, config: Path | None) -> Foresight:
        """What a reload of `config`, None: of its own config, would do.

        Raises `ConfigError`, and `ValueError` with a sentence where it is refused.
        """

    async def agenda(self, next_s: float, config: Path | None) -> Agenda:
        """What calendars move in the next `next_s` seconds, also under `config`.

        Raises as `plan` does.
        """

    async def decisions(self, model: str) -> Sequence[Decision]:
        """The last changes of rung of `model` (its own name), newest first."""

    def calendar(self, model: str) -> CalendarStatus | None:
        """What the calendar of `model` (its own name) says, None where it has none."""

    async def last_starts(self, model: str) -> Sequence[Start]:
        """The last starts of `model` (its own name) that got ready, newest first."""

    async def history(self, model: str | None, since: float) -> Report:
        """What happened to `model` (its own name), or to all, since `since` (Unix seconds).

        Raises `warmd.history.HistoryError`.
        """

    def set_target(
        self, model: str, rung: Rung | None, for_s: float | None, replicas: int | None = None
    ) -> str:
        """Keep `model` (its own name) on `rung` for `for_s` seconds or until further notice.

        `rung` None gives it back to policy, `replicas` None leaves their number to it. Returns a
        sentence that says what happens now. Raises
        `ValueError` with a sentence where it is refused.
        """

    def try_files_again(self, model: str) -> None:
        """Look at once at files of `model` that couldn't be staged."""

    def keep_staged(self, model: str, for_s: float | None) -> str:
        """Keep `model` (its own name) at least staged; return a sentence. Raises as above."""


class UnknownModelError(LookupError):
    """No model has this name or alias. The text names the nearest one, or all."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        if near:
            hint = f"did you mean {near[0]}?"
        else:
            hint = f"there are {', '.join(names)}" if names else "none is configured"
        super().__init__(f"no model is named {name}: {hint}")


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

    async def start(self) -> None:
        """Open the socket and answer. Raises `warmd.control.ControlError`."""
        sock = listen_privately(self._path, self._group, self._report)
        self._inode = self._path.stat().st_ino
        await self._runner.setup()
        server = self._runner.server
        assert server is not None  # noqa: S101  # setup() has made it
        self._server = await asyncio.get_running_loop().create_unix_server(server, sock=sock)

    async def close(self) -> None:
        """Stop answering and take the socket's file away."""
        if self._server is None:
            return
        self._server.close()
        await self._runner.cleanup()
        # Whoever came after us may have its own socket there by now.
        if self._path.exists() and self._path.stat().st_ino == self._inode:
            self._path.unlink()
        self._server = None


@contextmanager
def _refusals(of_a_config: str) -> Iterator[None]:
    """Answer what a config, or the daemon's state, refuses; `of_a_config` is said before faults."""
    try:
        yield
    except ConfigError as error:
        raise RefusedError(422, f"{of_a_config}:\n{error}") from None
    except ValueError as refused:
        raise RefusedError(409, str(refused)) from None


def _application(
    operations: Operations, expose: Callable[[], bytes], probing: Probing | None
) -> web.Application:
    def trouble() -> dict[str, str | None]:
        return {"history_trouble": operations.snapshot().history_trouble}

    async def status(_: web.Request) -> web.Response:
        return web.json_response(dataclasses.asdict(operations.snapshot()))

    async def explain(request: web.Request) -> web.Response:
        status = operations.snapshot()
        model = _resolve(request.query.get("model", ""), status)
        decisions = [dataclasses.asdict(each) for each in await operations.decisions(model)]
        facts = dataclasses.asdict(status.models[model])
        starts = [dataclasses.asdict(each) for each in await operations.last_starts(model)]
        told = {"time": status.time, "model": facts, "starts": starts, "decisions": decisions}
        if (calendar := operations.calendar(model)) is not None:
            told["calendar"] = dataclasses.asdict(calendar)
        return web.json_response(told | trouble())

    async def history(request: web.Request) -> web.Response:
        status = operations.snapshot()
        name = request.query.get("model")
        model = None if name is None else _resolve(name, status)
        since = read_since(request.query.get("since"), status.time)
        try:
            report = await operations.history(model, since)
        except HistoryError as error:
            raise RefusedError(503, str(error)) from None
        return web.json_response(dataclasses.asdict(report) | trouble())

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=expose(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def set_target(request: web.Request) -> web.Response:
        asked = read_asked(await request.read(), ("model", "rung", "for", "replicas"))
        model = _resolve(read_word(asked, "model"), operations.snapshot())
        rung = read_rung(read_word(asked, "rung"))
        for_s, replicas = read_seconds(asked.get("for"), rung), asked.get("replicas")
        many = read_replicas(replicas, rung)
        try:
            sentence = operations.set_target(model, rung, for_s, many)
        except ValueError as refused:
            raise RefusedError(409, str(refused)) from refused
        await operations.settle()
        return web.json_response({"models": {model: sentence}} | trouble())

    async def reload(_: web.Request) -> web.Response:
        with _refusals("the running config stays in force"):
            return web.json_response({"changes": list(await operations.reload())})

    async def plan(request: web.Request) -> web.Response:
        asked = read_asked(await request.read(), ("config", "next"))
        config, ahead = read_file(asked.get("config")), read_ahead(asked.get("next"))
        with _refusals("a reload would be refused, and the running config would stay in force"):
            soon = None if ahead is None else await operations.agenda(ahead, config)
            told = soon or await operations.plan(config)
            return web.json_response(dataclasses.asdict(told))

    def of_a_gpu(do: Callable[[str], Awaitable[str]]) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            name = read_word(read_asked(await request.read(), ("gpu",)), "gpu")
            try:
                with _refusals(f"{name} is not forgotten: the config can't do without it"):
                    return web.json_response({"sentence": await do(name)})
            except LookupError as unknown:
                raise RefusedError(404, str(unknown)) from None

        return handle

    async def shutdown(_: web.Request) -> web.Response:
        return web.json_response({"sentence": operations.shutdown()})

    app = web.Application(client_max_size=_MAX_BODY, middlewares=[_errors_in_json])
    get, post = web.get, web.post

    def resolve(name: str) -> str:
        return _resolve(name, operations.snapshot())

    app.add_routes(
        [
            *(get("/status", status), get("/explain", explain), get("/history", history)),
            *(
                get("/size", size_handler(operations, resolve)),
                get("/gpus", gpus_handler(operations)),
                get("/metrics", metrics),
            ),
            get("/residency", residency_handler(operations)),
            get("/report", report_handler(operations, resolve)),
            *(post("/set", set_target), post("/plan", plan), post("/reload", reload)),
            post("/stage", stage_handler(operations, resolve)),
            post("/gpu/return", of_a_gpu(operations.return_gpu)),
            post("/gpu/forget", of_a_gpu(operations.forget_gpu)),
            post("/shutdown", shutdown),
        ]
    )
    if probing is not None:
        begin, show, end = probe_handlers(probing, resolve)
        app.add_routes([post("/probe", begin), get("/probe", show), post("/probe/end", end)])
    return app


@web.middleware
async def _errors_in_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as refused:
        return web.json_response({"error": str(refused)}, status=refused.status)
    except UnknownModelError as unknown:
        return web.json_response({"error": str(unknown)}, status=404)
    except web.HTTPException as error:
        sentence = f"{request.method} {request.path}: {error.reason.lower()}"
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return web.json_response({"error": sentence}, status=error.status, headers=allow)


def _resolve(name: str, status: Status) -> str:
    own = {known: known for known in status.models}
    # A name that has passed on is the new model's, while the old one is still being stopped.
    for model in (m for m in status.models.values() if not m.retired):
        own |= dict.fromkeys((*model.aliases, model.name), model.name)
    if name not in own:
        raise UnknownModelError(name, own)
    return own[name]
