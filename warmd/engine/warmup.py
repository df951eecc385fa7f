"""The first real request to an engine: proof that answers come back, and the slow first one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import aiohttp

from warmd.config import WarmupKind
from warmd.engine.errors import WarmupError
from warmd.engine.question import answered_within, ask, question
from warmd.engine.verdict import Answered, NotServed, Wrong, judge

_WHEN_UNKNOWN = (WarmupKind.CHAT, WarmupKind.COMPLETION, WarmupKind.EMBEDDING)
"""What `auto` asks for, in this order, until one is served."""


@dataclass(frozen=True)
class WarmupSpec:
    """What to ask. `timeout` is in seconds, for everything together.

    Each of `adapters`, by its name, is asked for one token as well: its first is as slow.
    """

    model: str
    prompt: str
    max_tokens: int
    kind: WarmupKind
    timeout: float
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True)
class WarmupAnswer:
    """The model's own right answer came back. Seconds from the request that was answered."""

    kind: WarmupKind
    seconds: float
    first_byte_s: float


async def warm_up(session: aiohttp.ClientSession, spec: WarmupSpec) -> WarmupAnswer:
    """Ask the model, then each adapter, and judge; raises `WarmupError` with one sentence."""
    async with answered_within(spec.timeout, f"the warm-up for {spec.max_tokens} token(s)"):
        answer = await _ask_model(session, spec)
        for adapter in spec.adapters:
            await _ask_adapter(session, spec, answer.kind, adapter)
    return answer


async def _ask_model(session: aiohttp.ClientSession, spec: WarmupSpec) -> WarmupAnswer:
    refusals: list[str] = []
    for kind in _WHEN_UNKNOWN if spec.kind is WarmupKind.AUTO else (spec.kind,):
        what = f"the warm-up {kind} request"
        reply = await ask(session, *question(kind, spec.model, spec.prompt, spec.max_tokens), what)
        match judge(kind.value, reply.status, reply.body):
            case Answered():
                return WarmupAnswer(kind, reply.seconds, reply.first_byte_s)
            case NotServed(reason):
                refusals.append(f"{kind}: {reason}")
            case Wrong(reason, remedy):
                raise WarmupError(f"{what} was not answered rightly: {reason}; {remedy}")
            case never:
                assert_never(never)
    raise WarmupError(
        f"the engine serves no warm-up request that warmd knows ({'; '.join(refusals)});"
        " set the model's warmup.kind to what it serves: chat, completion or embedding"
    )


async def _ask_adapter(
    session: aiohttp.ClientSession, spec: WarmupSpec, kind: WarmupKind, adapter: str
) -> None:
    what = f"the warm-up {kind} request to the adapter '{adapter}'"
    reply = await ask(session, *question(kind, adapter, spec.prompt, 1), what)
    match judge(kind.value, reply.status, reply.body, "--enable-lora and --lora-modules"):
        case Answered():
            pass
        case NotServed(reason):
            raise WarmupError(
                f"{what} was not answered rightly: {reason}; an adapter must serve what its model"
                " serves, so take it out or mend it"
            )
        case Wrong(reason, remedy):
            raise WarmupError(f"{what} was not answered rightly: {reason}; {remedy}")
        case never:
            assert_never(never)
