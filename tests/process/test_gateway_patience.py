"""What a client hears while it waits, and what isn't waited for any longer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web
from gateway_rig import DEADLINE_S, Rig, chat, on_uvloop, until

from warmd.gateway import GatewayLimits
from warmd.ladder import NotReadyError

TALKS = GatewayLimits(say_after=0.1, say_every=0.05)
SAYS = b": warmd: tiny is starting, ready in about 40 s\n\n"
LAST = b"\r\n0\r\n\r\n"


async def two_events(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b'data: {"n": 1}\n\n')
    await response.write(b"data: [DONE]\n\n")
    return response


@on_uvloop
async def test_a_stream_that_waits_is_told_how_it_stands(tmp_path: Path) -> None:
    async with Rig(tmp_path, limits=TALKS) as rig:
        rig.engine.answer = two_events
        rig.models.gate.clear()
        raw = await rig.raw()
        await raw.post(chat(stream=True))
        head = await raw.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Type: text/event-stream" in head
        assert b"X-Warmd-Rung: staged" in head
        for _ in range(2):
            assert SAYS in await raw.until(b"\n\n\r\n")
        rig.models.gate.set()
        rest = await raw.until(LAST)
        assert b'data: {"n": 1}\n\n' in rest
        assert b"data: [DONE]\n\n" in rest
        assert b"HTTP/1.1" not in rest
        # The connection is as good as before.
        await raw.post(chat(stream=True))
        assert b"data: [DONE]" in await raw.until(LAST)
        assert [record.status for record in rig.records] == [200, 200]


@on_uvloop
async def test_a_short_wait_keeps_its_status_and_others_are_told_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path, limits=TALKS) as rig:
        rig.models.gate.clear()
        short, whole = await rig.raw(), await rig.raw()
        await short.post(chat(stream=True))
        await whole.post(chat())
        await until(lambda: rig.models.waiting == 2, "both wait")
        rig.models.not_ready = NotReadyError("tiny", "tiny can't be had", 7)
        rig.models.gate.set()
        for raw in (short, whole):
            status, headers, body = await raw.response()
            assert (status, headers["retry-after"]) == (503, "7")
            assert json.loads(body)["error"]["message"] == "tiny can't be had"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@on_uvloop
async def test_what_fails_behind_words_of_ours_is_told_inside_the_stream(
    tmp_path: Path, path: str
) -> None:
    async with Rig(tmp_path, limits=TALKS) as rig:
        rig.models.gate.clear()
        raw = await rig.raw()
        await raw.post(chat(stream=True), path)
        await raw.until(b"\n\n\r\n")
        rig.models.not_ready = NotReadyError("tiny", "tiny can't be had", 7)
        rig.models.gate.set()
        rest = await raw.rest()
        assert b"tiny can't be had" in rest
        assert (b"event: error\n" in rest) == (path == "/v1/messages")
        assert not rest.endswith(LAST)  # nobody takes it for a whole answer
        assert (await rig.record()).status == 503


@on_uvloop
async def test_an_engines_error_behind_words_of_ours_is_an_event(tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        error = {"error": {"message": "too many tokens", "code": 400}}
        return web.json_response(error, status=400)

    async with Rig(tmp_path, limits=TALKS) as rig:
        rig.engine.answer = answer
        rig.models.gate.clear()
        raw = await rig.raw()
        await raw.post(chat(stream=True))
        await raw.until(b"\n\n\r\n")
        rig.models.gate.set()
        rest = await raw.rest()
        assert b'data: {"error": {"message": "too many tokens", "code": 400}}\n\n' in rest
        assert not rest.endswith(LAST)
        assert (await rig.record()).status == 400


@on_uvloop
async def test_silence_of_an_engine_has_two_deadlines(tmp_path: Path) -> None:
    never = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if request.headers.get("X-Speaks"):
            await response.write(b"data: 1\n\n")
        await never.wait()
        return response

    limits = GatewayLimits(first_byte_timeout=0.2, silence_timeout=0.3)
    async with Rig(tmp_path, limits=limits) as rig:
        rig.engine.answer = answer
        mute = await rig.raw()
        await mute.post(chat(stream=True))
        status, _, body = await mute.response()
        assert status == 504
        assert "said nothing for 0.2 s" in json.loads(body)["error"]["message"]
        async with asyncio.timeout(DEADLINE_S):
            await rig.engine.left_by_client.wait()
        assert [lease.left for lease in rig.models.leases] == [1]
        rig.engine.left_by_client.clear()
        stops = await rig.raw()
        await stops.post(chat(stream=True), more="X-Speaks: yes\r\n")
        rest = await stops.rest()
        assert b"data: 1\n\n" in rest
        assert b"fell silent for 0.3 s" in rest
        assert not rest.endswith(LAST)
        async with asyncio.timeout(DEADLINE_S):
            await rig.engine.left_by_client.wait()
        assert [record.status for record in rig.records] == [504, 504]
