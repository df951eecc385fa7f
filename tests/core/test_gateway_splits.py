"""However a network cuts the bytes of requests and answers, they are the same ones."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmd.gateway.answer import AnswerHead
from warmd.gateway.body import BodyBudget, HeldBody
from warmd.gateway.errors import RefusedError
from warmd.gateway.head import RequestHead
from warmd.gateway.link import EngineLink
from warmd.gateway.reading import RequestReader
from warmd.gateway.request import Request

CUTS = st.lists(st.integers(0, 10_000), max_size=12)
PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[one:other] for one, other in itertools.pairwise(at)]


def chunked(pieces: list[bytes], last: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%X;x=y\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + last


class Taken:
    """Makes requests as the gateway does, of whatever length."""

    def __init__(self) -> None:
        self.budget = BodyBudget(1 << 20)

    def request_began(self, head: RequestHead) -> Request:
        return Request(head, 0.0, HeldBody(self.budget, 1 << 20))

    def request_failed(self, refused: RefusedError) -> Request:
        return Request(None, 0.0, HeldBody(self.budget, 0), refused=refused)


def read(pieces: list[bytes]) -> list[tuple[str, list[tuple[bytes, bytes]], bytes, bool]]:
    reader = RequestReader(Taken())
    for piece in pieces:
        if not reader.is_deaf:
            reader.feed(piece)
    return [_seen(each) for each in reader.line]


def _seen(request: Request) -> tuple[str, list[tuple[bytes, bytes]], bytes, bool]:
    fields = [] if request.head is None else request.head.fields
    is_sound = request.is_whole and request.refused is None
    return request.path, fields, bytes(request.body.data), is_sound


@given(CUTS, st.lists(st.tuples(PIECES, st.booleans()), min_size=1, max_size=4), st.booleans())
def test_requests_are_the_same_however_they_are_cut(
    cuts: list[int], bodies: list[tuple[list[bytes], bool]], offers: bool
) -> None:
    offer = b"Upgrade: h2c\r\nConnection: Upgrade\r\n" if offers else b""
    stream = b""
    for number, (pieces, in_chunks) in enumerate(bodies):
        body = b"".join(pieces)
        framing = (
            b"Transfer-Encoding: chunked\r\n"
            if in_chunks
            else b"Content-Length: %d\r\n" % len(body)
        )
        stream += b"POST /%d HTTP/1.1\r\nHost: g\r\nX-N: %d\r\n%b" % (number, number, framing)
        stream += offer + b"\r\n" + (chunked(pieces, b"0\r\nX-T: t\r\n\r\n") if in_chunks else body)
    whole = read([stream])
    assert [(path, body, sound) for path, _, body, sound in whole] == [
        (f"/{number}", b"".join(pieces), True) for number, (pieces, _) in enumerate(bodies)
    ]
    assert all((b"x-t", b"t") not in fields for _, fields, _, _ in whole)
    assert read(pieces_of(stream, cuts)) == whole


@settings(max_examples=300)
@given(CUTS, st.binary(max_size=200), st.integers(0, 120), st.integers(0, 20))
def test_whatever_comes_ends_in_requests_or_a_refusal(
    cuts: list[int], noise: bytes, at: int, length: int
) -> None:
    """The parser's fuzz: noise alone, and noise put into a sound request."""
    sound = (
        b"POST /x HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    )
    for stream in (noise, sound[:at] + noise + sound[at + length :]):
        whole, cut = read([stream]), read(pieces_of(stream, cuts))
        assert [each[3] for each in cut] == [each[3] for each in whole]
        assert [each for each in cut if each[3]] == [each for each in whole if each[3]]


@dataclass
class Heard:
    """An asker that keeps what it hears."""

    head: AnswerHead | None = None
    body: bytes = b""
    ended: bool = False
    broken: list[bool] = field(default_factory=list)

    def answer_began(self, head: AnswerHead) -> None:
        assert self.head is None
        self.head = head

    def answer_goes_on(self, piece: bytes) -> None:
        assert self.head is not None
        assert not self.ended
        self.body += piece

    def answer_ended(self, piece: bytes) -> None:
        assert not self.ended
        self.body += piece
        self.ended = True

    def answer_broken(self, *, unheard: bool) -> None:
        self.broken.append(unheard)


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.is_shut = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def is_closing(self) -> bool:
        return self.is_shut

    def close(self) -> None:
        self.is_shut = True

    def abort(self) -> None:
        self.is_shut = True


def a_link() -> tuple[EngineLink, Wire, list[EngineLink]]:
    free: list[EngineLink] = []
    link, wire = EngineLink(free.append), Wire()
    link.connection_made(wire)
    return link, wire, free


@given(CUTS, PIECES, st.sampled_from(("length", "chunks", "close")), st.booleans())
def test_answers_are_the_same_however_they_are_cut(
    cuts: list[int], pieces: list[bytes], framing: str, early: bool
) -> None:
    body = b"".join(pieces)
    head = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" if early else b""
    head += b"HTTP/1.1 200 Fine\r\nX-A: b\r\n"
    match framing:
        case "length":
            stream = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        case "chunks":
            last = b"0\r\nX-T: t\r\n\r\n"
            stream = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(pieces, last)
        case _:
            stream = head + b"\r\n" + body
    link, wire, free = a_link()
    rounds = 1 if framing == "close" else 2  # a kept connection carries the next one
    for number in range(rounds):
        heard = Heard()
        link.ask(heard, b"head", b"body")
        for piece in pieces_of(stream, cuts):
            link.data_received(piece)
        if framing == "close":
            assert not heard.ended
            link.eof_received()
        assert heard.head is not None
        assert (heard.head.status, heard.body) == (200, body)
        assert heard.head.passed_on.startswith(b"HTTP/1.1 200 Fine\r\nX-A: b\r\n")
        assert b"X-T" not in heard.head.passed_on
        assert heard.ended
        assert not heard.broken
        assert len(free) == (0 if framing == "close" else number + 1)
    assert wire.sent == b"headbody" * rounds
    assert wire.is_shut == (framing == "close")


@pytest.mark.parametrize("cut", range(1, 40))
def test_an_answer_that_breaks_off_is_no_whole_one(cut: int) -> None:
    stream = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"[:cut]
        if cut < 38
        else (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
    )
    link, _, _ = a_link()
    heard = Heard()
    link.ask(heard, b"", b"")
    link.data_received(stream)
    link.connection_lost(None)
    assert not heard.ended
    assert heard.broken == [False]


def test_a_kept_connection_that_the_engine_closes_just_then_is_told_apart() -> None:
    link, _, _ = a_link()
    first, second = Heard(), Heard()
    link.ask(first, b"", b"")
    link.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert first.ended
    link.ask(second, b"", b"")
    link.connection_lost(ConnectionResetError())
    assert second.broken == [True]


def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    link, wire, _ = a_link()
    link.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert wire.is_shut
