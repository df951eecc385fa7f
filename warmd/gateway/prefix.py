"""What a prompt begins with, as a number: requests that begin alike find the same KV cache warm."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

BEGINNING = 4096
"""So many characters of a text count."""

_ABOVE_ALL = ("system", "instructions")  # Anthropic's messages, OpenAI's responses
_SYSTEM = ("system", "developer")
_PROMPTS = ("input", "prompt")


def prefix_of(document: Mapping[str, object]) -> int | None:
    """Return a hash of what the prompt in a JSON body begins with; None where it has no text.

    That is the system prompt, and without one the first message, or the beginning of the text: so
    a conversation keeps its number. The same text has the same one in each process, whatever the
    client's spaces and other fields are. Some bytes of the body are read, never all.
    """
    text = _beginning(document)
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) if text else None


def _beginning(document: Mapping[str, object]) -> str:
    for field in _ABOVE_ALL:
        if text := _text(document.get(field)):
            return text
    messages = document.get("messages")
    if isinstance(messages, list):
        return _of_messages(messages)
    for field in _PROMPTS:
        given = document.get(field)
        if isinstance(given, list) and given and isinstance(given[0], dict) and "role" in given[0]:
            return _of_messages(given)
        if text := _text(given):
            return text
    return ""


def _of_messages(messages: list[object]) -> str:
    """Return the system prompts that stand first; where there is none, the first message."""
    text = ""
    for message in messages:
        if not isinstance(message, dict):
            break
        is_system = message.get("role") in _SYSTEM
        if not is_system and text:
            break
        text += _text(message.get("content"))
        if not is_system or len(text) >= BEGINNING:
            break
    return text[:BEGINNING]


def _text(value: object) -> str:
    """Return the beginning of a text, or of the texts in a list of parts."""
    if isinstance(value, str):
        return value[:BEGINNING]
    if not isinstance(value, list):
        return ""
    text = ""
    for part in value:
        piece = part.get("text") if isinstance(part, dict) else part
        if isinstance(piece, str):
            text += piece[: BEGINNING - len(text)]
        if not isinstance(piece, str) or len(text) >= BEGINNING:
            break
    return text
