"""Heads: what is refused because two servers could read it differently, and what goes through."""

from __future__ import annotations

import pytest

from warmd.gateway.errors import RefusedError
from warmd.gateway.head import (
    FIELDS_MAX,
    Fields,
    RequestHead,
    engine_head,
    request_head,
    request_id,
)


def head(*fields: tuple[bytes, bytes], version: str = "1.1") -> RequestHead:
    host = [] if version == "1.0" else [(b"host", b"g")]
    return request_head(b"POST", b"/x", version, [*host, *fields], keeps_alive=True)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([(b"content-length", b"5"), (b"content-length", b"5")], 400),
        ([(b"content-length", b"5, 5")], 400),
        ([(b"content-length", b"+5")], 400),
        ([(b"content-length", "٣".encode())], 400),
        ([(b"content-length", b"9" * 19)], 400),
        ([(b"content-length", b"5"), (b"transfer-encoding", b"chunked")], 400),
        ([(b"transfer-encoding", b"chunked"), (b"content-length", b"5")], 400),
        ([(b"transfer-encoding", b"gzip, chunked")], 400),
        ([(b"transfer-encoding", b"chunked")] * 2, 400),
        ([(b"host", b"other")], 400),
        ([(b"expect", b"a pony")], 417),
        ([(b"x", b"y")] * FIELDS_MAX, 431),
    ],
)
def test_what_leaves_a_doubt_is_refused(fields: Fields, status: int) -> None:
    with pytest.raises(RefusedError) as refused:
        head(*fields)
    assert refused.value.status == status


def test_framing_of_what_is_sound() -> None:
    assert head().length == 0
    assert head((b"content-length", b"007")).length == 7
    assert head((b"transfer-encoding", b"Chunked")).length is None
    assert head((b"expect", b"100-Continue")).expects
    assert not head((b"expect", b"100-continue"), version="1.0").expects
    for version in ("0.9", "1.2", "2.0"):
        with pytest.raises(RefusedError, match="not spoken"):
            head(version=version)
    with pytest.raises(RefusedError, match="one Host"):
        request_head(b"GET", b"/", "1.1", [], keeps_alive=True)
    with pytest.raises(RefusedError, match="not `chunked`"):
        head((b"transfer-encoding", b"chunked"), version="1.0")


def test_hop_by_hop_fields_stay_behind() -> None:
    fields = [
        (b"connection", b"close"),
        (b"connection", b"X-Hop,x-b, content-length"),
        (b"x-hop", b"1"),
        (b"te", b"t"),
        (b"authorization", b"Bearer secret"),
        (b"x-api-key", b"secret"),
        (b"content-length", b"9"),
        (b"c", b"a"),
    ]
    sent = engine_head("/v1/completions", fields, 7, "id-1")
    assert sent == (
        b"POST /v1/completions HTTP/1.1\r\nHost: engine\r\nContent-Length: 7\r\n"
        b"X-Request-Id: id-1\r\nc: a\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("given", "taken"),
    [(b"abc-1", "abc-1"), (b"", None), (b"a b", None), (b"\xff", None), (b"x" * 129, None)],
)
def test_only_a_sane_id_of_a_client_is_taken_over(given: bytes, taken: str | None) -> None:
    assert request_id(head((b"x-request-id", given))) == taken
