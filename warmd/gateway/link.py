"""One connection to an engine: a request goes out whole, the answer comes back piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from warmd.gateway.answer import AnswerHead, BrokenAnswerError, answer_head
from warmd.gateway.head import HEAD_MAX
from warmd.gateway.naming import Body

_MOST_WAITING = 1 << 18  # bytes of a body that the kernel hasn't taken yet
# What the parser of chunks is told for a head: the real one is read already.
_CHUNKS_FOLLOW = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Asker(Protocol):
    """Who asked: hears of its answer in this order, and of nothing after `ended` or `broken`."""

    def answer_began(self, head: AnswerHead) -> None:
        """Hear of the answer's head; of those with 1xx nothing is heard."""

    def answer_goes_on(self, piece: bytes) -> None:
        """Hear a piece of the body; more may follow."""

    def answer_ended(self, piece: bytes) -> None:
        """Hear that the answer is whole with this piece, which may be empty."""

    def answer_broken(self, *, unheard: bool) -> None:
        """Hear that it breaks off.

        `unheard`: the connection had been kept since an earlier request, and was closed before it
        brought a single byte, as happens where the engine closes it just then.
        """


class EngineLink(asyncio.Protocol):
    """Carries one request after the other. Made by `Links`."""

    __slots__ = (
        "_asker",
        "_head",
        "_head_text",
        "_is_heard",
        "_is_over",
        "_is_paused",
        "_is_used",
        "_left",
        "_on_free",
        "_parser",
        "_pieces",
        "_transport",
        "free_since",
    )

    def __init__(self, on_free: Callable[[EngineLink], None]) -> None:
        """`on_free` is called when it may carry the next request, and when it has closed."""
        self._on_free = on_free
        self._parser: httptools.HttpResponseParser | None = None  # of the chunks that are coming
        self._transport: asyncio.Transport | None = None
        self._asker: Asker | None = None
        self._head: AnswerHead | None = None  # of the answer that is coming
        self._head_text = b""  # as far as it has come
        self._left = 0  # bytes of a body whose length is known
        self._pieces: list[bytes] = []
        self._is_heard = False  # a byte of this answer has come
        self._is_over = False  # its last chunk has come
        self._is_used = False  # it has carried a request before
        self._is_paused = False
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
        asker = self._asker
        if asker is None:
            self._break()
            return
        self._is_heard = True
        head = self._head
        if head is None:
            try:
                head, data = self._read_head(data)
            except BrokenAnswerError:
                self._break()
                return
            if head is None:
                return
            self._head = head
            asker.answer_began(head)
        if head.is_chunked:
            self._take_chunks(asker, head, data)
            return
        if head.length is not None:
            self._left = left = self._left - len(data)
            if left <= 0:
                rest = data[:left] if left else data
                self._end(rest, keeps=head.keeps_alive and left == 0)
                return
        if data:
            asker.answer_goes_on(data)

    def eof_received(self) -> None:
        """Take the connection's end for the answer's where nothing else marks it."""
        if self._is_until_closed:
            self._end(b"", keeps=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Be gone."""
        self._transport = None
        if exc is None and self._is_until_closed:
            self._end(b"", keeps=False)
        else:
            self._break()
        self._on_free(self)

    @property
    def _is_until_closed(self) -> bool:
        """Whether an answer is coming that ends with the connection."""
        head = self._head
        return head is not None and head.length is None and not head.is_chunked

    def _read_head(self, data: bytes) -> tuple[AnswerHead | None, bytes]:
        """Return the head, once it is whole, and what came behind it."""
        if self._head_text:
            data, self._head_text = self._head_text + data, b""
        while (end := data.find(b"\r\n\r\n", 0, HEAD_MAX)) >= 0:
            head = answer_head(data[:end])
            data = data[end + 4 :]
            if head.status == 101:
                raise BrokenAnswerError  # nobody asked for another protocol
            if head.status > 199:
                self._left = head.length or 0
                return head, data
        if len(data) >= HEAD_MAX:
            raise BrokenAnswerError
        self._head_text = data
        return None, b""

    def _take_chunks(self, asker: Asker, head: AnswerHead, data: bytes) -> None:
        parser = self._parser
        is_sound = True
        try:
            if parser is None:
                parser = self._parser = httptools.HttpResponseParser(self)
                parser.feed_data(_CHUNKS_FOLLOW)
            parser.feed_data(data)
        except httptools.HttpParserError:
            is_sound = False
        pieces = self._pieces
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._is_over:
            self._end(piece, keeps=head.keeps_alive and is_sound)
            return
        if piece:
            asker.answer_goes_on(piece)
        if not is_sound:
            self._break()

    def _end(self, piece: bytes, *, keeps: bool) -> None:
        asker, self._asker = self._asker, None
        self._head = self._parser = None
        self._is_over = False
        self._is_used = True
        if self._transport is not None:
            if keeps:
                self.resume()
                self._on_free(self)
            else:
                self._transport.close()
        if asker is not None:
            asker.answer_ended(piece)

    def _break(self) -> None:
        asker, self._asker = self._asker, None
        if self._transport is not None:
            self._transport.abort()
        if asker is not None:
            asker.answer_broken(unheard=self._is_used and not self._is_heard)

    # httptools, for chunks

    def on_message_begin(self) -> None:
        """Take nothing behind the end for another answer: nobody asked for one."""
        if self._is_over:
            raise BrokenAnswerError

    def on_body(self, piece: bytes) -> None:
        """Take a piece; all that one read brings goes on together."""
        if not self._is_over:
            self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """Note the last chunk's end."""
        self._is_over = True
