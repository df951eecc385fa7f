"""One connection to an engine: a request goes out whole, the answer comes back piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from warmd.gateway.head import Fields
from warmd.gateway.naming import Body

_MOST_WAITING = 1 << 18  # bytes of a body that the kernel hasn't taken yet


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The head of an engine's answer. `length`: of its body, None where only its end tells."""

    status: int
    reason: bytes
    fields: Fields
    length: int | None


class Asker(Protocol):
    """Who asked: hears of its answer in this order, and of nothing after `ended` or `broken`."""

    def answer_began(self, head: AnswerHead) -> None:
        """Hear of the answer's head; of those with 1xx nothing is heard."""

    def answer_goes_on(self, piece: bytes) -> None:
        """Hear a piece of the body."""

    def answer_ended(self) -> None:
        """Hear that the answer is whole."""

    def answer_broken(self, *, unheard: bool) -> None:
        """Hear that it breaks off.

        `unheard`: the connection had been kept since an earlier request, and was closed before it
        brought a single byte, as happens where the engine closes it just then.
        """


class EngineLink(asyncio.Protocol):
    """Carries one request after the other. Made by `Links`."""

    __slots__ = (
        "_asker",
        "_fields",
        "_has_begun",
        "_head",
        "_is_heard",
        "_is_over",
        "_is_paused",
        "_is_used",
        "_keeps",
        "_on_free",
        "_parser",
        "_pieces",
        "_reason",
        "_transport",
        "free_since",
    )

    def __init__(self, on_free: Callable[[EngineLink], None]) -> None:
        """`on_free` is called when it may carry the next request, and when it has closed."""
        self._on_free = on_free
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._asker: Asker | None = None
        self._head: AnswerHead | None = None  # of the answer that is coming
        self._fields: Fields = []
        self._pieces: list[bytes] = []
        self._reason = b""
        self._has_begun = False  # the asker knows the head
        self._is_heard = False  # a byte of this answer has come
        self._is_over = False
        self._is_used = False  # it has carried a request before
        self._is_paused = False
        self._keeps = False
        self.free_since = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, asker: Asker, head: bytes, body: Body) -> None:
        """Send a request; `asker` hears what comes of it."""
        transport = self._transport
        assert transport is not None  # noqa: S101  # who asks has looked
        self._asker = asker
        self._is_heard = False
        if len(body) < _MOST_WAITING:
            transport.write(head + body)
        else:
            transport.writelines((head, body))

    def pause(self) -> None:
        """Take no more of the answer for now."""
        if self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Take more of the answer."""
        if self._transport is not None and self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def drop(self) -> None:
        """Close it at once: the engine sees that nobody waits for its answer."""
        self._asker = None
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be there."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        """Pass on what came; what nobody asked for breaks the link."""
        if self._asker is None:
            self._break()
            return
        self._is_heard = True
        is_sound = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            is_sound = False
        self._deliver()
        if self._is_over:
            self._end(keeps=is_sound and self._keeps)
        elif not is_sound:
            self._break()

    def eof_received(self) -> None:
        """Take the connection's end for the answer's where nothing else marks it."""
        if self._is_until_closed:
            self._end(keeps=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Be gone."""
        self._transport = None
        if exc is None and self._is_until_closed:
            self._end(keeps=False)
        else:
            self._break()
        self._on_free(self)

    @property
    def _is_until_closed(self) -> bool:
        """Whether an answer is coming that ends with the connection."""
        if self._head is None or self._head.length is not None:
            return False
        return all(name != b"transfer-encoding" for name, _ in self._head.fields)

    def _deliver(self) -> None:
        if self._asker is not None and self._head is not None and not self._has_begun:
            self._has_begun = True
            self._asker.answer_began(self._head)
        pieces = self._pieces
        if pieces:
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            if self._asker is not None:
                self._asker.answer_goes_on(piece)

    def _end(self, *, keeps: bool) -> None:
        asker, self._asker = self._asker, None
        self._head = None
        self._has_begun = self._is_over = False
        self._is_used = True
        if self._transport is not None:
            if keeps:
                self.resume()
                self._on_free(self)
            else:
                self._transport.close()
        if asker is not None:
            asker.answer_ended()

    def _break(self) -> None:
        asker, self._asker = self._asker, None
        if self._transport is not None:
            self._transport.abort()
        if asker is not None:
            asker.answer_broken(unheard=self._is_used and not self._is_heard)

    # httptools

    def on_status(self, reason: bytes) -> None:
        """Take the words behind the status."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field, unless it comes behind the body."""
        if self._head is None:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Take the head, unless it is one of those that only announce another."""
        status = self._parser.get_status_code()
        fields, self._fields = self._fields, []
        reason, self._reason = self._reason, b""
        if status < 200:
            return
        length = next((int(value) for name, value in fields if name == b"content-length"), None)
        if status in (204, 304):
            length = 0
        self._head = AnswerHead(status, reason, fields, length)

    def on_body(self, piece: bytes) -> None:
        """Take a piece; all that one read brings goes on together."""
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """Note the end of an answer."""
        if self._head is not None:
            self._is_over = True
            self._keeps = self._parser.should_keep_alive()
