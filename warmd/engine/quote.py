"""What an engine answered, quoted so that it fits into a sentence. Pure."""

from __future__ import annotations

import json

_CHARS = 160


def answered(status: int, body: bytes) -> str:
    """Quote an answer: `HTTP 500, 'out of memory'`; of an error in JSON its message alone."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    match answer:
        case {"error": {"message": str(text)}} | {"error": str(text)} | {"detail": str(text)}:
            return f"HTTP {status}, {quote(text.encode())}"
        case _:
            return f"HTTP {status}, {quote(body)}" if body.strip() else f"HTTP {status}"


def quote(body: bytes) -> str:
    """Quote a body on one line, cut where it is long."""
    text = " ".join(body.decode("utf-8", "replace").split())
    return repr(text if len(text) <= _CHARS else f"{text[: _CHARS - 1]}…") if text else "nothing"
