"""The bytes of one client, read strictly as requests of HTTP/1.1."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import httptools

from warmd.gateway.errors import RefusedError
from warmd.gateway.head import HEAD_MAX, Fields, RequestHead, bad_http, request_head, too_long
from warmd.gateway.request import Request


class Source(Protocol):
    """Makes requests of heads."""

    def request_began(self, head: RequestHead) -> Request:
        """Make a request of a head; what is wrong with it is in `refused`."""

    def request_failed(self, refused: RefusedError) -> Request:
        """Make one of bytes that are none."""


class RequestReader:
    """Puts requests into `line` in their order; the last one may be incomplete still.

    `in_head`: a head has begun and isn't whole. `is_deaf`: whatever comes is of no interest any
    more, as where the next request begins isn't known.
    """

    __slots__ = (
        "_fields",
        "_head_bytes",
        "_parser",
        "_seen",
        "_source",
        "_target",
        "in_head",
        "is_deaf",
        "line",
    )

    def __init__(self, source: Source) -> None:
        self._source = source
        self._parser = httptools.HttpRequestParser(self)
        self._fields: Fields = []
        self._target = b""
        self._head_bytes = 0
        self._seen = 0  # bytes from the read on in which the last head began
        self.line: deque[Request] = deque()
        self.in_head = False
        self.is_deaf = False

    def feed(self, data: bytes) -> None:
        """Read what came; never raises."""
        was_in_head = self.in_head
        self._seen = len(data) + (self._seen if was_in_head else 0)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.fail(bad_http())
        if was_in_head and self.in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX:
                self.fail(too_long())

    def _parse(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        while rest:
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                if not self.in_head:
                    self.is_deaf = True  # a CONNECT, which is refused
                    return
                rest = memoryview(rest)[upgrade.args[0] :]
                self._go_on_without_upgrade()
            else:
                return

    # httptools

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        self.in_head = True
        self._head_bytes = 0

    def on_url(self, piece: bytes) -> None:
        """Take in a part of the request's target."""
        self._target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a field; a trailer, which comes behind the body, belongs to no next request."""
        if self.in_head:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Make a request of the head."""
        if self.is_deaf:
            return
        parser = self._parser
        if parser.should_upgrade() and parser.get_method() != b"CONNECT":
            return  # see `_go_on_without_upgrade`
        self.in_head = False
        fields, self._fields = self._fields, []
        target, self._target = self._target, b""
        try:
            if self._seen > HEAD_MAX and len(target) + _size(fields) > HEAD_MAX:
                raise too_long()
            head = request_head(
                parser.get_method(),
                target,
                parser.get_http_version(),
                fields,
                keeps_alive=parser.should_keep_alive(),
            )
        except RefusedError as refused:
            self.fail(refused)
            return
        self.line.append(self._source.request_began(head))

    def on_body(self, piece: bytes) -> None:
        """Take in a part of the body, unless nobody wants it."""
        if self.is_deaf or not self.line:
            return
        request = self.line[-1]
        if request.refused is None:
            try:
                request.body.add(piece)
            except RefusedError as refused:
                request.body.drop()
                request.refused = refused

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        if not self.is_deaf and self.line and self.line[-1].head is not None:
            self.line[-1].is_whole = True

    def _go_on_without_upgrade(self) -> None:
        """Read a request that offers another protocol as one that doesn't (RFC 9110, 7.8).

        The parser takes what follows such a head for the other protocol. Clients that would like
        to speak HTTP/2 offer it with every first request.
        """
        parser = self._parser
        method, version = parser.get_method(), parser.get_http_version().encode()
        kept = [
            b"%b: %b\r\n" % (name, b"close" if name == b"connection" else value)
            for name, value in self._fields
            if name != b"upgrade" and (name != b"connection" or b"close" in value.lower())
        ]
        line = b"%b %b HTTP/%b\r\n" % (method, self._target, version)
        self._fields, self._target = [], b""
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"".join((line, *kept, b"\r\n")))

    def fail(self, refused: RefusedError) -> None:
        """Read no more, as where the next request begins isn't known, or it comes too late."""
        self.is_deaf = True
        self.in_head = False
        last = self.line[-1] if self.line else None
        if last is None or (last.is_whole and last.keeps_alive):
            self.line.append(self._source.request_failed(refused))
        elif not last.is_whole and last.refused is None:
            last.refused = refused


def _size(fields: Fields) -> int:
    return sum(len(name) + len(value) + 4 for name, value in fields)
