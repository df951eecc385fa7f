"""No request hides inside another: what a client sends as one is one for the engine, or refused.

The techniques are those of the published work on request smuggling (CL.TE, TE.CL, TE.TE, lengths
that disagree, chunks that two parsers read differently). What reaches the engine is judged by h11.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from gateway_rig import DEADLINE_S, FakeEngine, Rig, chat, on_uvloop
from listening_post import ListeningPost

from warmd.gateway import GatewayLimits
from warmd.gateway.paths import ENDPOINTS

PATH = b"/v1/chat/completions"
BODY = chat()
HIDDEN = (
    b"POST /v1/completions HTTP/1.1\r\nHost: g\r\nX-Hidden: 1\r\nContent-Length: %d\r\n\r\n%s"
    % (len(BODY), BODY)
)
CHUNK = b"%x\r\n%s\r\n" % (len(BODY), BODY)
LAST = b"0\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def post(fields: bytes, body: bytes, line: bytes = b"POST " + PATH + b" HTTP/1.1\r\n") -> bytes:
    return line + b"Host: g\r\n" + fields + b"\r\n" + body


AMBIGUOUS = {
    # both lengths, in either order: one side believes one, one the other
    "CL.TE": post(b"Content-Length: 5\r\n" + CHUNKED, LAST + HIDDEN),
    "TE.CL": post(CHUNKED + b"Content-Length: 4\r\n", b"5c\r\n" + HIDDEN + LAST),
    "CL.TE, right both ways": post(LENGTH + CHUNKED, CHUNK + LAST),
    "CL.0 with TE": post(b"Content-Length: 0\r\n" + CHUNKED, HIDDEN + LAST),
    # Transfer-Encoding that one side doesn't recognise
    "TE: xchunked": post(LENGTH + b"Transfer-Encoding: xchunked\r\n", BODY),
    "TE with a space before the colon": post(b"Transfer-Encoding : chunked\r\n", CHUNK + LAST),
    "TE with a tab before the colon": post(b"Transfer-Encoding\t: chunked\r\n", CHUNK + LAST),
    "TE after a space": post(LENGTH + b" Transfer-Encoding: chunked\r\n", CHUNK + LAST),
    "TE in a folded line": post(LENGTH + b"X: y\r\n Transfer-Encoding: chunked\r\n", BODY),
    "TE folded itself": post(b"Transfer-Encoding:\r\n chunked\r\n", CHUNK + LAST),
    "TE after a vertical tab": post(b"Transfer-Encoding: \x0bchunked\r\n", CHUNK + LAST),
    "TE after a bare LF": post(LENGTH + b"X: y\nTransfer-Encoding: chunked\r\n", BODY),
    "TE after a bare CR": post(LENGTH + b"X: y\rTransfer-Encoding: chunked\r\n", BODY),
    "TE with a NUL": post(b"Transfer-Encoding: chunked\x00\r\n", CHUNK + LAST),
    "TE in quotes": post(b'Transfer-Encoding: "chunked"\r\n', CHUNK + LAST),
    "TE: identity": post(LENGTH + b"Transfer-Encoding: identity\r\n", BODY),
    "TE: identity alone": post(b"Transfer-Encoding: identity\r\n", BODY),
    "TE: chunked, identity": post(b"Transfer-Encoding: chunked, identity\r\n", CHUNK + LAST),
    "TE: identity, chunked": post(b"Transfer-Encoding: identity, chunked\r\n", CHUNK + LAST),
    "TE: gzip, chunked": post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNK + LAST),
    "TE: chunked, chunked": post(b"Transfer-Encoding: chunked, chunked\r\n", CHUNK + LAST),
    "TE twice": post(CHUNKED + CHUNKED, CHUNK + LAST),
    "TE twice, one odd": post(CHUNKED + b"Transfer-Encoding: cow\r\n", CHUNK + LAST),
    "TE with a parameter": post(b"Transfer-Encoding: chunked;q=1\r\n", CHUNK + LAST),
    "TE empty": post(LENGTH + b"Transfer-Encoding:\r\n", BODY),
    "TE under HTTP/1.0": post(CHUNKED, CHUNK + LAST, b"POST " + PATH + b" HTTP/1.0\r\n"),
    # Content-Length that two readers understand differently
    "CL twice": post(LENGTH + b"Content-Length: 0\r\n", BODY),
    "CL twice, the other way": post(b"Content-Length: 0\r\n" + LENGTH, BODY),
    "CL in a list": post(b"Content-Length: %d, 0\r\n" % len(BODY), BODY),
    "CL with a plus": post(b"Content-Length: +%d\r\n" % len(BODY), BODY),
    "CL negative": post(b"Content-Length: -1\r\n", BODY),
    "CL in hex": post(b"Content-Length: 0x%x\r\n" % len(BODY), BODY),
    "CL with an underscore": post(b"Content-Length: 1_0\r\n", BODY),
    "CL with a point": post(b"Content-Length: %d.0\r\n" % len(BODY), BODY),
    "CL in two words": post(b"Content-Length: %d 0\r\n" % len(BODY), BODY),
    "CL empty": post(b"Content-Length:\r\n", BODY),
    "CL beyond 64 bits": post(b"Content-Length: 18446744073709551617\r\n", BODY),
    "CL with a space before the colon": post(b"Content-Length : %d\r\n" % len(BODY), BODY),
    "CL in other digits": post("Content-Length: ٣\r\n".encode(), BODY),
    # chunks
    "chunk size with 0x": post(CHUNKED, b"0x%x\r\n%s\r\n" % (len(BODY), BODY) + LAST),
    "chunk size with a plus": post(CHUNKED, b"+" + CHUNK + LAST),
    "chunk size negative": post(CHUNKED, b"-1\r\n" + LAST),
    "chunk size after a space": post(CHUNKED, b" " + CHUNK + LAST),
    "chunk size with an underscore": post(CHUNKED, b"1_0\r\n" + b"x" * 16 + b"\r\n" + LAST),
    "chunk size beyond 64 bits": post(CHUNKED, b"1" + b"0" * 16 + b"\r\n" + BODY + LAST),
    "chunk size empty": post(CHUNKED, b"\r\n" + BODY + b"\r\n" + LAST),
    "chunk line ends in LF": post(CHUNKED, CHUNK.replace(b"\r\n", b"\n", 1) + LAST),
    "chunk line ends in CR": post(CHUNKED, CHUNK.replace(b"\r\n", b"\r", 1) + LAST),
    "chunk data longer than said": post(CHUNKED, b"2\r\n" + BODY + b"\r\n" + LAST),
    "chunk data without an end": post(CHUNKED, b"%x\r\n%s" % (len(BODY), BODY) + LAST),
    "chunk extension with LF": post(CHUNKED, b"%x;a\nb\r\n%s\r\n" % (len(BODY), BODY) + LAST),
    "chunk extension with CR": post(CHUNKED, b"%x;a\rb\r\n%s\r\n" % (len(BODY), BODY) + LAST),
    "last chunk ends in LF": post(CHUNKED, CHUNK + b"0\n\n" + HIDDEN),
    "trailer with a bare LF": post(CHUNKED, CHUNK + b"0\r\nX: y\n\r\n" + HIDDEN),
    "trailer that claims a length": post(CHUNKED, CHUNK + b"0\r\nContent-Length: 99\r\n\r\n"),
    # heads
    "header without a colon": post(LENGTH + b"Nonsense\r\n", BODY),
    "header without a name": post(LENGTH + b": y\r\n", BODY),
    "header name with a space": post(LENGTH + b"X Y: z\r\n", BODY),
    "header name with a bracket": post(LENGTH + b"X(Y: z\r\n", BODY),
    "header value with a NUL": post(LENGTH + b"X: a\x00b\r\n", BODY),
    "header value with a CR": post(LENGTH + b"X: a\rb\r\n", BODY),
    "first header after a space": b"POST " + PATH + b" HTTP/1.1\r\n Host: g\r\n" + LENGTH + b"\r\n",
    "head of LF alone": post(LENGTH, BODY).replace(b"\r\n", b"\n"),
    "two hosts": post(LENGTH + b"Host: other\r\n", BODY),
    "no host": b"POST " + PATH + b" HTTP/1.1\r\n" + LENGTH + b"\r\n" + BODY,
    "space in the target": post(LENGTH, BODY, b"POST " + PATH + b" x HTTP/1.1\r\n"),
    "tab in the request line": post(LENGTH, BODY, b"POST\t" + PATH + b" HTTP/1.1\r\n"),
    "HTTP/0.9": b"POST " + PATH + b"\r\n\r\n" + HIDDEN,
    "HTTP/1.2": post(LENGTH, BODY, b"POST " + PATH + b" HTTP/1.2\r\n"),
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http in small letters": post(LENGTH, BODY, b"POST " + PATH + b" http/1.1\r\n"),
    "method in small letters": post(LENGTH, BODY, b"post " + PATH + b" HTTP/1.1\r\n"),
}
"""Each must be refused, and the connection closed, whatever stands behind it."""

PLAIN = {
    "one": (post(LENGTH, BODY), 1),
    "chunked": (post(CHUNKED, CHUNK + LAST), 1),
    "chunked in capitals": (post(b"TRANSFER-ENCODING: Chunked\r\n", CHUNK + LAST), 1),
    "chunks with an extension and a trailer": (
        post(CHUNKED, b"%X;a=b\r\n%s\r\n" % (len(BODY), BODY) + b"0\r\nX-T: y\r\n\r\n"),
        1,
    ),
    "a trailer that would change the next request": (
        post(CHUNKED, CHUNK + b"0\r\nX-Trailer: y\r\nUpgrade: h2c\r\n\r\n" + post(LENGTH, BODY)),
        2,
    ),
    "two, one behind the other": (post(LENGTH, BODY) * 2, 2),
    "a body that looks like a request": (
        post(b"Content-Length: %d\r\n" % len(chat(pad=HIDDEN.decode())), chat(pad=HIDDEN.decode())),
        1,
    ),
    "an empty line before the request": (b"\r\n" + post(LENGTH, BODY), 1),
    "a length with zeros before it": (post(b"Content-Length: 000%d\r\n" % len(BODY), BODY), 1),
    "an upgrade that is not taken": (
        post(LENGTH + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n", BODY),
        1,
    ),
    "Connection that names what matters": (
        post(LENGTH + b"Connection: content-length, host, x\r\nX: y\r\n", BODY),
        1,
    ),
    "two spaces in the request line": (
        post(LENGTH, BODY, b"POST  " + PATH + b" HTTP/1.1\r\n"),
        1,
    ),
    "an underscore is no hyphen": (post(LENGTH + b"Content_Length: 0\r\n", BODY), 1),
}
"""Each holds so many requests, and all of them reach an engine."""


@asynccontextmanager
async def listening(folder: Path) -> AsyncIterator[tuple[Rig, ListeningPost]]:
    limits = GatewayLimits(header_timeout=0.4, body_timeout=0.4)
    async with Rig(folder, limits=limits) as rig:
        post_ = ListeningPost(folder / "post.sock")
        await post_.start()
        rig.models.engines = [FakeEngine(post_.path)]
        try:
            yield rig, post_
        finally:
            await post_.close()


async def exchange(rig: Rig, sent: bytes) -> list[int]:
    """Send, say that no more will come, and return the statuses of all answers."""
    raw = await rig.raw()
    await raw.send(sent)
    got = bytearray()
    async with asyncio.timeout(DEADLINE_S):
        try:
            while chunk := await raw.reader.read(65536):
                got += chunk
        except ConnectionError:
            pass
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", got) if status != b"100"]


def judge(heard: ListeningPost) -> None:
    """Whatever came is whole HTTP, on a path of the table, with one length and no doubt."""
    assert heard.wrong == []
    for request in heard.requests:
        assert request.method == b"POST"
        assert request.target.decode() in ENDPOINTS
        assert request.field(b"content-length") == [b"%d" % len(request.body)]
        assert request.field(b"transfer-encoding") == []
        assert request.field(b"upgrade") == []
        assert len(request.field(b"host")) == 1
        assert json.loads(request.body)["model"] == "tiny"


@pytest.mark.parametrize("name", AMBIGUOUS)
@on_uvloop
async def test_what_can_be_read_in_two_ways_is_refused(tmp_path: Path, name: str) -> None:
    async with listening(tmp_path) as (rig, heard):
        statuses = await exchange(rig, AMBIGUOUS[name] + HIDDEN)
        assert statuses in ([400], [408], [])
        assert heard.requests == []
        judge(heard)


@pytest.mark.parametrize("name", PLAIN)
@on_uvloop
async def test_what_can_be_read_in_one_way_arrives_as_one(tmp_path: Path, name: str) -> None:
    sent, count = PLAIN[name]
    async with listening(tmp_path) as (rig, heard):
        last = post(LENGTH + b"Connection: close\r\n", BODY)
        assert await exchange(rig, sent + last) == [200] * (count + 1)
        assert len(heard.requests) == count + 1
        judge(heard)


@pytest.mark.parametrize("seed", range(3))
@on_uvloop
async def test_a_thousand_splices_put_no_second_request_on_an_engine(
    tmp_path: Path, seed: int
) -> None:
    """Pieces of all of the above, spliced: never does an engine see more than was answered."""
    chance = random.Random(seed)
    heads = list(AMBIGUOUS.values()) + [each for each, _ in PLAIN.values()]

    def splice() -> bytes:
        one, other = chance.sample(heads, 2)
        at, end = chance.randrange(len(one)), chance.randrange(len(other))
        return one[:at] + other[end:] + post(LENGTH + b"Connection: close\r\n", BODY)

    async with listening(tmp_path) as (rig, heard):
        for _ in range(10):
            answers = await asyncio.gather(*(exchange(rig, splice()) for _ in range(33)))
            judge(heard)
            assert len(heard.requests) == sum(each.count(200) for each in answers)
            heard.forget()
