"""What real clients do with words while they wait, and the traffic of a chat front end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import anthropic
import openai
from aiohttp import web
from gateway_rig import DEADLINE_S, MODEL, Rig, chat, on_uvloop, until
from test_gateway_clients import WORDS, anthropic_events, openai_events, stream, vllm

from warmd.gateway import GatewayLimits

TALKS = GatewayLimits(say_after=0.05, say_every=0.03)


async def opened_later(rig: Rig) -> None:
    await until(lambda: rig.models.waiting == 1, "it waits")
    await asyncio.sleep(0.15)  # so that several comments are on their way
    rig.models.gate.set()


@on_uvloop
async def test_both_official_clients_pass_over_the_words_of_a_waiting_stream(
    tmp_path: Path,
) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        theirs = request.raw_path == "/v1/messages"
        return await stream(request, anthropic_events() if theirs else openai_events())

    async with Rig(tmp_path, limits=TALKS) as rig:
        rig.engine.answer = answer
        rig.models.gate.clear()
        opening = asyncio.create_task(opened_later(rig))
        async with openai.AsyncOpenAI(base_url=f"{rig.url}/v1", api_key="any") as client:
            chunks = await client.chat.completions.create(model=MODEL, messages=[], stream=True)
            assert [chunk.choices[0].delta.content async for chunk in chunks] == WORDS
        await opening
        rig.models.gate.clear()
        opening = asyncio.create_task(opened_later(rig))
        async with (
            anthropic.AsyncAnthropic(base_url=rig.url, api_key="any") as other,
            other.messages.stream(
                model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "x"}]
            ) as answering,
        ):
            assert [text async for text in answering.text_stream] == WORDS
        await opening
        assert [record.status for record in rig.records] == [200, 200]


@on_uvloop
async def test_the_traffic_of_a_chat_front_end(tmp_path: Path) -> None:
    """A page that lists models, chats beside a title's request, is stopped, and asked again."""
    go_on = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "X-Slow" not in request.headers:
            return await vllm(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(openai_events()[0])
        await go_on.wait()
        return response

    async with Rig(tmp_path) as rig, aiohttp.ClientSession(rig.url) as page:
        rig.engine.answer = answer
        path = "/v1/chat/completions"

        async def models() -> list[str]:
            async with page.get("/v1/models", headers={"Authorization": "Bearer any"}) as got:
                return [each["id"] for each in (await got.json())["data"]]

        async def title() -> str:
            async with page.post(path, data=chat()) as got:
                return str((await got.json())["choices"][0]["message"]["content"])

        assert MODEL in await models()
        talking = await page.post(path, data=chat(stream=True), headers={"X-Slow": "1"})
        assert b"Hel" in await talking.content.readany()
        assert await title() == "".join(WORDS)
        talking.close()  # the user has pressed stop
        async with asyncio.timeout(DEADLINE_S):
            await rig.engine.left_by_client.wait()
        for _ in range(3):  # and asks again, on connections that are kept
            async with page.post(path, data=chat(stream=True), headers={"X-Mode": "stream"}) as got:
                lines = [line async for line in got.content if line.startswith(b"data: {")]
            said = [json.loads(line[6:])["choices"][0]["delta"]["content"] for line in lines]
            assert said == WORDS
            assert MODEL in await models()
        assert [record.status for record in rig.records] == [200, 499, 200, 200, 200]


@on_uvloop
async def test_curl_and_what_it_offers(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.engine.answer = vllm
        body = tmp_path / "body"
        body.write_bytes(chat(pad="x" * 2_000_000))  # beyond 1 MiB curl asks before it sends
        for more in ([], ["--http2"], ["--http1.0"], ["-H", "Transfer-Encoding: chunked"]):
            curl = await asyncio.create_subprocess_exec(
                *("curl", "-sS", "--max-time", "20", "-o", "-", "-w", "\n%{http_code}", *more),
                *("-H", "Content-Type: application/json", "--data-binary", f"@{body}"),
                f"{rig.url}/v1/chat/completions",
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await curl.communicate()
            assert curl.returncode == 0, more
            answer, _, status = out.rpartition(b"\n")
            assert status == b"200", (more, out)
            assert json.loads(answer)["object"] == "chat.completion"
        assert {len(asked.body) for asked in rig.engine.asked} == {body.stat().st_size}
