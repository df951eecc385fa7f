"""A request goes to the engine and its answer comes back, byte for byte, as it comes."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from gateway_rig import ALIAS, MODEL, Rig, chat, head, on_uvloop, until

from warmd.gateway import GatewayLimits
from warmd.ladder import Rung


@on_uvloop
async def test_first_chunk_is_out_before_the_engine_says_the_second(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        await go_on.wait()
        await response.write(b"data: two\n\n")
        return response

    async with Rig(tmp_path) as rig:
        rig.engine.answer = answer
        raw = await rig.raw()
        await raw.post(chat(stream=True))
        got = await raw.until(b"\r\n\r\n")
        assert b"200 OK" in got
        assert await raw.until(b"data: one\n\n\r\n") == b"b\r\ndata: one\n\n\r\n"
        go_on.set()
        assert await raw.until(b"0\r\n\r\n") == b"b\r\ndata: two\n\n\r\n0\r\n\r\n"
        record = await rig.record()
    assert (record.model, record.path, record.status) == (MODEL, "/v1/chat/completions", 200)
    assert record.met is Rung.STAGED
    assert record.first_byte_s is not None
    assert 0 <= record.waited_s <= record.first_byte_s <= record.total_s


@on_uvloop
async def test_what_the_engine_and_the_client_see_of_each_other(tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(
            status=422,
            reason="So It Is",
            body=b"body",
            headers=[
                ("Content-Type", "text/x"),
                ("X-Twice", "1"),
                ("X-Twice", "2"),
                ("Connection", "x-private"),
                ("X-Private", "secret"),
                ("Keep-Alive", "timeout=5"),
                ("Server", "uvicorn"),
            ],
        )

    async with Rig(tmp_path) as rig:
        rig.engine.answer = answer
        raw = await rig.raw()
        body = b'{ "model":"gpt-4o" ,\n"x":1e5, "model": "tiny"}'
        await raw.post(
            body,
            "/v1/completions?beta=true",
            "Authorization: Bearer sk-1\r\nX-API-Key: sk-2\r\nConnection: keep-alive, X-Hop\r\n"
            "X-Hop: 1\r\nTE: trailers\r\nProxy-Authorization: Basic eA==\r\nX-Kept: yes\r\n",
        )
        status, headers, got = await raw.response()
        asked = rig.engine.asked[0]
        assert asked.target == "/v1/completions"
        assert asked.body == body
        assert sorted((name.lower(), value) for name, value in asked.headers) == [
            ("content-length", str(len(body))),
            ("content-type", "application/json"),
            ("host", "engine"),
            ("x-kept", "yes"),
            ("x-request-id", headers.pop("x-request-id")),
        ]
        assert (status, got) == (422, b"body")
        assert headers.pop("date")
        assert float(headers.pop("x-warmd-waited")) < 1
        assert headers == {
            "x-warmd-rung": "staged",
            "x-warmd-replica": f"{MODEL}.0",
            "content-type": "text/x",
            "content-length": "4",
            "x-twice": "2",
            "server": "uvicorn",
        }


@pytest.mark.parametrize("seed", range(12))
@on_uvloop
async def test_any_body_comes_back_byte_for_byte(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice((1, 2, 7, 100, 4096, 65536, 300_000)) for _ in range(40)]
    chunks = [chance.randbytes(size) for size in sizes]
    whole = b"".join(chunks)
    sized = chance.random() < 0.5

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        if sized:
            response.content_length = len(whole)
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        return response

    async with Rig(tmp_path) as rig, aiohttp.ClientSession(auto_decompress=False) as client:
        rig.engine.answer = answer
        sent = json.dumps(
            {"pad": chance.randbytes(chance.choice((1, 500_000))).hex(), "model": MODEL}
        )
        async with client.post(f"{rig.url}/v1/completions", data=iter_slices(sent)) as got:
            assert await got.read() == whole
            assert got.headers.get("Content-Length") == (str(len(whole)) if sized else None)
        assert rig.engine.asked[0].body == sent.encode()


async def iter_slices(text: str) -> object:
    for at in range(0, len(text), 50_000):
        yield text[at : at + 50_000].encode()


@on_uvloop
async def test_compressed_answer_is_not_unpacked(tmp_path: Path) -> None:
    packed = gzip.compress(b"hello" * 100)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with Rig(tmp_path) as rig:
        rig.engine.answer = answer
        raw = await rig.raw()
        await raw.post(chat(), more="Accept-Encoding: gzip\r\n")
        _, headers, got = await raw.response()
        assert (got, headers["content-encoding"]) == (packed, "gzip")
        assert rig.engine.asked[0].header("Accept-Encoding") == ["gzip"]


@on_uvloop
async def test_large_body_is_let_go_once_the_answer_begins(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"a")
        await go_on.wait()
        return response

    async with Rig(tmp_path) as rig:
        rig.engine.answer = answer
        rig.models.gate.clear()
        body = chat(pad="x" * (20 << 20))
        raw = await rig.raw()
        await raw.post(body)
        await until(lambda: rig.models.waiting, "the request waits")
        assert rig.gateway.buffered == len(body)
        rig.models.gate.set()
        await raw.until(b"1\r\na\r\n")
        assert rig.gateway.buffered == 0
        assert rig.engine.asked[0].body == body
        go_on.set()
        await raw.until(b"0\r\n\r\n")


@on_uvloop
async def test_client_that_asks_before_it_sends(tmp_path: Path) -> None:
    async with Rig(tmp_path, limits=GatewayLimits(max_body=1000)) as rig:
        raw = await rig.raw()
        body = chat(ALIAS)
        await raw.send(head("/v1/chat/completions", len(body), "Expect: 100-continue\r\n"))
        assert await raw.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await raw.send(body)
        assert (await raw.response())[0] == 200
        # The same connection again; this time the answer is no, before a byte of the body.
        await raw.send(head("/v1/chat/completions", 1001, "Expect: 100-continue\r\n"))
        assert (await raw.response())[0] == 413
        assert len(rig.engine.asked) == 1


@on_uvloop
async def test_pipelined_requests_are_answered_in_their_order(tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=request.headers["X-Nr"].encode())

    async with Rig(tmp_path) as rig:
        rig.engine.answer = answer
        raw = await rig.raw()
        body = chat()
        await raw.send(
            b"".join(head("/tokenize", len(body), f"X-Nr: {n}\r\n") + body for n in range(50))
        )
        assert [int((await raw.response())[2]) for _ in range(50)] == list(range(50))


@on_uvloop
async def test_http_10_client_gets_a_stream_up_to_the_connections_end(tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one")
        await response.write(b"two")
        return response

    async with Rig(tmp_path) as rig:
        rig.engine.answer = answer
        raw = await rig.raw()
        sent = head("/v1/completions", len(chat()), "Connection: keep-alive\r\n") + chat()
        await raw.send(sent.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await raw.rest()).partition(b"\r\n\r\n")[2] == b"onetwo"


@on_uvloop
async def test_form_field_names_the_model(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig, aiohttp.ClientSession() as client:
        form = aiohttp.FormData()
        form.add_field("file", b"\r\n--not the boundary\r\n" * 5000, filename="a;name=model.wav")
        form.add_field("model", MODEL)
        async with client.post(f"{rig.url}/v1/audio/transcriptions", data=form) as got:
            assert got.status == 200
        assert rig.engine.asked[0].header("Content-Type")[0].startswith("multipart/form-data")
