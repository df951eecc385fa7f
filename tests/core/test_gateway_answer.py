"""Heads of engines' answers: where their bodies end, what of them goes on, what is no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmd.gateway.answer import BrokenAnswerError, answer_head

OK = b"HTTP/1.1 200 OK"


def lines(*fields: bytes, first: bytes = OK) -> bytes:
    return b"\r\n".join((first, *fields))


def test_what_vllm_says_goes_on_as_it_stands() -> None:
    head = answer_head(
        lines(
            b"date: Thu, 01 Jan 2026 00:00:00 GMT",
            b"server: uvicorn",
            b"content-type: text/event-stream; charset=utf-8",
            b"Transfer-Encoding: chunked",
        )
    )
    assert (head.status, head.length, head.is_chunked, head.keeps_alive) == (200, None, True, True)
    assert head.is_stream
    assert head.passed_on == (
        b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
        b"content-type: text/event-stream; charset=utf-8\r\n"
    )


def test_hop_by_hop_fields_and_our_own_stay_behind() -> None:
    head = answer_head(
        lines(
            b"Connection: X-Private, close, content-length",
            b"X-Private:\tsecret",
            b"Keep-Alive: timeout=5",
            b"X-Warmd-Rung: hot",
            b"X-Empty:",
            b"X-Twice:  1 ",
            b"X-Twice: 2",
            b"Content-Length: 4",
            first=b"HTTP/1.1 422 So It Is",
        )
    )
    assert (head.status, head.length, head.keeps_alive) == (422, 4, False)
    assert head.passed_on == (
        b"HTTP/1.1 422 So It Is\r\nX-Empty: \r\nX-Twice: 1\r\nX-Twice: 2\r\nContent-Length: 4\r\n"
        b"Server: warmd\r\n"
    )


@pytest.mark.parametrize(
    ("text", "length", "is_chunked", "keeps"),
    [
        (lines(), None, False, True),
        (lines(b"content-length: 0"), 0, False, True),
        (lines(b"transfer-encoding: Chunked", first=b"HTTP/1.1 204 No Content"), 0, False, True),
        (lines(first=b"HTTP/1.1 304"), 0, False, True),
        (lines(first=b"HTTP/1.1 103 Early Hints"), 0, False, True),
        (lines(b"content-length: 3", first=b"HTTP/1.0 200 OK"), 3, False, False),
        (lines(b"Connection: Keep-Alive", first=b"HTTP/1.0 200 OK"), None, False, True),
    ],
)
def test_where_the_body_ends(
    text: bytes, length: int | None, is_chunked: bool, keeps: bool
) -> None:
    head = answer_head(text)
    assert (head.length, head.is_chunked, head.keeps_alive) == (length, is_chunked, keeps)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/2 200 OK",
        b"HTTP/1.1  200 OK",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.1 200 O\nK",
        lines(b"no colon"),
        lines(b": no name"),
        lines(b"x : y"),
        lines(b"x: a", b" folded"),
        lines(b"x: a\nb: c"),
        lines(b"x: a\rb"),
        lines(b"x: a\x00"),
        lines(b"content-length: 1", b"content-length: 1"),
        lines(b"content-length: 1, 1"),
        lines(b"content-length: -1"),
        lines(b"content-length: 1_0"),
        lines(b"content-length:"),
        lines(b"content-length: " + b"9" * 19),
        lines(b"content-length: 1", b"transfer-encoding: chunked"),
        lines(b"transfer-encoding: gzip, chunked"),
        lines(b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
        lines(b"transfer-encoding: \x0bchunked"),
    ],
)
def test_what_could_be_mistaken_is_no_answer(text: bytes) -> None:
    with pytest.raises(BrokenAnswerError):
        answer_head(text)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_byte_of_a_field_can_begin_another_line(name: bytes, value: bytes) -> None:
    try:
        head = answer_head(lines(name + b":" + value))
    except BrokenAnswerError:
        return
    *kept, rest = head.passed_on.split(b"\r\n")
    assert rest == b""
    assert len(kept) <= 3
    assert all(b"\n" not in line and b"\r" not in line for line in kept)
