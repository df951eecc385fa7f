"""A streamed answer, put together again as if it had come in one piece. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

_DATA = b"data:"
_END = b"[DONE]"
_SAID = ("content", "reasoning", "reasoning_content", "text")


@dataclass
class StreamedAnswer:
    """Server-sent events as they come in; `first_token_at` is the time that `feed` was told."""

    first_token_at: float | None = None
    status: int = 200  # what an error in the middle of the stream says that it is
    _rest: bytes = b""
    _ended: bool = False
    _texts: dict[int, str] = field(default_factory=dict)
    _finish: dict[int, str] = field(default_factory=dict)
    _tokens: int = 0
    _usage: object = None
    _error: object = None

    def feed(self, piece: bytes, at: float) -> None:
        """Take what came in at `at` (seconds)."""
        *events, self._rest = (self._rest + piece.replace(b"\r\n", b"\n")).split(b"\n\n")
        for event in events:
            for line in event.split(b"\n"):
                if line.startswith(_DATA):
                    self._take(line.removeprefix(_DATA).strip(), at)

    def _take(self, data: bytes, at: float) -> None:
        if data == _END:
            self._ended = True
            return
        try:
            event = json.loads(data)
        except ValueError:
            return
        if not isinstance(event, dict):
            return
        if "error" in event:
            self._error = event["error"]
            code = self._error.get("code") if isinstance(self._error, dict) else None
            self.status = code if isinstance(code, int) and 400 <= code < 600 else 500
        if event.get("usage") is not None:
            self._usage = event["usage"]
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._take_choice(choice, at)

    def _take_choice(self, choice: dict[str, Any], at: float) -> None:
        said = choice.get("delta") if isinstance(choice.get("delta"), dict) else choice
        words = [word for key in _SAID if isinstance(word := (said or {}).get(key), str) and word]
        index = choice.get("index", 0)
        finish = choice.get("finish_reason")
        self._texts[index] = self._texts.get(index, "") + "".join(words)
        if isinstance(finish, str):
            self._finish[index] = finish
        # A token may show no text, and an opening event carries none at all.
        if words or isinstance(finish, str):
            self._tokens += 1
            if self.first_token_at is None:
                self.first_token_at = at

    def body(self) -> bytes:
        """Return the answer as JSON, in the shape of one that was not streamed."""
        if self._error is not None:
            return json.dumps({"error": self._error}).encode()
        if not self._ended:
            return b"a stream without an end"
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text},
                "text": text,
                "finish_reason": self._finish.get(index),
            }
            for index, text in sorted(self._texts.items())
        ]
        usage = self._usage or {"completion_tokens": self._tokens}
        return json.dumps({"choices": choices, "usage": usage}).encode()
