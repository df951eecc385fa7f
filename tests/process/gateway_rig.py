"""A gateway with fake engines on unix sockets, and a check that nothing leaks when it closes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import math
import os
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self

import uvloop
from aiohttp import web

from warmd.gateway import Ask, Gateway, GatewayLimits, Keys, ModelCard, Refusal, RequestRecord
from warmd.gateway.access import Limits
from warmd.ladder import NotReadyError, Rung

DEADLINE_S = 10.0
MODEL = "tiny"
ALIAS = "gpt-4o"
LOGGERS = ("warmd", "asyncio", "aiohttp.client")


P = ParamSpec("P")


def on_uvloop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on the event loop that production runs on."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                await test(*args, **kwargs)

        uvloop.run(bounded())

    return run


async def until(condition: Callable[[], object], what: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < deadline, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.005)


def open_sockets() -> set[str]:
    """The sockets of this process, by inode."""
    links = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.add(os.readlink(entry))
    return {link for link in links if link.startswith("socket:")}


@dataclass
class Asked:
    """What an engine was asked."""

    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


Answering = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b'{"ok": true}', content_type="application/json")


class FakeEngine:
    """An HTTP server on a unix socket that answers as a test says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[Asked] = []
        self.answer: Answering = echo
        self.left_by_client = asyncio.Event()
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        server = web.Server(
            self._serve, handler_cancellation=True, auto_decompress=False, access_log=None
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.path)).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def close(self) -> None:
        await self.stop()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        body = bytearray()
        while chunk := await request.content.readany():
            body += chunk
        self.asked.append(Asked(request.raw_path, list(request.headers.items()), bytes(body)))
        try:
            return await self.answer(request)
        except asyncio.CancelledError:
            self.left_by_client.set()
            raise


@dataclass
class FakeLease:
    replica: str
    socket: str
    released: int = 0
    doubts: int = 0
    left: int = 0  # by clients that got no byte

    def lost(self) -> None:
        self.doubts += 1

    def answered(self) -> None:
        pass

    def given_up(self) -> None:
        self.left += 1

    def release(self) -> None:
        self.released += 1


@dataclass
class FakeModels:
    """Two names for one model; `acquire` gives the engines in turn, once `gate` is open."""

    engines: list[FakeEngine]
    leases: list[FakeLease] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    not_ready: NotReadyError | None = None

    def resolve(self, name: str) -> str | None:
        return MODEL if name in (MODEL, ALIAS, "org/tiny") else None

    def cards(self) -> Sequence[ModelCard]:
        return [ModelCard(MODEL, (ALIAS, "org/tiny"), Rung.HOT, 1_700_000_000, 1, 1)]

    def rung(self, model: str) -> Rung:
        return Rung.STAGED

    def spared(self, model: str) -> Rung | None:
        return None

    def idle_s(self, model: str) -> float:
        return math.inf

    def wants_prefix(self, model: str) -> bool:
        return False

    def take(self, model: str, prefix: int | None = None) -> FakeLease | None:
        assert model == MODEL
        if not self.gate.is_set() or self.not_ready is not None:
            return None
        return self._next()

    async def acquire(self, model: str, ask: Ask) -> FakeLease:
        assert model == MODEL
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.not_ready is not None:
            raise self.not_ready
        return self._next()

    def outlook(self, model: str, since: float) -> str:
        return f"{model} is starting, ready in about 40 s"

    def eta_s(self, model: str) -> float | None:
        return 40.0

    def _next(self) -> FakeLease:
        index = len(self.leases) % len(self.engines)
        lease = FakeLease(f"{MODEL}.{index}", str(self.engines[index].path))
        self.leases.append(lease)
        return lease


class Raw:
    """A client that writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, body: bytes, path: str = "/v1/chat/completions", more: str = "") -> None:
        await self.send(head(path, len(body), more) + body)

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readuntil(mark)

    async def rest(self) -> bytes:
        """Everything up to the connection's end, clean or not."""
        data = bytearray()
        async with asyncio.timeout(DEADLINE_S):
            try:
                while chunk := await self.reader.read(65536):
                    data += chunk
            except ConnectionError:
                pass
        return bytes(data)

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """One response with a Content-Length: status, headers, body."""
        lines = (await self.until(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        async with asyncio.timeout(DEADLINE_S):
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, body

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def head(path: str, length: int, more: str = "") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n{more}\r\n"
    ).encode()


def chat(model: str = MODEL, **more: object) -> bytes:
    return json.dumps({"model": model, "messages": [], **more}).encode()


class Complaints(logging.Handler):
    """Whatever the gateway or the event loop logs as worth a look."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(logging.Formatter().format(record))


class Rig:
    """`async with Rig(tmp_path) as rig`: on leaving, everything that was taken must be back."""

    def __init__(
        self,
        folder: Path,
        *,
        engines: int = 1,
        keys: Keys | None = None,
        limits: GatewayLimits | None = None,
        tls: ssl.SSLContext | None = None,
        limits_of_keys: Limits = dict,
    ) -> None:
        self._tls = tls
        self._limits_of_keys = limits_of_keys
        self.refusals: list[Refusal] = []
        self._folder = folder
        self._engine_count = engines
        self._keys = keys
        self._limits = limits or GatewayLimits()
        self._raws: list[Raw] = []
        self.records: list[RequestRecord] = []

    async def __aenter__(self) -> Self:
        self.complaints = Complaints()
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self.complaints)
        self._sockets = open_sockets()
        self._tasks = asyncio.all_tasks()
        self.engines = [
            FakeEngine(self._folder / f"{index}.sock") for index in range(self._engine_count)
        ]
        for engine in self.engines:
            await engine.start()
        self.models = FakeModels(self.engines)
        self.models.gate.set()
        self.gateway = Gateway(
            self.models,
            self._limits,
            self.records.append,
            self._keys,
            limits_of_keys=self._limits_of_keys,
            on_refused=self.refusals.append,
            tls=self._tls,
        )
        ((self.host, self.port),) = await self.gateway.start([("127.0.0.1", 0)])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for raw in self._raws:
            await raw.close()
        if kind is None:
            await until(lambda: not self.gateway.in_flight, "no request in flight")
            assert self.gateway.buffered == 0
        await self.gateway.close()
        for engine in self.engines:
            await engine.close()
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self.complaints)
        if kind is None:
            assert self.complaints.said == []
            assert [lease.released for lease in self.models.leases] == [1] * len(self.models.leases)
            assert self.models.waiting == 0
            await until(lambda: asyncio.all_tasks() <= self._tasks, "no task is left")
            await until(lambda: open_sockets() <= self._sockets, "no socket is left")

    @property
    def engine(self) -> FakeEngine:
        return self.engines[0]

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def raw(self) -> Raw:
        raw = Raw(*await asyncio.open_connection(self.host, self.port))
        self._raws.append(raw)
        return raw

    async def record(self) -> RequestRecord:
        await until(lambda: self.records, "a record")
        (record,) = self.records
        return record
