"""Whether a JSON schema holds what one may. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator

_TYPES = ("object", "array", "string", "boolean", "null", "integer", "number")


def schema_flaw(schema: object) -> str | None:
    """Say what is wrong in the keywords that answers are checked by; None where nothing is."""
    return next(_flaws(schema, ""), None)


def _flaws(schema: object, where: str) -> Iterator[str]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield f"{where or 'it'} is no schema, but {json.dumps(schema)}"
        return
    at = f"{where}." if where else ""
    kinds = schema.get("type", "object")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in _TYPES:
            yield f"{at}type is {json.dumps(kind)}, and may be {', '.join(_TYPES)}"
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(each, str) for each in required):
        yield f"{at}required is no array of names"
    if not isinstance(schema.get("enum", []), list):
        yield f"{at}enum is no array"
    inner = schema.get("properties", {})
    if not isinstance(inner, dict):
        yield f"{at}properties is no table of schemas"
        return
    for name, each in inner.items():
        yield from _flaws(each, f"{at}properties.{name}")
    if "items" in schema:
        yield from _flaws(schema["items"], f"{at}items")
