"""Which model a request body asks for. The body itself is never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic_core import from_json

from warmd.gateway.errors import RefusedError
from warmd.gateway.paths import ModelIn, clip

Body = bytes | bytearray

_SMALL = 1 << 20  # parsing takes at most some 25 bytes for each byte of body: no matter below this
_MAX_VALUES = 4_000_000
_MAX_PART_HEAD = 4096
_MAX_PARTS = 1000


@dataclass(frozen=True, slots=True)
class Said:
    """What a body says: the field `model`, None where there is none, and all of a JSON body."""

    model: str | None
    document: Mapping[str, object] = field(default_factory=dict)


def read(body: Body, model_in: ModelIn, content_type: str) -> Said:
    """Read which model a body asks for.

    Raises `RefusedError` with 400 where the body is not what the path takes.
    """
    match model_in:
        case ModelIn.JSON:
            return _json(body)
        case ModelIn.FORM:
            return Said(_name_in_form(body, content_type))


def _json(body: Body) -> Said:
    if len(body) > _SMALL and sum(map(body.count, b"{[,")) > _MAX_VALUES:
        # A body of nothing but brackets would take 25 times its size as Python objects.
        raise RefusedError(
            413, f"The JSON body holds more than {_MAX_VALUES:,} values.", code="body_too_large"
        )
    try:
        document = from_json(body, cache_strings="keys")
    except ValueError as error:
        reason = clip(str(error))
        raise RefusedError(400, f"The body is not valid JSON: {reason}.", code="bad_json") from None
    if not isinstance(document, dict):
        raise RefusedError(400, "The body must be a JSON object.", code="bad_json")
    name = document.get("model")
    if name is None or isinstance(name, str):
        return Said(name or None, document)
    raise RefusedError(400, "The field `model` must be a string.", param="model")


def _name_in_form(body: Body, content_type: str) -> str | None:
    """Walk the parts of a multipart body (RFC 7578) up to the field `model`."""
    kind, *parameters = content_type.split(";")
    boundary = _parameter(parameters, "boundary")
    if kind.strip().lower() != "multipart/form-data" or not boundary:
        raise _bad_form("it must be multipart/form-data with a boundary")
    mark = b"--" + boundary.encode("utf-8", "surrogateescape")
    delimiter = b"\r\n" + mark
    at = 0 if body.startswith(mark) else body.find(delimiter)
    if at < 0:
        raise _bad_form("the boundary that Content-Type names is not in it")
    at = body.find(b"\r\n", at + len(mark))
    for _ in range(_MAX_PARTS):
        # A part without fields in its head starts with an empty line, hence from `at`.
        head_end = body.find(b"\r\n\r\n", at, at + _MAX_PART_HEAD) if at >= 0 else -1
        if head_end < 0:
            return None
        part_end = body.find(delimiter, head_end + 2)
        if part_end < 0:
            raise _bad_form("its last part is cut off")
        if _field_name(body[at:head_end]) == "model":
            return body[head_end + 4 : part_end].decode("utf-8", "replace") or None
        at = body.find(b"\r\n", part_end + len(delimiter))
    raise _bad_form(f"it has more than {_MAX_PARTS} parts")


def _field_name(head: Body) -> str | None:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            return _parameter(value.split(";")[1:], "name")
    return None


def _parameter(parameters: list[str], wanted: str) -> str | None:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == wanted:
            return value.strip().strip('"')
    return None


def _bad_form(why: str) -> RefusedError:
    return RefusedError(400, f"The body is not a form that can be read: {why}.", code="bad_form")
