"""The head of an engine's answer: read strictly, and what of it goes on to the client."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from warmd.gateway.head import NOT_FOR_CLIENTS
from warmd.gateway.reply import status_line

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?")
# Values are without the white space around them (RFC 9112, 5.1); no line folding, no bare CR or LF.
_FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*"
    rb"[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
_MARKS_THE_END = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_LENGTH = re.compile(rb"\d{1,18}")
_KEPT_MAX = 1024  # bytes of a head that is kept


class BrokenAnswerError(Exception):
    """An engine says what is no answer, or one whose end could be mistaken."""


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """`length`: of the body, None where it comes in chunks or ends with the connection."""

    status: int
    length: int | None
    is_chunked: bool
    keeps_alive: bool
    is_stream: bool  # of server-sent events
    passed_on: bytes  # the status line and all fields that go to the client


@dataclass(frozen=True, slots=True)
class _Field:
    name: bytes  # in lower case
    value: bytes
    passed_on: bytes  # as a line; empty where it is between us and the engine


def answer_head(text: bytes) -> AnswerHead:
    """Read a head, given without the empty line at its end. Raises `BrokenAnswerError`.

    Those of streams are the same for a second, and their lines for much longer: to find one again
    takes a tenth of the time to read it.
    """
    return _kept_head(text) if len(text) <= _KEPT_MAX else _head(text)


def _head(text: bytes) -> AnswerHead:
    first, *lines = text.split(b"\r\n")
    status, is_1_1, status_text = _status(first)
    read = _kept_field if len(text) <= _KEPT_MAX else _field
    fields = [read(line) for line in lines]
    length: int | None = None
    is_chunked = is_stream = has_server = False
    keeps_alive = is_1_1
    named: frozenset[bytes] = frozenset()
    for field in fields:
        name = field.name
        if name in _MARKS_THE_END:
            value = field.value
            if name == b"content-length":
                if length is not None or not _LENGTH.fullmatch(value):
                    raise BrokenAnswerError
                length = int(value)
            elif name == b"transfer-encoding":
                if is_chunked or value.lower() != b"chunked":
                    raise BrokenAnswerError
                is_chunked = True
            else:
                named |= {token.strip() for token in value.lower().split(b",")}
        elif name == b"content-type":
            is_stream = field.value.startswith(b"text/event-stream")
        elif name == b"server":
            has_server = True
    if is_chunked and length is not None:
        raise BrokenAnswerError
    if named:
        keeps_alive = b"close" not in named and (is_1_1 or b"keep-alive" in named)
        fields = [each for each in fields if each.name not in named - _MARKS_THE_END]
    if status < 200 or status in (204, 304):
        length, is_chunked = 0, False
    passed_on = [status_text, *[field.passed_on for field in fields]]
    if not has_server:
        passed_on.append(b"Server: warmd\r\n")
    return AnswerHead(
        status, length, is_chunked, keeps_alive, is_stream, passed_on=b"".join(passed_on)
    )


@lru_cache(maxsize=64)
def _status(line: bytes) -> tuple[int, bool, bytes]:
    found = _STATUS.fullmatch(line)
    if found is None:
        raise BrokenAnswerError
    status = int(found[2])
    return status, found[1] == b"1", status_line(status, found[3] or b"")


def _field(line: bytes) -> _Field:
    found = _FIELD.fullmatch(line)
    if found is None:
        raise BrokenAnswerError
    name, value = found[1].lower(), found[2]
    goes = name not in NOT_FOR_CLIENTS
    return _Field(name, value, b"%b: %b\r\n" % (found[1], value) if goes else b"")


_kept_head = lru_cache(maxsize=256)(_head)
_kept_field = lru_cache(maxsize=2048)(_field)
