"""The canary: a fixed, greedy question whose answer must stay the same from sleep to sleep.

An engine can answer garbage, or at half its speed, after a wake that was answered with 200
(vllm#29341, vllm#52479). The same engine gives the same answer as long as it has nothing else to
do: ask only while no other request runs, after the slow first one of the warm-up.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, assert_never

import aiohttp

from warmd.config import WarmupKind
from warmd.engine.errors import WarmupError
from warmd.engine.question import answered_within, ask, question
from warmd.engine.verdict import Answered, NotServed, Wrong, judge

_PROMPT = "Count upwards in words, beginning with one: one, two, three,"
_TOKENS = 16
_DIGEST_CHARS = 12
_STRONGEST = 16
"""How many of an embedding's components are looked at."""


@dataclass(frozen=True)
class CanaryAnswer:
    """What the canary sang. `seconds` from the request to the answer's last byte."""

    digest: str
    tokens: int
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens a second; 0 for an embedding, which has none."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def to_json(self) -> dict[str, str | int | float]:
        """Return it for a record; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> CanaryAnswer:
        """Read what `to_json` made; raises `ValueError` where it is something else."""
        match record:
            case {"digest": str(digest), "tokens": int(tokens), "seconds": int() | float() as took}:
                return cls(digest, tokens, float(took))
            case _:
                raise ValueError("is no canary's answer: it needs digest, tokens and seconds")


async def ask_canary(
    session: aiohttp.ClientSession, model: str, kind: WarmupKind, within_s: float
) -> CanaryAnswer:
    """Ask `model`, whose warm-up was answered through the endpoint of `kind`.

    Raises `WarmupError` in one sentence.
    """
    if kind is not WarmupKind.EMBEDDING:
        # Without a chat template: some put the date into the prompt, and every midnight would
        # look like garbage. What chats also completes, in every vLLM.
        kind = WarmupKind.COMPLETION
    what = f"the canary's {kind} request"
    path, body = question(kind, model, _PROMPT, _TOKENS)
    # vLLM's prefix cache would answer for the weights; each salt is a cache of its own.
    body |= {"cache_salt": uuid.uuid4().hex}
    if kind is not WarmupKind.EMBEDDING:
        # Token ids tell special tokens apart, which the text doesn't show.
        body |= {"seed": 0, "ignore_eos": True, "return_token_ids": True}
    async with answered_within(within_s, what):
        reply = await ask(session, path, body, what)
    match judge(kind.value, reply.status, reply.body):
        case Answered():
            return read_answer(json.loads(reply.body), reply.seconds)
        case NotServed(reason):
            raise WarmupError(f"{what} was not answered rightly: {reason}; see the engine's log")
        case Wrong(reason, remedy):
            raise WarmupError(f"{what} was not answered rightly: {reason}; {remedy}")
        case never:
            assert_never(never)


def read_answer(answer: Mapping[str, Any], seconds: float) -> CanaryAnswer:
    """Make a right answer of vLLM's into the canary's; `seconds` is how long it took. Pure."""
    if "choices" not in answer:
        return CanaryAnswer(_digest(_outline(answer["data"][0]["embedding"])), 0, seconds)
    choice = answer["choices"][0]
    digest = _digest([choice.get("text"), choice.get("token_ids")])
    return CanaryAnswer(digest, answer["usage"]["completion_tokens"], seconds)


def difference(recorded: CanaryAnswer, now: CanaryAnswer, slowest: float) -> str | None:
    """Say how `now` differs from `recorded`, or return None. Pure.

    `slowest` is the share of the recorded speed below which an answer is too slow; 0: never.
    """
    if now.digest != recorded.digest:
        return (
            f"the canary's answer was {recorded.digest} ({recorded.tokens} tokens)"
            f" and is now {now.digest} ({now.tokens} tokens)"
        )
    if now.speed < slowest * recorded.speed:
        return (
            f"the canary's answer came at {recorded.speed:.3g} tokens a second and comes now at"
            f" {now.speed:.3g}, below {slowest:.0%} of it"
        )
    return None


def _outline(vector: list[float]) -> list[int]:
    """Return which components are strongest, with their signs (1-based).

    No rounding is safe: some component always lies near its edge. Which are strongest, and to
    which side, stands against the last bits and not against garbage.
    """
    strongest = sorted(range(len(vector)), key=lambda i: -abs(vector[i]))[:_STRONGEST]
    return sorted(int(math.copysign(i + 1, vector[i])) for i in strongest)


def _digest(heard: object) -> str:
    text = json.dumps(heard, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]
