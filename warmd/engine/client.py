"""The way to one engine: HTTP over its unix socket."""

from __future__ import annotations

import json
import re
from pathlib import Path

import aiohttp

BASE_URL = "http://engine"
_MOVES = re.compile(
    r"^vllm:(?:generation_tokens_total|prompt_tokens_total|iteration_tokens_total_count"
    r"|request_success_total)(?:{[^}]*})? ([0-9.eE+-]+)",
    re.MULTILINE,
)
# Not those of vllm:num_requests_waiting_by_reason, which are in it already.
_WAITING = re.compile(r"^vllm:num_requests_waiting(?:{[^}]*})? ([0-9.eE+-]+)", re.MULTILINE)
_CONNECT_S = 5.0
_PROBE_S = 5.0
# vLLM's server closes idle connections after 5 s; a request on a closing one would be lost.
_KEEPALIVE_S = 4.0


class EngineClient:
    """One session, whose every connection leads to one engine. Made inside a running loop."""

    def __init__(self, socket: Path) -> None:
        self.socket = str(socket)
        self._session = aiohttp.ClientSession(
            BASE_URL,
            connector=aiohttp.UnixConnector(self.socket, limit=0, keepalive_timeout=_KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    @property
    def session(self) -> aiohttp.ClientSession:
        """The way to ask it: no total timeout, bodies left as they come."""
        return self._session

    async def listening(self) -> bool:
        """Whether the engine's server says that it is well: `GET /health` is 200."""
        try:
            async with self._session.get("/health", timeout=_probe_timeout()) as response:
                return response.status == 200
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False

    async def counters(self, within_s: float) -> tuple[float, ...] | None:
        """Return the counters of tokens and requests that move while the engine works.

        Empty where it keeps none (`--disable-log-stats`); None where it doesn't answer in time.
        """
        text = await self._metrics(within_s)
        return None if text is None else tuple(float(each) for each in _MOVES.findall(text))

    async def queued(self, within_s: float) -> int | None:
        """Return how many requests wait inside the engine; None where it doesn't tell in time."""
        told = _WAITING.findall(await self._metrics(within_s) or "")
        return round(sum(float(each) for each in told)) if told else None

    async def _metrics(self, within_s: float) -> str | None:
        timeout = aiohttp.ClientTimeout(total=within_s)
        try:
            async with self._session.get("/metrics", timeout=timeout) as response:
                return (await response.read()).decode("utf-8", "replace")
        except (TimeoutError, aiohttp.ClientError, OSError):
            return None

    async def version(self) -> str | None:
        """Return vLLM's version; None where it isn't told in time."""
        match await self._told("/version"):
            case {"version": str(version)}:
                return version
            case _:
                return None

    async def serves(self) -> tuple[str, ...]:
        """Return the names that the engine answers to, adapters too; empty where it tells none."""
        match await self._told("/v1/models"):
            case {"data": list(cards)}:
                names = (card.get("id") for card in cards if isinstance(card, dict))
                return tuple(name for name in names if isinstance(name, str))
            case _:
                return ()

    async def _told(self, path: str) -> object:
        try:
            async with self._session.get(path, timeout=_probe_timeout()) as response:
                return json.loads(await response.read()) if response.status == 200 else None
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return None

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


def _probe_timeout() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=_PROBE_S)
