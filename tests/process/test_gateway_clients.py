"""The official clients, against an engine that answers in vLLM's shapes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import anthropic
import openai
import pytest
from aiohttp import web
from gateway_rig import MODEL, Rig, on_uvloop

from warmd.ladder import NotReadyError

WORDS = ["Hel", "lo", " wörld"]


async def vllm(request: web.BaseRequest) -> web.StreamResponse:
    path = request.raw_path
    if path == "/v1/embeddings":
        entry = {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}
        return answer({"object": "list", "model": MODEL, "data": [entry], "usage": usage()})
    if path == "/v1/messages":
        return await stream(request, anthropic_events())
    if path == "/v1/audio/transcriptions":
        return answer({"text": "Hello"})
    if "stream" in request.headers.get("X-Mode", ""):
        return await stream(request, openai_events())
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "".join(WORDS)},
    }
    base = {"id": "c-1", "object": "chat.completion", "created": 1, "model": MODEL}
    return answer({**base, "choices": [choice], "usage": usage()})


def usage() -> dict[str, int]:
    return {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}


def answer(document: object) -> web.Response:
    return web.Response(body=json.dumps(document).encode(), content_type="application/json")


async def stream(request: web.BaseRequest, events: list[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for event in events:
        if event == b"die":
            await asyncio.sleep(0.02)  # so that what was written is not reset away
            assert request.transport is not None
            request.transport.abort()
            break
        await response.write(event)
    return response


def openai_events(*, dying: bool = False) -> list[bytes]:
    base = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    chunks = [
        {**base, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
        for word in WORDS
    ]
    events = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return [*events, b"die" if dying else b"data: [DONE]\n\n"]


def anthropic_events() -> list[bytes]:
    message: dict[str, object] = {
        "id": "m-1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": MODEL,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 0},
    }
    events: list[dict[str, object]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    for word in WORDS:
        delta = {"type": "text_delta", "text": word}
        events.append({"type": "content_block_delta", "index": 0, "delta": delta})
    events += [
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 3},
        },
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


@on_uvloop
async def test_openai_client(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.engine.answer = vllm
        async with openai.AsyncOpenAI(base_url=f"{rig.url}/v1", api_key="any") as client:
            whole = await client.chat.completions.create(model="gpt-4o", messages=[])
            assert whole.choices[0].message.content == "".join(WORDS)
            chunks = await client.chat.completions.create(
                model=MODEL, messages=[], stream=True, extra_headers={"X-Mode": "stream"}
            )
            words = [chunk.choices[0].delta.content async for chunk in chunks]
            assert words == WORDS
            got = await client.embeddings.create(model=MODEL, input="x", encoding_format="float")
            assert got.data[0].embedding == [0.5, -1.0]
            heard = await client.audio.transcriptions.create(model=MODEL, file=("a.wav", b"RIFF"))
            assert heard.text == "Hello"
            assert [each.id async for each in client.models.list()] == [MODEL, "gpt-4o", "org/tiny"]
            assert (await client.models.retrieve("org/tiny")).id == "org/tiny"


@on_uvloop
async def test_openai_client_understands_every_refusal(tmp_path: Path) -> None:
    async def dying(request: web.BaseRequest) -> web.StreamResponse:
        return await stream(request, openai_events(dying=True))

    async with (
        Rig(tmp_path) as rig,
        openai.AsyncOpenAI(base_url=f"{rig.url}/v1", api_key="any", max_retries=0) as client,
    ):
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(model="gpt-9", messages=[])
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
        rig.models.not_ready = NotReadyError(MODEL, "tiny starts in 40 s.", 40)
        with pytest.raises(openai.InternalServerError, match="tiny starts in 40 s"):
            await client.chat.completions.create(model=MODEL, messages=[])
        rig.models.not_ready = None
        rig.engine.answer = dying
        chunks = await client.chat.completions.create(model=MODEL, messages=[], stream=True)
        heard = [await anext(chunks) for _ in WORDS]
        assert [chunk.choices[0].delta.content for chunk in heard] == WORDS
        with pytest.raises(openai.APIError, match="broke off in the middle"):
            await anext(chunks)


@on_uvloop
async def test_openai_client_comes_back_after_503(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.engine.answer = vllm
        rig.models.not_ready = NotReadyError(MODEL, "tiny starts.", 1)
        async with openai.AsyncOpenAI(base_url=f"{rig.url}/v1", api_key="any") as client:
            asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=[]))
            assert (await rig.record()).status == 503
            rig.models.not_ready = None
            assert (await asking).choices[0].message.content == "".join(WORDS)


@on_uvloop
async def test_anthropic_client(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.engine.answer = vllm
        async with anthropic.AsyncAnthropic(
            base_url=rig.url, api_key="any", max_retries=0
        ) as client:
            async with client.messages.stream(
                model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "x"}]
            ) as answering:
                assert [text async for text in answering.text_stream] == WORDS
            with pytest.raises(anthropic.NotFoundError) as unknown:
                await client.messages.create(
                    model="claude", max_tokens=5, messages=[{"role": "user", "content": "x"}]
                )
            assert "tiny" in unknown.value.message
