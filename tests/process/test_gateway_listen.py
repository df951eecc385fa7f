"""Listening, draining, closing, keys and the list of models."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
from pathlib import Path

import pytest
from aiohttp import web
from gateway_rig import Rig, chat, on_uvloop, until

from warmd.gateway import GatewayError, Keys


@on_uvloop
async def test_port_in_use_is_one_sentence_and_nothing_listens(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            free = other.getsockname()[1]
        again = type(rig.gateway)(rig.models, rig._limits, rig.records.append)
        with pytest.raises(GatewayError, match="the port is taken by ") as refused:
            await again.start([("127.0.0.1", free), (rig.host, rig.port)])
        assert f"127.0.0.1:{rig.port}" in str(refused.value)
        assert f"(process {os.getpid()}); stop it, or change gateway.listen" in str(refused.value)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", free)
        await again.close()


@pytest.mark.parametrize(
    ("host", "why"),
    [("192.0.2.1", "does not have that address"), ("no-such-host.invalid", "has no address here")],
)
@on_uvloop
async def test_address_of_another_machine(tmp_path: Path, host: str, why: str) -> None:
    async with Rig(tmp_path) as rig:
        again = type(rig.gateway)(rig.models, rig._limits, rig.records.append)
        with pytest.raises(GatewayError, match=why):
            await again.start([(host, 8400)])


@on_uvloop
async def test_drain_lets_requests_end_and_takes_no_new_ones(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await go_on.wait()
        return web.Response(body=b"done")

    async with Rig(tmp_path) as rig:
        rig.engine.answer = answer
        busy, idle, uploading = [await rig.raw() for _ in range(3)]
        await busy.post(chat())
        await uploading.send(b"POST /v1/completions HTTP/1.1\r\nHost: g\r\nContent-Length: 17\r\n")
        await until(lambda: rig.engine.asked, "the engine is asked")
        await rig.gateway.stop_accepting()
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(rig.host, rig.port)
        assert not await rig.gateway.drain(0.01)
        await uploading.send(b'\r\n{"model": "tiny"}')
        await until(lambda: len(rig.engine.asked) == 2, "the engine is asked again")
        go_on.set()
        for raw in (busy, uploading):
            status, headers, body = await raw.response()
            assert (status, headers["connection"], body) == (200, "close", b"done")
            assert await raw.rest() == b""
        assert await rig.gateway.drain(1)


@on_uvloop
async def test_close_ends_what_a_drain_left(tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        await asyncio.Event().wait()
        return response

    async with Rig(tmp_path) as rig:
        rig.engine.answer = answer
        streaming, waiting = await rig.raw(), await rig.raw()
        await streaming.post(chat())
        await streaming.until(b"1\r\nx\r\n")
        rig.models.gate.clear()
        await waiting.post(chat())
        await until(lambda: rig.models.waiting, "the second waits")
        await rig.gateway.close()
        assert await streaming.rest() == b""
        assert await waiting.rest() == b""
        assert [record.status for record in rig.records] == [503, 503]


@on_uvloop
async def test_keys_guard_every_path(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"alice:{hashlib.sha256(b'sk-alice').hexdigest()}\n")
    async with Rig(tmp_path, keys=Keys(file, pytest.fail)) as rig:
        raw = await rig.raw()
        await raw.post(chat())
        status, headers, body = await raw.response()
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert json.loads(body)["error"]["code"] == "invalid_api_key"
        raw = await rig.raw()
        await raw.post(chat(), "/v1/messages", "x-api-key: sk-bob\r\n")
        assert b"authentication_error" in (await raw.response())[2]
        raw = await rig.raw()
        await raw.send(b"GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n")
        assert (await raw.response())[0] == 401
        for more in ("Authorization: Bearer sk-alice\r\n", "X-Api-Key: sk-alice\r\n"):
            await raw.post(chat(), more=more)
            assert (await raw.response())[0] == 200
        assert all(not asked.header("x-api-key") for asked in rig.engine.asked)
        assert len(rig.records) == 2


@on_uvloop
async def test_models_and_aliases_are_listed_with_their_rung(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        raw = await rig.raw()
        await raw.send(b"GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n")
        status, _, body = await raw.response()
        entries = json.loads(body)["data"]
        assert status == 200
        assert [(each["id"], each["root"]) for each in entries] == [
            ("tiny", "tiny"),
            ("gpt-4o", "tiny"),
            ("org/tiny", "tiny"),
        ]
        assert {each["warmd"]["rung"] for each in entries} == {"hot"}
        await raw.send(b"GET /v1/models/org%2Ftiny HTTP/1.1\r\nHost: g\r\n\r\n")
        assert json.loads((await raw.response())[2])["root"] == "tiny"
        await raw.send(b"GET /v1/models/none%0d%0aX:1 HTTP/1.1\r\nHost: g\r\n\r\n")
        status, _, body = await raw.response()
        assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
