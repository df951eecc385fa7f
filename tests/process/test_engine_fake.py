"""Client, warm-up, stages and causes against the fake engine, started by the real command."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from engine_scene import engine, short_folder, spec, until_listening

from warmd.config import WarmupKind
from warmd.engine import (
    EngineError,
    WarmupError,
    prepare_home,
    warm_up,
)
from warmd.ladder import Stage


@pytest.fixture
def root() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


async def test_from_the_command_to_the_first_answer(root: Path) -> None:
    seconds = {"weights": 0.6, "compile": 0.1}
    async with engine(root, "--tensor-parallel-size=2", children=2, seconds=seconds) as started:
        assert not await started.client.listening()  # bound, like vLLM's, but not yet listening
        await until_listening(started)
        answer = await warm_up(started.client.session, spec())
        assert answer.kind is WarmupKind.CHAT
        assert 0 < answer.first_token_s <= answer.seconds
        times = started.tracker.ready(time.monotonic())
        assert list(times.stages) == list(Stage)
        assert times.stages[Stage.WEIGHTS] > 0.3  # lines may be heard late on a busy host
        assert times.stages[Stage.COMPILE] > 0.05
        started.process.terminate()
        assert await asyncio.wait_for(started.process.wait(), 10) == 0


@pytest.mark.parametrize(
    ("knobs", "kind"),
    [
        ({"no_chat_template": True}, WarmupKind.COMPLETION),
        ({"embedding": True}, WarmupKind.EMBEDDING),
    ],
)
async def test_the_warm_up_finds_out_what_the_model_serves(
    root: Path, knobs: dict[str, object], kind: WarmupKind
) -> None:
    async with engine(root, **knobs) as started:
        await until_listening(started)
        assert (await warm_up(started.client.session, spec())).kind is kind
        with pytest.raises(WarmupError, match=r"serves no .*\(chat: HTTP 40.*warmup\.kind"):
            await warm_up(started.client.session, spec(kind=WarmupKind.CHAT))


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"answer": "garbage"}, "HTTP 200 with '<html>it works</html>', which is no JSON object"),
        ({"answer": "500"}, "HTTP 500, 'Internal server error'; see the engine's log"),
        ({"answer": "empty-choices"}, "an empty list of choices"),
        ({"answer": "no-tokens"}, "0 generated tokens"),
        ({"answer": "silence"}, "no whole answer within 0.5 s"),
        ({"embedding": True, "answer": "nan"}, "something else than finite numbers"),
    ],
)
async def test_a_wrong_answer_is_no_answer(root: Path, knobs: dict[str, Any], says: str) -> None:
    async with engine(root, **knobs) as started:
        await until_listening(started)
        kind = WarmupKind.EMBEDDING if knobs.get("embedding") else WarmupKind.AUTO
        with pytest.raises(WarmupError) as raised:
            await warm_up(started.client.session, spec(kind=kind, timeout=0.5))
        assert says in str(raised.value)


async def test_an_engine_that_dies_under_the_warm_up_is_one_sentence(root: Path) -> None:
    async with engine(root, first_token_s=30) as started:
        await until_listening(started)
        asking = asyncio.create_task(warm_up(started.client.session, spec()))
        await asyncio.sleep(0.1)
        started.process.kill()
        with pytest.raises(WarmupError, match="the warm-up chat request broke off: "):
            await asking


async def test_a_key_of_the_engines_own_is_explained(root: Path) -> None:
    async with engine(root, "--api-key", "s3cret") as started:
        await until_listening(started)
        with pytest.raises(WarmupError, match="take --api-key and VLLM_API_KEY from the model"):
            await warm_up(started.client.session, spec())


@pytest.mark.parametrize(
    ("args", "knobs", "stage", "cause"),
    [
        (
            (),
            {"fail_at": "kv-cache", "fail_error": "ValueError: No available memory for the cache b"
             "locks."},
            Stage.KV_CACHE,
            "No available memory for the cache blocks",
        ),
        ((), {"port_taken": True}, Stage.IMPORTS, "already in use"),
        (("--foo", "3"), {"refuse_args": ["--foo"]}, Stage.IMPORTS, "unrecognized arguments: --f"),
        ((), {"fail_at": "weights", "fail_code": 0}, Stage.WEIGHTS, "it exited with status 0, and"),
    ],
)  # fmt: skip
async def test_a_start_that_fails_tells_its_stage_and_its_cause(
    root: Path, args: tuple[str, ...], knobs: dict[str, object], stage: Stage, cause: str
) -> None:
    async with engine(root, *args, **knobs) as started:
        assert cause in await started.ended()
    assert started.tracker.stage is stage


async def test_only_the_first_starts_fail_where_the_knob_says_so(root: Path) -> None:
    knobs = {"fail_at": "imports", "bad_starts": 1, "state": str(root / "starts")}
    async with engine(root, **knobs) as started:
        await started.ended()
    async with engine(root, **knobs) as started:
        await until_listening(started)


async def test_a_socket_left_by_a_dead_engine_is_no_hindrance_but_a_folder_is(root: Path) -> None:
    async with engine(root) as started:
        await until_listening(started)
        started.process.kill()
        await started.process.wait()
        assert started.home.socket.is_socket()
    async with engine(root) as started:
        await until_listening(started)
    started.home.socket.unlink()
    started.home.socket.mkdir()
    with pytest.raises(EngineError, match="can't be prepared"):
        prepare_home(started.home)


async def test_a_client_that_leaves_is_seen_by_the_engine(root: Path) -> None:
    record = root / "record"
    async with engine(root, record=str(record), token_s=0.05, tokens=1000) as started:
        await until_listening(started)
        asked = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with started.client.session.post("/v1/chat/completions", json=asked) as response:
            assert await response.content.readline()
            response.close()
        async with asyncio.timeout(5):
            while True:
                if '"aborted"' in record.read_text():
                    break
                await asyncio.sleep(0.02)


async def test_a_crash_in_the_middle_of_a_stream_breaks_the_body(root: Path) -> None:
    async with engine(root, crash_mid_stream=2) as started:
        await until_listening(started)
        asked = {"model": "tiny", "stream": True, "prompt": "a b c d e"}
        with pytest.raises(aiohttp.ClientError):
            async with started.client.session.post("/v1/completions", json=asked) as response:
                await response.read()
