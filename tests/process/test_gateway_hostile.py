"""What strangers send: each gets a clear error or a close, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from pathlib import Path

import psutil
import pytest
from aiohttp import web
from gateway_rig import DEADLINE_S, MODEL, Rig, chat, head, on_uvloop, until

from warmd.gateway import GatewayLimits

CHAT = "/v1/chat/completions"
BOTH_LENGTHS = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "target",
    [
        "/sleep",
        "/wake_up?tags=weights",
        "/collective_rpc",
        "/metrics",
        "/health",
        "/docs",
        "/",
        "*",
        "//v1/chat/completions",
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "/v1/chat/completions/../../sleep",
        "/v1/chat/completions/%2e%2e/%2e%2e/sleep",
        "/v1/%63hat/completions",
        "/v1%2fchat/completions",
        "/v1/chat/completions;/sleep",
        "/v1/chat/completions#/sleep",
        "/V1/chat/completions",
        "http://engine/sleep",
        "http://engine/v1/chat/completions",
    ],
)
@on_uvloop
async def test_no_path_beside_the_table_reaches_an_engine(tmp_path: Path, target: str) -> None:
    async with Rig(tmp_path) as rig:
        raw = await rig.raw()
        body = chat()
        await raw.send(head(target, len(body)) + body)
        status, _, got = await raw.response()
        assert status in (400, 404)
        assert json.loads(got)["error"]["type"] == "invalid_request_error"
        assert rig.engine.asked == []


@on_uvloop
async def test_wrong_method_says_the_right_one(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        raw = await rig.raw()
        for method, path, allow in (("GET", CHAT, "POST"), ("DELETE", "/v1/models/tiny", "GET")):
            await raw.send(f"{method} {path} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
            status, headers, _ = await raw.response()
            assert (status, headers["allow"]) == (405, allow)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\x00" * 100, 400),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/9.9\r\nHost: g\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: g\r\n: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: g\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: g\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: g\r\n" + b"X: 1\r\n" * 5000 + b"\r\n", 431),
        (b"POST /v1/completions HTTP/1.1\r\nHost: g\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nHost: g\r\nContent-Length: 9" + b"9" * 30, 400),
        (b"POST /score HTTP/1.1\r\nHost: g\r\n" + BOTH_LENGTHS, 400),
        (
            b"POST /v1/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
        (b"CONNECT engine:80 HTTP/1.1\r\nHost: g\r\n\r\n", 404),
        (b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: g\r\nExpect: a pony\r\n\r\n", 417),
    ],
)
@on_uvloop
async def test_bad_http_gets_a_short_answer(tmp_path: Path, sent: bytes, status: int) -> None:
    async with Rig(tmp_path) as rig:
        raw = await rig.raw()
        await raw.send(sent)
        got, headers, body = await raw.response()
        assert got == status
        assert headers["server"] == "warmd"
        assert json.loads(body)["error"]["message"]
        assert len(body) < 300


@pytest.mark.parametrize("value", [b"\xff\xfe", b"\xed\xa0\x80", b"caf\xe9"])
@on_uvloop
async def test_header_bytes_that_are_no_text_hurt_nobody(tmp_path: Path, value: bytes) -> None:
    async with Rig(tmp_path) as rig:
        raw = await rig.raw()
        body = chat()
        await raw.send(head(CHAT, len(body))[:-2] + b"X-Odd: " + value + b"\r\n\r\n" + body)
        assert (await raw.response())[0] == 200


@pytest.mark.parametrize(
    ("body", "more", "status", "code"),
    [
        (b"", "", 400, "bad_json"),
        (b"{", "", 400, "bad_json"),
        (b"[" * 100_000, "", 400, "bad_json"),
        (b"[]", "", 400, "bad_json"),
        (b"{}", "", 400, "model_missing"),
        (b'{"model": 7}', "", 400, None),
        (b'{"model": "\xff"}', "", 400, "bad_json"),
        (chat("gpt-9"), "", 404, "model_not_found"),
        (chat(), "Content-Encoding: gzip\r\n", 415, "unsupported_encoding"),
        (b'{"a":[' + b"{}," * 3_000_000 + b"{}]}", "", 413, "body_too_large"),
    ],
)
@on_uvloop
async def test_bodies_that_name_no_model(
    tmp_path: Path, body: bytes, more: str, status: int, code: str | None
) -> None:
    async with Rig(tmp_path) as rig:
        for path in (CHAT, "/v1/messages"):
            raw = await rig.raw()
            await raw.post(body, path, more)
            got, _, answer = await raw.response()
            assert got == status
            error = json.loads(answer)["error"]
            if path == CHAT:
                assert error["code"] == code
            if status == 404 or code == "model_missing":
                assert MODEL in error["message"]
        assert rig.records == []
        assert rig.models.leases == []


@on_uvloop
async def test_connection_without_a_head_is_closed(tmp_path: Path) -> None:
    async with Rig(tmp_path, limits=GatewayLimits(header_timeout=0.2)) as rig:
        silent, slow, kept = [await rig.raw() for _ in range(3)]
        await kept.post(chat())
        await kept.response()
        await slow.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost:")
        dripping = asyncio.create_task(drip(slow.writer, b"a" * 1000))
        assert await silent.rest() == b""
        assert (await slow.rest()).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()
        # A connection that has had its answer may idle, but its next head has the same deadline.
        await kept.send(b"G")
        assert (await kept.rest()).startswith(b"HTTP/1.1 408 ")


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    for byte in data:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)


@on_uvloop
async def test_idle_connection_outlives_the_head_deadline(tmp_path: Path) -> None:
    async with Rig(tmp_path, limits=GatewayLimits(header_timeout=0.1)) as rig:
        kept, silent = await rig.raw(), await rig.raw()
        await kept.post(chat())
        await kept.response()
        assert await silent.rest() == b""  # so the deadline has passed
        await kept.post(chat())
        assert (await kept.response())[0] == 200


@on_uvloop
async def test_slow_body_times_out(tmp_path: Path) -> None:
    async with Rig(tmp_path, limits=GatewayLimits(body_timeout=0.2)) as rig:
        raw = await rig.raw()
        await raw.send(head(CHAT, 1000))
        dripping = asyncio.create_task(drip(raw.writer, b"a" * 1000))
        assert (await raw.response())[0] == 408
        dripping.cancel()


@on_uvloop
async def test_body_that_says_it_is_too_large_is_not_waited_for(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        raw = await rig.raw()
        await raw.send(head(CHAT, 1 << 30))
        status, headers, _ = await raw.response()
        assert (status, headers["connection"]) == (413, "close")


@pytest.mark.parametrize("chunked", [True, False])
@on_uvloop
async def test_gigabyte_is_refused_in_bounded_memory(tmp_path: Path, chunked: bool) -> None:
    async with Rig(tmp_path, limits=GatewayLimits(max_body=8 << 20)) as rig:
        raw = await rig.raw()
        before = psutil.Process().memory_info().rss
        if chunked:
            await raw.send(
                b"POST /v1/completions HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
        else:
            await raw.send(head(CHAT, 1 << 30))
        answered = asyncio.create_task(raw.response())
        block = b"x" * (1 << 20)
        highest = before
        with contextlib.suppress(ConnectionError):
            for _ in range(1024):
                await raw.send(b"100000\r\n" + block + b"\r\n" if chunked else block)
                highest = max(highest, psutil.Process().memory_info().rss)
        status, headers, _ = await answered
        assert (status, headers["connection"]) == (413, "close")
        assert highest - before < 64 << 20
        assert rig.gateway.buffered == 0


@on_uvloop
async def test_sum_of_all_bodies_is_bounded(tmp_path: Path) -> None:
    limits = GatewayLimits(max_body=100_000, max_buffered=250_000)
    async with Rig(tmp_path, limits=limits) as rig:
        rig.models.gate.clear()
        body = chat(pad="x" * 99_000)
        first, second, third = [await rig.raw() for _ in range(3)]
        await first.post(body)
        await second.post(body)
        await until(lambda: rig.models.waiting == 2, "two requests wait")
        await third.post(body)
        status, headers, _ = await third.response()
        assert (status, headers["retry-after"]) == (503, "1")
        rig.models.gate.set()
        assert (await first.response())[0] == (await second.response())[0] == 200
        assert rig.gateway.buffered == 0


@on_uvloop
async def test_500_clients_that_drop_at_any_point_disturb_nobody(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await go_on.wait()
        await response.write(b"data: 2\n\n")
        return response

    async with Rig(tmp_path) as rig:
        rig.engine.answer = answer
        good = await rig.raw()
        await good.post(chat())
        await good.until(b"data: 1\n\n\r\n")
        whole = head(CHAT, len(chat())) + chat()

        async def drop(number: int) -> None:
            raw = await rig.raw()
            upto = len(whole) * (number % 25) // 24
            if upto:
                await raw.send(whole[:upto])
            if upto == len(whole) and number % 2:
                await raw.until(b"data: 1\n\n\r\n")
            if number % 3:
                raw.writer.transport.abort()
            else:
                await raw.close()

        for start in range(0, 500, 100):
            await asyncio.gather(*(drop(number) for number in range(start, start + 100)))
        await until(lambda: rig.gateway.in_flight == 1, "only the good request is left")
        go_on.set()
        assert (await good.until(b"0\r\n\r\n")).endswith(b"data: 2\n\n\r\n0\r\n\r\n")
        await until(lambda: rig.gateway.in_flight == 0, "every request is over")
        good_ones = [record for record in rig.records if record.status == 200]
        assert len(good_ones) == 1
        assert {record.status for record in rig.records} <= {200, 499}


@pytest.mark.parametrize("seed", range(2))
@on_uvloop
async def test_mutilated_requests_all_get_an_answer_or_a_close(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    whole = head(CHAT, len(chat()), "Connection: close\r\nX: y\r\n") + chat()
    part = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--b--\r\n'
    form = (
        b"POST /v1/audio/translations HTTP/1.1\r\nHost: g\r\nConnection: close\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(part), part)
    )
    upgrade = b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: eA==\r\n"
    odd = [b"", b"\x00", b"\x01", b"\xff", b"\r\n", b"\r", b"\n", b":", b" ", b"%00", upgrade]

    async def send(number: int) -> bytes:
        data = bytearray(form if number % 4 == 0 else whole)
        for _ in range(min(number, chance.randint(1, 3))):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 3)] = chance.choice(odd)
        raw = await rig.raw()
        async with asyncio.timeout(DEADLINE_S):
            try:
                await raw.send(bytes(data))
                return await raw.reader.read(1000)
            except ConnectionError:
                return b""

    limits = GatewayLimits(header_timeout=0.3, body_timeout=0.3)
    async with Rig(tmp_path, limits=limits) as rig:
        answers = await asyncio.gather(*(send(number) for number in range(250)))
        assert answers[0].startswith(b"HTTP/1.1 200 ")
        assert {answer[9:12] for answer in answers} >= {b"200", b"400", b"404", b"408"}
        assert b"500" not in {answer[9:12] for answer in answers}
        assert {asked.target for asked in rig.engine.asked} <= {CHAT, "/v1/audio/translations"}


@on_uvloop
async def test_client_that_leaves_in_the_middle_of_its_body(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        raw = await rig.raw()
        await raw.send(head(CHAT, 1 << 20) + b"x" * (1 << 19))
        await until(lambda: rig.gateway.buffered == 1 << 19, "half the body is there")
        raw.writer.transport.abort()
        await until(lambda: rig.gateway.buffered == 0, "the half is let go")
        assert rig.records == []


@on_uvloop
async def test_a_head_that_stays_half_said_behind_another_request_is_refused_in_its_turn(
    tmp_path: Path,
) -> None:
    go_on = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await go_on.wait()
        return web.Response(body=b"done")

    async with Rig(tmp_path, limits=GatewayLimits(header_timeout=0.05)) as rig:
        rig.engine.answer = answer
        raw = await rig.raw()
        await raw.post(chat())
        await raw.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: ")
        await until(lambda: rig.engine.asked, "the engine is asked")
        await asyncio.sleep(0.1)
        go_on.set()
        assert (await raw.response())[0] == 200
        assert (await raw.response())[0] == 408
        assert await raw.rest() == b""


@on_uvloop
async def test_thousands_of_offers_of_another_protocol_at_once_are_answered(tmp_path: Path) -> None:
    offer = b"GET /v1/models HTTP/1.1\r\nHost: g\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    async with Rig(tmp_path) as rig:
        raw = await rig.raw()
        await raw.send(offer * 3000)
        for _ in range(3000):
            assert (await raw.response())[0] == 200
