"""The first real request to an engine: proof that answers come back, and the slow first one."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Any, assert_never

import aiohttp

from warmd.config import WarmupKind
from warmd.engine.errors import WarmupError
from warmd.engine.question import OWN_BOUND, answered_within, ask, question
from warmd.engine.quote import quote
from warmd.engine.response_format import ResponseFormat
from warmd.engine.verdict import Answered, NotServed, Wrong, judge, text_of

_WHEN_UNKNOWN = (WarmupKind.CHAT, WarmupKind.COMPLETION, WarmupKind.EMBEDDING)
"""What `auto` asks for, in this order, until one is served."""


@dataclass(frozen=True)
class WarmupSpec:
    """What to ask. `timeout` is in seconds, for everything together; `bound_by`: where it is set.

    Each of `adapters`, by its name, is asked for one token as well: its first is as slow.
    `expect`: a regular expression that the answer's text must hold; `form`: what it must be.
    `anew`: no prefix cache shall answer for the weights, and all tokens are generated.
    """

    model: str
    prompt: str
    max_tokens: int
    kind: WarmupKind
    timeout: float
    adapters: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    form: ResponseFormat | None = None
    expect: str | None = None
    anew: bool = False
    bound_by: str = OWN_BOUND

    def of(self, kind: WarmupKind) -> tuple[str, dict[str, Any]]:
        """Return the path and the body of the request to the endpoint of `kind`."""
        more: dict[str, object] = {"temperature": self.temperature, "top_p": self.top_p}
        more |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.seed is not None:
            more["seed"] = self.seed
        if self.form is not None:
            more["response_format"] = self.form.asked
        if self.anew:
            more |= {"ignore_eos": True, "cache_salt": uuid.uuid4().hex}
        return question(kind, self.model, self.prompt, self.max_tokens, more)

    def flaw(self, kind: WarmupKind, body: bytes) -> str | None:
        """Say how a real answer isn't what was asked for; None where it is."""
        if (self.form is None and self.expect is None) or kind is WarmupKind.EMBEDDING:
            return None
        text, finish = text_of(body)
        flaw = None if self.form is None else self.form.flaw(text)
        if flaw is None and self.expect is not None and not re.search(self.expect, text):
            flaw = f"{quote(text.encode())}, which doesn't match warmup.expect, {self.expect!r}"
        if flaw is not None and finish == "length":
            flaw += f"; it was cut off at max_tokens = {self.max_tokens}"
        return flaw


@dataclass(frozen=True)
class WarmupAnswer:
    """The model's own right answer came back. Seconds from the request that was answered."""

    kind: WarmupKind
    seconds: float
    first_token_s: float


async def warm_up(session: aiohttp.ClientSession, spec: WarmupSpec) -> WarmupAnswer:
    """Ask the model, then each adapter, and judge; raises `WarmupError` with one sentence."""
    what = f"the warm-up for {spec.max_tokens} token(s)"
    async with answered_within(spec.timeout, what, spec.bound_by):
        answer = await _ask_model(session, spec)
        for adapter in spec.adapters:
            await _ask_adapter(session, spec, answer.kind, adapter)
    return answer


async def _ask_model(session: aiohttp.ClientSession, spec: WarmupSpec) -> WarmupAnswer:
    refusals: list[str] = []
    for kind in _WHEN_UNKNOWN if spec.kind is WarmupKind.AUTO else (spec.kind,):
        what = f"the warm-up {kind} request"
        reply = await ask(session, *spec.of(kind), what)
        match judge(kind.value, reply.status, reply.body):
            case Answered():
                flaw = spec.flaw(kind, reply.body)
                if flaw is not None:
                    raise WarmupError(f"{what} got a wrong answer: {flaw}; {_MEND}")
                return WarmupAnswer(kind, reply.seconds, reply.first_token_s)
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


_MEND = "mend the model's weights or args, or what its warmup asks for"


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
