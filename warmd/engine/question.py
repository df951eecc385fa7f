"""A real question to an engine, through the session that users' requests take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, assert_never

import aiohttp

from warmd.config import WarmupKind
from warmd.engine.errors import WarmupError
from warmd.engine.streamed import StreamedAnswer

_BODY_MAX = 8 << 20

OWN_BOUND = "the model's warmup.timeout"
"""What bounds a question, where nothing else of the config does."""


@dataclass(frozen=True)
class Reply:
    """What came back; seconds from the request on. A stream is put together again.

    `first_token_s`: until the first token of a stream, else until the first byte.
    """

    status: int
    body: bytes
    first_token_s: float
    seconds: float


def question(
    kind: WarmupKind,
    model: str,
    prompt: str,
    max_tokens: int,
    more: Mapping[str, object] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Return the path and the body of a request; an embedding has no tokens to limit.

    It is greedy, where `more` says nothing else of how tokens are chosen.
    """
    greedy = {"model": model, "max_tokens": max_tokens, "temperature": 0, **(more or {})}
    match kind:
        case WarmupKind.CHAT | WarmupKind.AUTO:
            messages = [{"role": "user", "content": prompt}]
            return "/v1/chat/completions", {**greedy, "messages": messages}
        case WarmupKind.COMPLETION:
            return "/v1/completions", {**greedy, "prompt": prompt}
        case WarmupKind.EMBEDDING:
            return "/v1/embeddings", {"model": model, "input": prompt}
        case never:
            assert_never(never)


async def ask(session: aiohttp.ClientSession, path: str, body: dict[str, Any], what: str) -> Reply:
    """Send one request and read the whole answer; raises `WarmupError` where it breaks off.

    `what` says in that sentence what was asked.
    """
    headers = {"Accept-Encoding": "identity"}  # the session doesn't decompress
    started = time.monotonic()
    try:
        async with session.post(path, json=body, headers=headers) as response:
            answer = bytearray()
            stream = StreamedAnswer() if response.content_type == "text/event-stream" else None
            first: float | None = None
            while chunk := await response.content.readany():
                now = time.monotonic()
                first = first or now
                answer += chunk
                if stream is not None:
                    stream.feed(chunk, now)
                if len(answer) > _BODY_MAX:
                    break
            now = time.monotonic()
            if stream is not None and response.status == 200:
                first = stream.first_token_at or now
                token_s = first - started
                return Reply(stream.status, stream.body(), token_s, now - started)
            return Reply(response.status, bytes(answer), (first or now) - started, now - started)
    except (aiohttp.ClientError, OSError) as error:
        raise WarmupError(
            f"{what} broke off: {str(error) or type(error).__name__}; see the engine's log"
        ) from error


@asynccontextmanager
async def answered_within(
    seconds: float, what: str, bound_by: str = OWN_BOUND
) -> AsyncIterator[None]:
    """Bound the questions asked inside; raises `WarmupError` when `seconds` are over.

    `bound_by`: the key of the config from which they come.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise WarmupError(
            f"{what} had no whole answer within {seconds:g} s; see the engine's log, or raise"
            f" {bound_by}"
        ) from None
