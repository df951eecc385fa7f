"""The form that an answer must have: JSON, or JSON after a schema. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from warmd.engine.quote import quote

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


@dataclass(frozen=True)
class ResponseFormat:
    """JSON; `schema` None: any object."""

    schema: Mapping[str, Any] | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """Return what a request says of it (OpenAI's `response_format`)."""
        if self.schema is None:
            return {"type": "json_object"}
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": self.schema}}

    def flaw(self, text: str) -> str | None:
        """Say how `text` isn't what was asked for; None where it is.

        Of a schema `type`, `enum`, `const`, `required`, `properties` and `items` are looked at.
        """
        try:
            answer = json.loads(text)
        except ValueError:
            return f"{quote(text.encode())}, which is no JSON"
        if self.schema is None:
            return None if isinstance(answer, dict) else f"{quote(text.encode())}, no JSON object"
        wrong = next(_flaws(self.schema, answer, "it"), None)
        return None if wrong is None else f"{quote(text.encode())}: {wrong}"


def _flaws(schema: Any, value: object, what: str) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield f"{what} is no {' or '.join(kinds)}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{what} is none of its enum"
    if "const" in schema and value != schema["const"]:
        yield f"{what} is not its const"
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{what} has no {name!r}"
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from _flaws(inner, value[name], repr(name))
    if isinstance(value, list):
        for n, each in enumerate(value):
            yield from _flaws(schema.get("items"), each, f"{what}[{n}]")


def _is(value: object, kind: str) -> bool:
    if kind not in _TYPES:
        return True
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])
