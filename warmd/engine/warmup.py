"""The first real request to an engine: proof that answers come back, and the slow first one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, assert_never

import aiohttp

from warmd.config import WarmupKind
from warmd.engine.errors import WarmupError
from warmd.engine.verdict import Answered, NotServed, Wrong, judge

_BODY_MAX = 8 << 20
_WHEN_UNKNOWN = (WarmupKind.CHAT, WarmupKind.COMPLETION, WarmupKind.EMBEDDING)
"""What `auto` asks for, in this order, until one is served."""


@dataclass(frozen=True)
class WarmupSpec:
    """What to ask. `timeout` is in seconds, for everything together."""

    model: str
    prompt: str
    max_tokens: int
    kind: WarmupKind
    timeout: float


@dataclass(frozen=True)
class WarmupAnswer:
    """A right answer came back. Seconds from the request that was answered."""

    kind: WarmupKind
    seconds: float
    first_byte_s: float


async def warm_up(session: aiohttp.ClientSession, spec: WarmupSpec) -> WarmupAnswer:
    """Ask once and judge the answer; raises `WarmupError` with one sentence."""
    refusals: list[str] = []
    kinds = _WHEN_UNKNOWN if spec.kind is WarmupKind.AUTO else (spec.kind,)
    kind = kinds[0]
    try:
        async with asyncio.timeout(spec.timeout):
            for kind in kinds:
                started = time.monotonic()
                status, body, first_byte_s = await _ask(session, spec, kind, started)
                match judge(kind.value, status, body):
                    case Answered():
                        return WarmupAnswer(kind, time.monotonic() - started, first_byte_s)
                    case NotServed(reason):
                        refusals.append(f"{kind}: {reason}")
                    case Wrong(reason, remedy):
                        raise WarmupError(
                            f"the warm-up {_request(kind)} was not answered rightly: {reason};"
                            f" {remedy}"
                        )
                    case never:
                        assert_never(never)
    except TimeoutError:
        raise WarmupError(
            f"the warm-up {_request(kind)} for {spec.max_tokens} token(s) had no whole answer"
            f" within {spec.timeout:g} s; see the engine's log, or raise the model's warmup.timeout"
        ) from None
    except (aiohttp.ClientError, OSError) as error:
        raise WarmupError(
            f"the warm-up {_request(kind)} broke off: {str(error) or type(error).__name__};"
            " see the engine's log"
        ) from error
    raise WarmupError(
        f"the engine serves no warm-up request that warmd knows ({'; '.join(refusals)});"
        " set the model's warmup.kind to what it serves: chat, completion or embedding"
    )


async def _ask(
    session: aiohttp.ClientSession, spec: WarmupSpec, kind: WarmupKind, started: float
) -> tuple[int, bytes, float]:
    path, body = _question(spec, kind)
    headers = {"Accept-Encoding": "identity"}  # the session doesn't decompress
    async with session.post(path, json=body, headers=headers) as response:
        answer = bytearray(await response.content.readany())
        first_byte_s = time.monotonic() - started
        while chunk := await response.content.readany():
            answer += chunk
            if len(answer) > _BODY_MAX:
                break
        return response.status, bytes(answer), first_byte_s


def _question(spec: WarmupSpec, kind: WarmupKind) -> tuple[str, dict[str, Any]]:
    match kind:
        case WarmupKind.CHAT | WarmupKind.AUTO:
            return "/v1/chat/completions", {
                "model": spec.model,
                "messages": [{"role": "user", "content": spec.prompt}],
                "max_tokens": spec.max_tokens,
                "temperature": 0,
            }
        case WarmupKind.COMPLETION:
            return "/v1/completions", {
                "model": spec.model,
                "prompt": spec.prompt,
                "max_tokens": spec.max_tokens,
                "temperature": 0,
            }
        case WarmupKind.EMBEDDING:
            return "/v1/embeddings", {"model": spec.model, "input": spec.prompt}
        case never:
            assert_never(never)


def _request(kind: WarmupKind) -> str:
    return f"{kind} request"
