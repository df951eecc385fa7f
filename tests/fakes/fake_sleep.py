"""Sleep and wake of the fake engine, in the shapes and the order of vLLM 0.32's source.

Nothing is freed. State, answers and their lies are those of the real one: a second sleep changes
nothing whatever its answer says, tags that don't sleep are passed over behind a 200, requests to a
sleeper are queued, and what level 2 dropped comes back by a reload alone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine

from aiohttp import web
from fake_knobs import Knobs
from fake_vllm import record

CONTROL_PATHS = ("/sleep", "/wake_up", "/is_sleeping", "/collective_rpc")
_TAGS = frozenset({"weights", "kv_cache"})
_FOREVER_S = 3600.0


class Slumber:
    """Whether the engine sleeps, and what that has done to it. `pins`: with --enable-sleep-mode."""

    def __init__(self, knobs: Knobs, *, pins: bool) -> None:
        self._knobs = knobs
        self._ways = knobs.sleep
        self._pins = pins
        self._core = asyncio.Lock()  # EngineCore does one thing after the other
        self._asleep: set[str] = set()
        self._running = asyncio.Event()
        self._running.set()
        self._paused = asyncio.Event()
        self._level = 0
        self._weights_lost = False
        self._times = {"sleep": 0, "wake": 0, "reload": 0}
        self._wakes = 0
        self._kept: list[bytearray] = []
        self._works: set[asyncio.Future[web.Response]] = set()

    def add_to(self, app: web.Application) -> None:
        """Add the routes, which vLLM has in its development mode alone."""
        app.router.add_post("/sleep", self.sleep)
        app.router.add_post("/wake_up", self.wake_up)
        app.router.add_get("/is_sleeping", self.is_sleeping)
        app.router.add_post("/collective_rpc", self.collective_rpc)

    @property
    def asleep(self) -> bool:
        """Whether the scheduler is paused."""
        return self._paused.is_set()

    @property
    def garbage(self) -> bool:
        """Whether answers are garbage."""
        broken = self._ways.wrong_from_wake
        return self._weights_lost or (broken is not None and self._wakes >= broken)

    @property
    def token_s(self) -> float:
        """Time for each token but the first."""
        slow = self._ways.slow_from_wake
        if slow is not None and self._wakes >= slow:
            return self._ways.slow_token_s
        return self._knobs.token_s

    async def awake(self) -> None:
        """Wait until requests are served."""
        await self._running.wait()

    async def falls_asleep_within(self, seconds: float) -> bool:
        """Spend the time; return True as soon as a sleep aborts what is in flight."""
        if not seconds:
            await asyncio.sleep(0)
            return self._paused.is_set()
        try:
            await asyncio.wait_for(self._paused.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def sleep(self, request: web.Request) -> web.Response:
        """POST /sleep; a body is not looked at."""
        level = request.query.get("level", "1")
        mode = request.query.get("mode", "abort")
        if level not in {"0", "1", "2"} or mode not in {"abort", "wait", "keep"}:
            return _error(400, f"1 validation error: query level {level!r}, mode {mode!r}")
        if mode != "abort" or level == "0":
            return _error(501, "the FAKE vLLM sleeps with level 1 or 2 and mode=abort only")
        record(self._knobs, "sleep", level=int(level), mode=mode)
        return await self._see_through(self._sleep(int(level)))

    async def _sleep(self, level: int) -> web.Response:
        async with self._core:
            failure = self._failure("sleep")
            if failure != "lie":
                self._pause()
            await self._spend("sleep", failure)
            if failure == "500":  # the scheduler stays paused, as vLLM's does
                return _error(500, "Call to sleep method failed: CUDA Error: out of memory")
            if failure != "lie" and "weights" not in self._asleep:
                self._asleep = set(_TAGS)
                self._level = level
                self._weights_lost = self._weights_lost or self._level == 2
                self._take_memory()
            record(self._knobs, "slept")
        return self._done({"status": "sleeping", "level": level})

    async def wake_up(self, request: web.Request) -> web.Response:
        """POST /wake_up with any number of tags; none means all."""
        tags = request.query.getall("tags", []) or None
        record(self._knobs, "wake", tags=tags, level=self._level)
        return await self._see_through(self._wake_up(tags))

    async def _wake_up(self, tags: list[str] | None) -> web.Response:
        async with self._core:
            failure = self._failure("wake")
            await self._spend("wake", failure)
            if failure == "500":
                return _error(500, "Call to wake_up method failed: CUDA Error: out of memory")
            if failure != "lie" and set(tags or ()) <= self._asleep:
                self._asleep -= set(tags or _TAGS)
                self._resume()
            record(self._knobs, "woke")
        status = "sleeping" if self._asleep and failure != "lie" else "awake"
        return self._done({"status": status, "tags": tags})

    async def is_sleeping(self, _: web.Request) -> web.Response:
        """GET /is_sleeping: at any level, or in part, or only paused."""
        async with self._core:
            return web.json_response({"is_sleeping": self.asleep or bool(self._asleep)})

    async def collective_rpc(self, request: web.Request) -> web.Response:
        """POST /collective_rpc, which is where level 2 reads its weights again."""
        try:
            method = (await request.json()).get("method")
        except ValueError as error:
            return _error(400, f"JSON decode error: {error}")
        if method is None:
            return _error(400, "Missing 'method' in request body")
        record(self._knobs, "reload", method=method)
        return await self._see_through(self._collective_rpc(method))

    async def _collective_rpc(self, method: str) -> web.Response:
        async with self._core:
            failure = self._failure("reload")
            await self._spend("reload", failure)
            if method != "reload_weights" or failure == "500" or "weights" in self._asleep:
                # On a GPU the write into unmapped weights kills the worker; here it is said.
                text = f"Call to collective_rpc method failed: Worker failed in {method!r}"
                return _error(500, text)
            if failure != "lie":
                self._weights_lost = False
        return self._done({"results": [None]})

    async def _see_through(self, work: Coroutine[None, None, web.Response]) -> web.Response:
        """End what was begun even if the client leaves: EngineCore doesn't hear of it."""
        task = asyncio.ensure_future(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
        return await asyncio.shield(task)

    def _pause(self) -> None:
        self._paused.set()
        self._running.clear()

    def _resume(self) -> None:
        if not self._asleep and self._paused.is_set():
            self._paused.clear()
            self._running.set()
            self._wakes += 1
            self._level = 0

    def _failure(self, operation: str) -> str | None:
        self._times[operation] += 1
        ways = self._ways
        befalls = ways.fails_in == operation and self._times[operation] >= ways.from_time
        return ways.failure if befalls else None

    async def _spend(self, operation: str, failure: str | None) -> None:
        ways = self._ways
        first = self._times["sleep"] == 1
        sleeping = ways.first_sleep_s if first else ways.sleep_s
        seconds = {"sleep": sleeping, "wake": ways.wake_s, "reload": 0.0}[operation]
        await asyncio.sleep(_FOREVER_S if failure == "hang" else seconds)
        if failure == "exit":
            os._exit(ways.exit_code)

    def _take_memory(self) -> None:
        if not self._pins:
            return
        # Bytes that are written to: what nobody has touched takes no RAM.
        if not self._kept:
            self._kept.append(bytearray(b"\1") * self._ways.pinned_bytes)
        self._kept.append(bytearray(b"\1") * self._ways.leaked_bytes)

    def _done(self, answer: dict[str, object]) -> web.Response:
        return web.Response() if self._ways.bare_answers else web.json_response(answer)


def _error(status: int, text: str) -> web.Response:
    error = {"message": text, "type": "InternalServerError", "param": None, "code": status}
    return web.json_response({"error": error}, status=status)
