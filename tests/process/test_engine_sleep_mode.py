"""Sleep, wake and canary against the fake engine, in every way that they are known to fail."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from engine_scene import Engine, a_recipe, short_folder, spec, started_by, until_listening

from warmd.config import WarmupKind
from warmd.engine import SleepError, SleepSupport, VllmConnection, WarmupError, difference, warm_up
from warmd.engine.sleep_mode import fall_asleep, is_sleeping, wake_up

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a b c"}]}
MIB = 1 << 20


@pytest.fixture
def root() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@asynccontextmanager
async def sleeper(
    root: Path, knobs: Mapping[str, object] | None = None, *args: str, **ways: Any
) -> AsyncIterator[Engine]:
    """A fake engine that can sleep; `ways` are the knobs of its sleep."""
    facts = {"record": str(root / "record"), **(knobs or {}), "sleep": ways}
    recipe = replace(a_recipe(root, facts, args), sleep=SleepSupport.REAL)
    (root / "weights").mkdir(exist_ok=True)
    async with started_by(recipe, root / "weights") as started:
        await until_listening(started)
        yield started


def told(root: Path, *events: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (root / "record").read_text().splitlines()]
    return [line for line in lines if line["event"] in events]


async def chat(started: Engine, **changes: object) -> dict[str, Any]:
    asked = {**CHAT, **changes}
    async with started.client.session.post("/v1/chat/completions", json=asked) as response:
        assert response.status == 200
        answer: dict[str, Any] = await response.json()
        return answer


async def one_cycle(started: Engine, level: int) -> None:
    await fall_asleep(started.client.session, level)
    await wake_up(started.client.session, level)


@pytest.mark.parametrize("bare_answers", [False, True])
@pytest.mark.parametrize("level", [1, 2])
async def test_an_engine_sleeps_and_wakes_and_answers_as_before(
    root: Path, level: int, bare_answers: bool
) -> None:
    async with sleeper(root, bare_answers=bare_answers) as started:
        connection = VllmConnection(started.client, spec())
        before = await connection.canary()
        await connection.sleep(level)
        assert await connection.sleeping()
        assert await connection.listening(), "/health says nothing of it"
        await connection.wake(level)
        assert not await connection.sleeping()
        assert difference(before, await connection.canary(), slowest=0) is None
    steps = [(each["event"], each.get("tags")) for each in told(root, "sleep", "wake", "reload")]
    woken: dict[int, list[tuple[str, object]]] = {
        1: [("wake", None)],
        2: [("wake", ["weights"]), ("reload", None), ("wake", ["kv_cache"])],
    }
    assert steps == [("sleep", None), *woken[level]]
    assert told(root, "sleep")[0]["level"] == level, "in the query: a body is ignored"


async def test_a_bare_wake_from_level_2_serves_garbage_that_only_the_canary_hears(
    root: Path,
) -> None:
    async with sleeper(root) as started:
        connection = VllmConnection(started.client, spec())
        before = await connection.canary()
        await connection.sleep(2)
        await connection.wake(1)
        await connection.warm_up()  # answered with 200, and tokens
        said = difference(before, await connection.canary(), slowest=0)
        assert said is not None
        assert before.digest in said


@pytest.mark.parametrize(
    ("ways", "says"),
    [
        ({"wrong_from_wake": 2}, "the canary's answer was "),  # vllm#29341
        ({"slow_from_wake": 2, "slow_token_s": 0.02}, "tokens a second"),  # vllm#52479
    ],
)
async def test_an_answer_that_a_wake_has_spoilt_is_heard(
    root: Path, ways: dict[str, Any], says: str
) -> None:
    async with sleeper(root, **ways) as started:
        connection = VllmConnection(started.client, spec())
        await connection.warm_up()
        before = await connection.canary()
        for cycle, heard in ((1, False), (2, True)):
            await connection.sleep(1)
            await connection.wake(1)
            said = difference(before, await connection.canary(), slowest=0.1)
            assert (says in (said or "")) is heard, (cycle, said)


async def test_requests_to_a_sleeper_hang_until_it_is_awake(root: Path) -> None:
    async with sleeper(root) as started:
        await fall_asleep(started.client.session, 1)
        asking = asyncio.create_task(chat(started, max_tokens=3))
        async with asyncio.timeout(5):
            while True:
                if told(root, "asked-asleep"):
                    break
                await asyncio.sleep(0.02)
        assert not asking.done()
        await wake_up(started.client.session, 1)
        assert (await asking)["usage"]["completion_tokens"] == 3


async def test_a_sleep_under_a_request_aborts_it_behind_a_200(root: Path) -> None:
    """vllm#45520: hence the drain before."""
    async with sleeper(root, {"token_s": 0.05, "tokens": 1000}) as started:
        whole = asyncio.create_task(chat(started))
        url = "/v1/chat/completions"
        async with started.client.session.post(url, json={**CHAT, "stream": True}) as response:
            assert await response.content.readline()
            await fall_asleep(started.client.session, 1)
            stream = (await response.read()).decode()
        assert stream.endswith("data: [DONE]\n\n")
        assert '"finish_reason":"abort"' in stream
        choice = (await whole)["choices"][0]
        assert choice["finish_reason"] == "abort"
        assert len(choice["message"]["content"].split()) < 1000


@pytest.mark.parametrize(
    ("ways", "says"),
    [
        (
            {"fails_in": "sleep"},
            r"POST /sleep\?level=2&mode=abort was answered with HTTP 500, '.*out of memory'; most",
        ),
        ({"fails_in": "sleep", "failure": "lie"}, "with HTTP 200, and still the engine is not asl"),
        ({"fails_in": "sleep", "failure": "exit"}, r"POST /sleep.* broke off: .*; see the engine"),
        (
            {"fails_in": "wake"},
            r"POST /wake_up\?tags=weights was answered with HTTP 500, .*no room left",
        ),
        ({"fails_in": "wake", "from_time": 2}, r"POST /wake_up\?tags=kv_cache .*HTTP 500"),
        ({"fails_in": "wake", "failure": "lie"}, r"collective_rpc .*HTTP 500, .*serve garbage"),
        (
            {"fails_in": "wake", "failure": "lie", "from_time": 2},
            r"POST /wake_up\?tags=kv_cache was answered .*200, and still the engine is not awake",
        ),
        ({"fails_in": "wake", "failure": "exit"}, "POST /wake_up.* broke off"),
        ({"fails_in": "reload"}, "POST /collective_rpc was .*HTTP 500, .*it would serve garbage"),
    ],
)
async def test_a_failure_is_one_sentence(root: Path, ways: dict[str, Any], says: str) -> None:
    async with sleeper(root, **ways) as started:
        with pytest.raises(SleepError, match=says):
            await one_cycle(started, 2)


@pytest.mark.parametrize("operation", ["sleep", "wake"])
async def test_a_call_that_hangs_is_left_cleanly(root: Path, operation: str) -> None:
    async with sleeper(root, fails_in=operation, failure="hang") as started:
        session = started.client.session
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(one_cycle(started, 1), 0.3)
        assert await started.client.listening()
        with pytest.raises(TimeoutError):  # EngineCore does one thing after the other
            await asyncio.wait_for(is_sleeping(session), 0.3)


async def test_an_engine_without_the_endpoints_is_explained(root: Path) -> None:
    (root / "weights").mkdir()
    async with started_by(a_recipe(root, {}), root / "weights") as started:
        await until_listening(started)
        for call in (fall_asleep(started.client.session, 1), wake_up(started.client.session, 1)):
            with pytest.raises(SleepError, match=r"HTTP 404, .* set engine\.sleep = \"off\""):
                await call


async def test_the_first_sleep_takes_host_memory_for_good_and_each_leaks(root: Path) -> None:
    """vllm#16663, vllm#21336."""
    ways: dict[str, Any] = {
        "first_sleep_s": 0.3,
        "pinned_bytes": 40 * MIB,
        "leaked_bytes": 20 * MIB,
    }
    async with sleeper(root, **ways) as started:
        process = psutil.Process(started.process.pid)
        held, took = [process.memory_info().rss], []
        for _ in range(2):
            since = time.monotonic()
            await fall_asleep(started.client.session, 1)
            took.append(time.monotonic() - since)
            await wake_up(started.client.session, 1)
            held.append(process.memory_info().rss)
        first, second = held[1] - held[0], held[2] - held[1]
        assert first > 55 * MIB
        assert 15 * MIB < second < 40 * MIB
        assert took[0] > 0.3 > took[1]


async def test_each_adapter_is_warmed_up_and_a_broken_one_is_named(root: Path) -> None:
    lora = ("--lora-modules", "polite=/lora/polite", '{"name": "rude", "path": "/lora/rude"}')
    async with sleeper(root, {"bad_adapters": ["rude"]}, *lora) as started:
        session = started.client.session
        connection = VllmConnection(started.client, spec())
        assert await connection.serves() == ("tiny", "polite", "rude")
        assert await connection.version() == "0.33.0"
        await warm_up(session, spec(adapters=("polite",)))
        asked = [json.loads(each["body"])["model"] for each in told(root, "request")[-2:]]
        assert asked == ["tiny", "polite"]
        with pytest.raises(WarmupError, match=r"to the adapter 'rude' was .* HTTP 500, 'LoRA"):
            await warm_up(session, spec(adapters=("polite", "rude")))
        with pytest.raises(WarmupError, match=r"'absent' was .*check --enable-lora and --lora-m"):
            await warm_up(session, spec(adapters=("absent",)))


async def test_the_canary_of_an_embedding_model(root: Path) -> None:
    async with sleeper(root, {"embedding": True}, wrong_from_wake=1) as started:
        connection = VllmConnection(started.client, spec())
        before = await connection.canary()
        assert (before.tokens, before.speed) == (0, 0.0)
        assert difference(before, await connection.canary(), slowest=0.9) is None
        await connection.sleep(1)
        await connection.wake(1)
        assert difference(before, await connection.canary(), slowest=0.9) is not None


async def test_no_cache_answers_for_the_canary_and_a_wrong_answer_is_no_song(root: Path) -> None:
    async with sleeper(root) as started:
        connection = VllmConnection(started.client, spec(kind=WarmupKind.COMPLETION))
        await connection.canary()
        await connection.canary()
        asked = [json.loads(each["body"]) for each in told(root, "request")]
        assert len({each["cache_salt"] for each in asked[1:]}) == 2
    async with sleeper(root, {"answer": "500"}) as started:
        connection = VllmConnection(started.client, spec())
        with pytest.raises(WarmupError, match="HTTP 500"):
            await connection.canary()
        started.process.kill()
        with pytest.raises(WarmupError, match="broke off"):
            await connection.canary()
