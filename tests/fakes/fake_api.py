"""The HTTP of the fake engine, in the shapes of vLLM 0.32: requests in, tokens out, metrics."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from fake_answers import Dialect, dialect_of, wrong_body
from fake_knobs import Knobs
from fake_sleep import CONTROL_PATHS, Slumber
from fake_vllm import VERSION, record, say

NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a"
    " chat template if the tokenizer does not define one."
)
PROBES = ("/health", "/metrics", "/version")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Counts:
    """What /metrics tells."""

    running: int = 0
    waiting: int = 0
    finished: int = 0
    aborted: int = 0
    generated: int = 0


class FakeApi:
    """The routes and their state."""

    def __init__(self, args: argparse.Namespace, knobs: Knobs) -> None:
        self.args = args
        self.knobs = knobs
        self.counts = Counts()
        self.finished_at = time.monotonic()
        self.slots = asyncio.Semaphore(knobs.slots or 1_000_000)
        self.slumber = Slumber(knobs, pins=args.enable_sleep_mode)

    @property
    def names(self) -> list[str]:
        """What may be asked for: the model's names, and its adapters."""
        return [*self.args.served_model_name, *self.args.lora_modules]

    def app(self) -> web.Application:
        """Build the application."""
        app = web.Application(middlewares=[self.log], client_max_size=64 << 20)
        app.router.add_get("/health", self.health)
        app.router.add_get("/version", self.version)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_post("/fake/exit", self.exit)
        if os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            self.slumber.add_to(app)
        if self.knobs.embedding:
            app.router.add_post("/v1/embeddings", self.embed)
        else:
            for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages"):
                app.router.add_post(path, self.generate)
        return app

    @web.middleware
    async def log(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Guard, keep the record, print the access line."""
        probe = request.path in PROBES or request.path in CONTROL_PATHS
        body = (await request.read()).decode("utf-8", "replace")
        if not probe:
            headers = {name.lower(): value for name, value in request.headers.items()}
            record(self.knobs, "request", path=request.path, headers=headers, body=body)
        try:
            response = await self.guarded(request, handler)
        except (asyncio.CancelledError, ConnectionResetError):
            self.counts.aborted += 1
            record(self.knobs, "aborted", path=request.path)
            raise
        print(
            f'INFO:      - "{request.method} {request.path} HTTP/1.1" {response.status}', flush=True
        )
        if not probe:
            record(self.knobs, "done", path=request.path, status=response.status)
        return response

    async def guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what vLLM refuses before it looks at the body."""
        key = self.args.api_key
        allowed = not key or request.headers.get("Authorization") == f"Bearer {key}"
        if not allowed and request.path.startswith("/v1"):
            return web.json_response({"error": "Unauthorized"}, status=401)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return web.json_response({"detail": "Not Found"}, status=404)
        except web.HTTPMethodNotAllowed:
            return web.json_response({"detail": "Method Not Allowed"}, status=405)

    async def health(self, _: web.Request) -> web.Response:
        """Empty, like vLLM's."""
        await asyncio.sleep(self.knobs.probe_s)
        return web.Response(status=503 if self.knobs.unhealthy else 200)

    async def version(self, _: web.Request) -> web.Response:
        """Tell the version that the fake plays."""
        return web.json_response({"version": VERSION})

    async def models(self, _: web.Request) -> web.Response:
        """Tell the served names."""
        cards = [
            {
                "id": name,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "vllm",
                "root": self.args.model,
                "parent": self.args.served_model_name[0]
                if name in self.args.lora_modules
                else None,
                "max_model_len": self.args.max_model_len,
            }
            for name in self.names
        ]
        return web.json_response({"object": "list", "data": cards})

    async def metrics(self, _: web.Request) -> web.Response:
        """Tell the counters that warmd may read."""
        await asyncio.sleep(self.knobs.probe_s)
        label = f'{{engine="0",model_name="{self.args.served_model_name[0]}"}}'
        lines = [
            f"vllm:num_requests_running{label} {self.counts.running}.0",
            f"vllm:num_requests_waiting{label} {self.counts.waiting}.0",
            f"vllm:kv_cache_usage_perc{label} 0.0",
            f"vllm:generation_tokens_total{label} {self.counts.generated}.0",
            f"vllm:iteration_tokens_total_count{label} {self.counts.generated}.0",
            f"vllm:request_success_total{label} {self.counts.finished}.0",
        ]
        return web.Response(
            body="\n".join([*lines, ""]).encode(),
            headers={"Content-Type": "text/plain; version=1.0.0; charset=utf-8"},
        )

    async def tokenize(self, request: web.Request) -> web.Response:
        """One token a word."""
        words = str((await request.json()).get("prompt", "")).split()
        tokens = [len(word) for word in words]
        length = self.args.max_model_len
        return web.json_response(
            {"count": len(tokens), "max_model_len": length, "tokens": tokens, "token_strs": None}
        )

    async def exit(self, request: web.Request) -> web.Response:
        """End at once with ?code=N: the death that a test asks for."""
        os._exit(int(request.query.get("code", "0")))

    async def embed(self, request: web.Request) -> web.Response:
        """Return a vector for each input."""
        asked = await self._asked(request)
        if isinstance(asked, web.Response):
            return asked
        inputs = asked["input"] if isinstance(asked.get("input"), list) else [asked.get("input")]
        value = float("nan") if self.knobs.answer == "nan" else 0.25
        value = -value if self.slumber.garbage else value
        data = [
            {"index": index, "object": "embedding", "embedding": [value, -0.5, 0.125]}
            for index, _ in enumerate(inputs)
        ]
        if (wrong := await wrong_body(self.knobs)) is not None:
            return wrong
        usage = {"prompt_tokens": 1, "total_tokens": 1, "completion_tokens": 0}
        self._answered(0)
        return web.json_response(
            {
                "id": "embd-1",
                "object": "list",
                "model": asked["model"],
                "data": data,
                "usage": usage,
            }
        )

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Answer a chat, a completion or a message, whole or as a stream."""
        asked = await self._asked(request)
        if isinstance(asked, web.Response):
            return asked
        if self.knobs.no_chat_template and request.path != "/v1/completions":
            if request.path == "/v1/messages":
                error = {"type": "BadRequestError", "message": NO_TEMPLATE}
                return web.json_response({"type": "error", "error": error}, status=400)
            return self._error(400, NO_TEMPLATE, "BadRequestError")
        if (wrong := await wrong_body(self.knobs)) is not None:
            return wrong
        dialect = dialect_of(request.path, asked, self.knobs)
        if self.knobs.says_later is not None and self.counts.finished >= self.knobs.says_later[0]:
            dialect.tokens = [self.knobs.says_later[1]]
        if self.slumber.garbage:
            dialect.garble()
        async with self._slot():
            if asked.get("stream"):
                return await self._stream(request, dialect)
            async for _ in self._tokens(dialect):
                pass
            self._answered(len(dialect.tokens))
            return web.json_response(dialect.whole())

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Wait for a turn, as vLLM's scheduler makes requests wait."""
        self.counts.waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self.counts.waiting -= 1
        self.counts.running += 1
        try:
            yield
        finally:
            self.counts.running -= 1
            self.slots.release()

    async def _stream(self, request: web.Request, dialect: Dialect) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for event in dialect.opening():
            await response.write(event.encode())
        async for position in self._tokens(dialect):
            await response.write(dialect.chunk(position).encode())
            if position + 1 == self.knobs.crash_mid_stream:
                os._exit(1)
        if dialect.finish == "abort" and (last := dialect.aborted()) is not None:
            await response.write(last.encode())
        for event in dialect.closing():
            await response.write(event.encode())
        await response.write_eof()
        self._answered(len(dialect.tokens))
        return response

    async def _tokens(self, dialect: Dialect) -> AsyncIterator[int]:
        wedged = (
            self.knobs.wedge_after is not None and self.counts.finished >= self.knobs.wedge_after
        )
        pause = 3600.0 if wedged else self.knobs.first_token_s + self._idle_costs()
        for position in range(len(dialect.tokens)):
            if await self.slumber.falls_asleep_within(pause):
                dialect.abort(position)
                return
            pause = self.slumber.token_s
            self.counts.generated += 1
            yield position

    def _idle_costs(self) -> float:
        """Seconds that the first token takes longer after an idle time."""
        idle_s = time.monotonic() - self.finished_at
        after = self.knobs.slow_after_idle_s
        return 0.0 if after is None or idle_s < after else self.knobs.idle_first_token_s

    async def _asked(self, request: web.Request) -> dict[str, Any] | web.Response:
        """Return the request's JSON, or what vLLM answers to a bad one."""
        try:
            asked = await request.json()
        except ValueError:
            return self._error(400, "1 validation error: JSON decode error", "Bad Request")
        if not isinstance(asked, dict):
            return self._error(400, "1 validation error: not an object", "Bad Request")
        model = asked.get("model", self.args.served_model_name[0])
        if model not in self.names:
            names = ", ".join(self.names)
            text = f"The model `{model}` does not exist. Valid aliases: {names}."
            return self._error(404, text, "NotFoundError", "model")
        if model in self.knobs.bad_adapters:
            return self._error(500, "LoRA rank 64 is greater than 16.", "InternalServerError")
        if self.slumber.asleep:
            record(self.knobs, "asked-asleep", path=request.path)
            self.counts.waiting += 1
            try:
                await self.slumber.awake()
            finally:
                self.counts.waiting -= 1
        return {**asked, "model": model}

    def _answered(self, tokens: int) -> None:
        self.counts.finished += 1
        self.finished_at = time.monotonic()
        if self.counts.finished == self.knobs.exit_after:
            asyncio.get_running_loop().call_later(0.01, os._exit, self.knobs.exit_code)

    @staticmethod
    def _error(status: int, text: str, kind: str, param: str | None = None) -> web.Response:
        error = {"message": text, "type": kind, "param": param, "code": status}
        return web.json_response({"error": error}, status=status)


def serve(args: argparse.Namespace, knobs: Knobs, sock: socket.socket, children: list[int]) -> None:
    """Serve until SIGTERM or SIGINT, or until a child has died."""
    asyncio.run(_serve(args, knobs, sock, children))


async def _serve(
    args: argparse.Namespace, knobs: Knobs, sock: socket.socket, children: list[int]
) -> None:
    runner = web.AppRunner(
        FakeApi(args, knobs).app(), handler_cancellation=True, shutdown_timeout=0.0, access_log=None
    )
    await runner.setup()
    print(f"INFO:     Started server process [{os.getpid()}]", flush=True)
    print("INFO:     Waiting for application startup.", flush=True)
    await web.SockSite(runner, sock).start()
    print("INFO:     Application startup complete.", flush=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for pid in children:
        loop.add_reader(os.pidfd_open(pid), _die, pid)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    if not knobs.ignore_sigterm:
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    record(knobs, "sigterm")
    say("APIServer", "launcher.py:254", "[shutdown] API server: shutdown triggered")
    await asyncio.sleep(knobs.stop_s)
    await runner.cleanup()
    print("INFO:     Application shutdown complete.", flush=True)


def _die(pid: int) -> None:
    """Die of EngineCore's death, as vLLM does: with status 0."""
    say("APIServer", "core_client.py:600", f"Engine core proc {pid} died unexpectedly.", "ERROR")
    os._exit(0)
