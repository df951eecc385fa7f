"""The bodies of the fake engine's answers: three dialects, whole and streamed, and the wrong ones.

The answer repeats the words of the question, so that a test sees whose answer it got.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

from aiohttp import web
from fake_knobs import Knobs

FINGERPRINT = "vllm-fake"


async def wrong_body(knobs: Knobs) -> web.Response | None:
    """Return the wrong answer that the knobs ask for, if they do."""
    error = {"message": "Internal server error", "type": "InternalServerError", "code": 500}
    no_tokens = {"prompt_tokens": 1, "total_tokens": 1, "completion_tokens": 0}
    match knobs.answer:
        case "garbage":
            return web.Response(text="<html>it works</html>", content_type="application/json")
        case "500":
            return web.json_response({"error": error}, status=500)
        case "empty-choices":
            return web.json_response({"choices": [], "data": [], "usage": {"completion_tokens": 1}})
        case "wrong-shape":
            return web.json_response(["ok"])
        case "no-tokens":
            choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "text": ""}
            return web.json_response({"choices": [choice], "usage": no_tokens})
        case "silence":
            await asyncio.Event().wait()
        case _:
            pass
    return None


def dialect_of(path: str, asked: dict[str, Any], knobs: Knobs) -> Dialect:
    """Build the answer to a request."""
    if path == "/v1/messages":
        return Messages(asked, knobs)
    return Chat(asked, knobs) if path == "/v1/chat/completions" else Completion(asked, knobs)


class Dialect:
    """One answer, not yet sent."""

    def __init__(self, asked: dict[str, Any], knobs: Knobs) -> None:
        self.model = asked["model"]
        self.asked = asked
        self.created = int(time.time())
        words = self._question().split() or ["ok"]
        self.prompt_tokens = len(words)
        wanted = asked.get("max_completion_tokens") or asked.get("max_tokens")
        count = int(wanted) if wanted else knobs.tokens
        self.finish = "length" if wanted else "stop"
        self.tokens = [f"{words[i % len(words)]} " for i in range(count)]
        if knobs.says is not None:
            self.tokens = [knobs.says]

    def garble(self) -> None:
        """Become what broken weights say (vllm#29341)."""
        self.tokens = ["!"] * len(self.tokens)

    def abort(self, generated: int) -> None:
        """End after the tokens that there are; behind the 200 only this tells (vllm#45520)."""
        self.finish, self.tokens = "abort", self.tokens[:generated]

    def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        raise NotImplementedError

    def aborted(self) -> str | None:
        """The event of the end of an aborted stream, if there is one."""
        raise NotImplementedError

    def opening(self) -> Iterator[str]:
        """Events before the first token."""
        yield from ()

    def chunk(self, position: int) -> str:
        """The event of one token."""
        raise NotImplementedError

    def closing(self) -> Iterator[str]:
        """Events after the last token."""
        yield from ()

    def _question(self) -> str:
        messages = self.asked.get("messages")
        asked = messages[-1].get("content") if messages else self.asked.get("prompt", "")
        if isinstance(asked, list):
            asked = " ".join(str(part.get("text", "")) for part in asked if isinstance(part, dict))
        return str(asked)

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + len(self.tokens),
            "completion_tokens": len(self.tokens),
        }

    def _finish(self, position: int) -> str | None:
        return self.finish if position + 1 == len(self.tokens) else None


class OpenAI(Dialect):
    """What chats and completions have in common."""

    prefix = ""
    object = ""
    chunk_object = ""

    def __init__(self, asked: dict[str, Any], knobs: Knobs) -> None:
        super().__init__(asked, knobs)
        self.id = f"{self.prefix}-{uuid.uuid4().hex[:16]}"

    def whole(self) -> dict[str, Any]:
        text = "".join(self.tokens)
        return {
            **self._head(self.object),
            "choices": [self._whole_choice(text)],
            "system_fingerprint": FINGERPRINT,
            "usage": {**self._usage(), "prompt_tokens_details": None},
        }

    def closing(self) -> Iterator[str]:
        if (self.asked.get("stream_options") or {}).get("include_usage"):
            last = {"choices": [], "usage": self._usage(), "system_fingerprint": FINGERPRINT}
            yield self._event({**self._head(self.chunk_object), **last})
        yield "data: [DONE]\n\n"

    def _whole_choice(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _event(self, body: dict[str, Any]) -> str:
        return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"


class Chat(OpenAI):
    """/v1/chat/completions."""

    prefix, object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self) -> Iterator[str]:
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        yield self._event({**self._head(self.chunk_object), "choices": [choice]})

    def chunk(self, position: int) -> str:
        return self._part(self.tokens[position], self._finish(position))

    def aborted(self) -> str | None:
        return self._part("", self.finish)

    def _part(self, text: str, finish: str | None) -> str:
        choice = {
            "index": 0,
            "delta": {"content": text},
            "logprobs": None,
            "finish_reason": finish,
            "token_ids": None,
        }
        return self._event({**self._head(self.chunk_object), "choices": [choice]})

    def _whole_choice(self, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None, "reasoning": None}
        finish = {"logprobs": None, "finish_reason": self.finish, "stop_reason": None}
        return {"index": 0, "message": message, **finish}


class Completion(OpenAI):
    """/v1/completions."""

    prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def chunk(self, position: int) -> str:
        return self._part(self.tokens[position], self._finish(position))

    def aborted(self) -> str | None:
        return self._part("", self.finish)

    def _part(self, text: str, finish: str | None) -> str:
        choice = {
            "index": 0,
            "text": text,
            "logprobs": None,
            "finish_reason": finish,
            "stop_reason": None,
        }
        return self._event({**self._head(self.chunk_object), "choices": [choice]})

    def _whole_choice(self, text: str) -> dict[str, Any]:
        finish = {"logprobs": None, "finish_reason": self.finish, "stop_reason": None}
        return {"index": 0, "text": text, **finish}


class Messages(Dialect):
    """/v1/messages, Anthropic's."""

    def whole(self) -> dict[str, Any]:
        return {
            **self._message(),
            "content": [{"type": "text", "text": "".join(self.tokens)}],
            "stop_reason": self._stop_reason(),
            "usage": self._counts(len(self.tokens)),
        }

    def opening(self) -> Iterator[str]:
        message = {
            **self._message(),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._counts(0),
        }
        yield self._event("message_start", message=message)
        block = {"type": "text", "text": ""}
        yield self._event("content_block_start", content_block=block, index=0)

    def chunk(self, position: int) -> str:
        delta = {"type": "text_delta", "text": self.tokens[position]}
        return self._event("content_block_delta", delta=delta, index=0)

    def aborted(self) -> str | None:
        return None

    def closing(self) -> Iterator[str]:
        yield self._event("content_block_stop", index=0)
        delta = {"stop_reason": self._stop_reason(), "stop_sequence": None}
        yield self._event("message_delta", delta=delta, usage=self._counts(len(self.tokens)))
        yield self._event("message_stop")

    def _message(self) -> dict[str, Any]:
        head = {"id": "chatcmpl-fake", "type": "message", "role": "assistant"}
        return {**head, "model": self.model}

    def _stop_reason(self) -> str | None:
        return {"length": "max_tokens", "stop": "end_turn"}.get(self.finish)

    def _counts(self, generated: int) -> dict[str, int]:
        return {"input_tokens": self.prompt_tokens, "output_tokens": generated}

    def _event(self, kind: str, **body: object) -> str:
        data = json.dumps({"type": kind, **body}, separators=(",", ":"))
        return f"event: {kind}\ndata: {data}\n\n"
