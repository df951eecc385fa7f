"""Engines that die and clients that leave: nothing is lost silently, nothing is held for ever."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web
from gateway_rig import MODEL, Raw, Rig, chat, head, on_uvloop, until

from warmd.gateway import GatewayLimits, exchange
from warmd.ladder import NotReadyError


async def die(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def die_before_the_first_chunk(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await asyncio.sleep(0.02)  # the head is out, alone
    return await die(request)


async def talk_no_http(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"\x00\x01garbage\r\n\r\n")
    request.protocol.force_close()
    return web.Response()


@pytest.mark.parametrize("failing", [die, die_before_the_first_chunk, talk_no_http])
@on_uvloop
async def test_second_replica_answers_when_the_first_dies(tmp_path: Path, failing: object) -> None:
    async with Rig(tmp_path, engines=2) as rig:
        rig.engines[0].answer = failing  # type: ignore[assignment]
        raw = await rig.raw()
        await raw.post(chat())
        status, _, body = await raw.response()
        assert (status, body) == (200, b'{"ok": true}')
        assert [lease.replica for lease in rig.models.leases] == ["tiny.0", "tiny.1"]
        assert (await rig.record()).status == 200


@on_uvloop
async def test_engine_that_does_not_listen(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.engine.stop()
        raw = await rig.raw()
        await raw.post(chat())
        status, headers, body = await raw.response()
        assert status == 502
        assert headers["server"] == "warmd"
        assert json.loads(body)["error"]["code"] == "engine_lost"
        assert len(rig.models.leases) == 2
        record = await rig.record()
        assert (record.status, record.first_byte_s) == (502, None)
        # The client's connection is as good as before.
        await rig.engine.start()
        await raw.post(chat())
        assert (await raw.response())[0] == 200


@on_uvloop
async def test_engine_whose_socket_is_gone_is_a_lost_one(tmp_path: Path) -> None:
    async with Rig(tmp_path, engines=2) as rig:
        rig.engines[0].path.unlink()
        raw = await rig.raw()
        await raw.post(chat())
        assert (await raw.response())[0] == 200
        assert [lease.doubts for lease in rig.models.leases] == [1, 0]


def die_after(first: bytes, content_type: str, length: int | None = None) -> object:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        response.content_length = length
        await response.prepare(request)
        await response.write(first)
        await asyncio.sleep(0.02)  # so that what was written is not reset away
        return await die(request)

    return answer


async def cut_answer(rig: Rig, path: str, answer: object, version: str = "1.1") -> bytes:
    rig.engine.answer = answer  # type: ignore[assignment]
    raw = await rig.raw()
    body = chat()
    await raw.send(head(path, len(body)).replace(b"HTTP/1.1", f"HTTP/{version}".encode()) + body)
    got = await raw.rest()
    assert (await rig.record()).status == 502
    return got.partition(b"\r\n\r\n")[2]


@on_uvloop
async def test_stream_that_breaks_off_ends_in_an_error_event(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        got = await cut_answer(
            rig, "/v1/chat/completions", die_after(b"data: {", "text/event-stream; charset=utf-8")
        )
    assert got.startswith(b"7\r\ndata: {\r\n")
    assert not got.endswith(b"0\r\n\r\n")
    event = got.split(b"\r\n")[3]
    assert event.startswith(b"\n\ndata: ")
    assert event.endswith(b"\n\n")
    error = json.loads(event.removeprefix(b"\n\ndata: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "engine_lost")
    assert MODEL in error["message"]


@on_uvloop
async def test_anthropic_stream_that_breaks_off(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        got = await cut_answer(
            rig, "/v1/messages", die_after(b"event: ping\n\n", "text/event-stream")
        )
    assert not got.endswith(b"0\r\n\r\n")
    assert b'event: error\ndata: {"type": "error", "error": {"type": "api_error"' in got


@on_uvloop
async def test_chunked_answer_that_breaks_off_has_no_clean_end(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        got = await cut_answer(rig, "/v1/completions", die_after(b'{"half', "application/json"))
    assert got == b'6\r\n{"half\r\n'


@on_uvloop
async def test_sized_answer_that_breaks_off_is_short(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        got = await cut_answer(rig, "/v1/completions", die_after(b"{", "application/json", 100))
    assert got == b"{"


@on_uvloop
async def test_http_10_answer_that_breaks_off_is_reset(tmp_path: Path) -> None:
    """There, the connection's end is the answer's end; only a reset says that it is not."""
    async with Rig(tmp_path) as rig:
        rig.engine.answer = die_after(b"{", "application/json")  # type: ignore[assignment]
        raw = await rig.raw()
        body = chat()
        await raw.send(head("/v1/completions", len(body)).replace(b"HTTP/1.1", b"HTTP/1.0") + body)
        with pytest.raises(ConnectionResetError):
            await raw.reader.read()


@on_uvloop
async def test_model_that_is_not_ready(tmp_path: Path) -> None:
    reason = "tiny starts in about 40 s; 3 requests wait."
    async with Rig(tmp_path) as rig:
        rig.models.not_ready = NotReadyError(MODEL, reason, 40)
        raw = await rig.raw()
        await raw.post(chat())
        status, headers, body = await raw.response()
        assert (status, headers["retry-after"]) == (503, "40")
        assert json.loads(body)["error"] == {
            "message": reason,
            "type": "server_error",
            "param": None,
            "code": "model_not_ready",
        }
        await raw.post(chat(), "/v1/messages")
        status, headers, body = await raw.response()
        assert json.loads(body) == {
            "type": "error",
            "error": {"type": "overloaded_error", "message": reason},
        }
        await until(lambda: len(rig.records) == 2, "two records")
        assert {record.status for record in rig.records} == {503}


async def leave(raw: Raw, how: str) -> None:
    if how == "close":
        await raw.close()
    elif how == "half-close":
        raw.writer.write_eof()
    else:
        raw.writer.transport.abort()


LEAVING = pytest.mark.parametrize("how", ["close", "half-close", "reset"])


@LEAVING
@on_uvloop
async def test_client_leaves_while_it_waits_for_an_engine(tmp_path: Path, how: str) -> None:
    async with Rig(tmp_path) as rig:
        rig.models.gate.clear()
        raw = await rig.raw()
        await raw.post(chat())
        await until(lambda: rig.models.waiting, "the request waits")
        await leave(raw, how)
        record = await rig.record()
        assert (record.status, record.first_byte_s) == (499, None)
        assert record.waited_s == record.total_s
        assert rig.models.leases == []


@LEAVING
@pytest.mark.parametrize("chunks", [0, 1, 3])
@on_uvloop
async def test_engine_hears_at_once_that_the_client_left(
    tmp_path: Path, how: str, chunks: int
) -> None:
    answering = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(chunks):
            await response.write(b"data: 1\n\n")
        answering.set()
        await asyncio.Event().wait()
        return response

    async with Rig(tmp_path) as rig:
        rig.engine.answer = answer
        raw = await rig.raw()
        await raw.post(chat())
        if chunks:
            await raw.until(b"data: 1\n\n\r\n")
        await answering.wait()
        await leave(raw, how)
        async with asyncio.timeout(1):
            await rig.engine.left_by_client.wait()
        assert (await rig.record()).status == 499
        (lease,) = rig.models.leases
        assert lease.left == (0 if chunks else 1), "what sent a byte hasn't hung"


@on_uvloop
async def test_client_that_reads_nothing_loses_its_place(tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    async with Rig(tmp_path, limits=GatewayLimits(stall_timeout=0.2)) as rig:
        rig.engine.answer = answer
        raw = await rig.raw()
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await raw.post(chat())
        assert (await rig.record()).status == 499
        await rig.engine.left_by_client.wait()


@on_uvloop
async def test_failing_owner_of_the_models_is_our_bug_and_says_so(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.models.engines = []  # the fake divides by their number
        raw = await rig.raw()
        await raw.post(chat())
        status, headers, body = await raw.response()
        assert (status, headers["server"]) == (500, "warmd")
        assert b"Traceback" not in body
        assert (await rig.record()).status == 500
        (said,) = rig.complaints.said
        assert "ZeroDivisionError" in said
        rig.complaints.said.clear()


@pytest.mark.parametrize("late", [False, True])
@on_uvloop
async def test_a_kept_connection_that_ends_late_is_a_lost_engine(
    tmp_path: Path, late: bool
) -> None:
    """At once it is an idle one that was closed just then: nobody is in doubt."""
    asked = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked == 2:
            await asyncio.sleep(exchange.JUST_THEN_S + 0.1 if late else 0)
            return await die(request)
        return web.Response(body=b"ok")

    async with Rig(tmp_path) as rig:
        rig.engine.answer = answer
        raw = await rig.raw()
        for _ in range(2):
            await raw.post(chat())
            assert (await raw.response())[0] == 200
        assert [lease.doubts for lease in rig.models.leases] == ([0, 1, 0] if late else [0, 0])
        assert asked == 3
