"""Whether what an engine answered to the warm-up is a real answer. Pure."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from warmd.engine.quote import answered, quote


@dataclass(frozen=True)
class Answered:
    """A right answer."""


@dataclass(frozen=True)
class NotServed:
    """The engine doesn't serve this kind of request; another kind may do."""

    reason: str


@dataclass(frozen=True)
class Wrong:
    """No answer, or a wrong one; asking for another kind would not help."""

    reason: str
    remedy: str


Verdict = Answered | NotServed | Wrong


def judge(kind: str, status: int, body: bytes, named_by: str = "--served-model-name") -> Verdict:
    """Judge the answer to a request of `kind`: chat, completion or embedding.

    `named_by` is the flag that gives the engine the name that was asked for.
    """
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if status != 200:
        return _refused(status, body, named_by)
    if not isinstance(answer, dict):
        return Wrong(f"HTTP 200 with {quote(body)}, which is no JSON object", _SEE_LOG)
    flaw = _embedding_flaw(answer) if kind == "embedding" else _generation_flaw(answer)
    return Answered() if flaw is None else Wrong(f"HTTP 200 with {flaw}", _SEE_LOG)


_SEE_LOG = "see the engine's log"


def text_of(body: bytes) -> tuple[str, str | None]:
    """Return what a right answer to a chat or completion says, and why it ended."""
    choice = json.loads(body)["choices"][0]
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    return text or "", choice.get("finish_reason")


def _refused(status: int, body: bytes, named_by: str) -> NotServed | Wrong:
    said = answered(status, body)
    lower = said.lower()
    # The same 404 stands for a path that isn't served and for a name that isn't.
    if status == 404 and "does not exist" in lower:
        return Wrong(said, f"check {named_by} in the model's args")
    if status == 404 or "does not support" in lower:
        return NotServed(said)
    if status == 400 and "chat template" in lower:
        return NotServed(said)
    if status in (401, 403):
        return Wrong(
            said,
            "take --api-key and VLLM_API_KEY from the model, the gateway has keys of its own",
        )
    if 400 <= status < 500:
        return Wrong(said, "check the model's warmup.prompt, warmup.max_tokens and --max-model-len")
    return Wrong(said, _SEE_LOG)


def _generation_flaw(answer: dict[str, Any]) -> str | None:
    choices = answer.get("choices")
    if not isinstance(choices, list):
        return "no list of choices"
    if not choices:
        return "an empty list of choices"
    for choice in choices:
        if not isinstance(choice, dict) or not ("message" in choice or "text" in choice):
            return "a choice that holds neither a message nor a text"
    usage = answer.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    # A text may be empty: a model is free to end at once, and special tokens aren't shown.
    if not isinstance(tokens, int) or tokens < 1:
        return f"{tokens if tokens is not None else 'no count of'} generated tokens"
    return None


def _embedding_flaw(answer: dict[str, Any]) -> str | None:
    data = answer.get("data")
    if not isinstance(data, list) or not data:
        return "no list of embeddings"
    for entry in data:
        vector = entry.get("embedding") if isinstance(entry, dict) else None
        if not isinstance(vector, list) or not vector:
            return "an empty embedding"
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in vector):
            return "an embedding that holds something else than finite numbers"
    return None
