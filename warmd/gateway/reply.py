"""Answers of the gateway's own, as bytes."""

from __future__ import annotations

import http
import time
from email.utils import formatdate

from warmd.gateway.errors import RefusedError
from warmd.gateway.paths import dialect_of

_REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}


class _Date:
    """The field `date`, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._line = b"Date: %b\r\n" % formatdate(now, usegmt=True).encode()
        return self._line


_date = _Date()


def status_line(status: int, reason: bytes = b"") -> bytes:
    """Write the first line of an answer."""
    return b"HTTP/1.1 %d %b\r\n" % (status, reason or _REASONS.get(status, b"Unknown"))


def connection_line(*, keeps: bool, is_1_0: bool) -> bytes:
    """Say what becomes of the connection where the client can't know by itself."""
    if not keeps:
        return b"Connection: close\r\n"
    return b"Connection: keep-alive\r\n" if is_1_0 else b""


def reply(
    status: int, body: bytes, *, keeps: bool, is_1_0: bool = False, more: bytes = b""
) -> bytes:
    """Write a whole answer of JSON. `more`: header lines."""
    return b"".join(
        (
            status_line(status),
            b"Server: warmd\r\n",
            _date.line(),
            b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body),
            more,
            connection_line(keeps=keeps, is_1_0=is_1_0),
            b"\r\n",
            body,
        )
    )


def refusal(
    refused: RefusedError, target: str, *, keeps: bool, is_1_0: bool, more: bytes = b""
) -> bytes:
    """Write the answer to a refused request in the dialect of the path that it asked for."""
    if refused.retry_after_s is not None:
        more += b"Retry-After: %d\r\n" % max(1, refused.retry_after_s)
    if refused.allow is not None:
        more += b"Allow: %b\r\n" % refused.allow.encode()
    if refused.status == 401:
        more += b"WWW-Authenticate: Bearer\r\n"
    body = dialect_of(target).body(refused)
    return reply(refused.status, body, keeps=keeps, is_1_0=is_1_0, more=more)
