"""Client, warm-up, stages and causes against the fake engine, started by the real command."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from warmd.config import WarmupKind
from warmd.engine import (
    EngineClient,
    EngineError,
    EngineHome,
    EngineRecipe,
    StartTracker,
    WarmupError,
    WarmupSpec,
    engine_command,
    engine_home,
    failure_cause,
    point_at,
    prepare_home,
    stable_path,
    warm_up,
)
from warmd.ladder import Stage

SITE = Path(__file__).parents[1] / "fakes" / "site"


@dataclass
class Engine:
    """A fake engine that was started, and the way to it."""

    process: asyncio.subprocess.Process
    home: EngineHome
    lines: list[str]
    tracker: StartTracker
    client: EngineClient
    reading: asyncio.Task[None]

    async def ended(self) -> str:
        """Wait for the end and return the cause."""
        status = await asyncio.wait_for(self.process.wait(), 10)
        await asyncio.wait_for(self.reading, 10)
        return failure_cause(self.lines, f"exited with status {status}")


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="w-") as folder:
        yield Path(folder)


@asynccontextmanager
async def engine(root: Path, *args: str, **knobs: object) -> AsyncIterator[Engine]:
    home = engine_home(root / "run", "tiny.0")
    prepare_home(home)
    (root / "weights").mkdir(exist_ok=True)
    weights = stable_path(root / "cache", "tiny")
    point_at(weights, root / "weights")
    command = engine_command(
        EngineRecipe(
            python=Path(sys.executable),
            model="tiny",
            weights=weights,
            home=home,
            cache_dir=root / "cache",
            slot=0,
            args=args,
            engine_env={"PYTHONPATH": SecretStr(str(SITE))},
            model_env={"FAKE_VLLM": SecretStr(json.dumps(knobs))},
        ),
        os.environ,
    )
    tracker = StartTracker(time.monotonic())
    process = await asyncio.create_subprocess_exec(
        *command.argv,
        env=dict(command.env),
        cwd=command.cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    tracker.exec(time.monotonic())
    lines: list[str] = []

    async def read() -> None:
        assert process.stdout is not None
        async for raw in process.stdout:
            lines.append(raw.decode().rstrip("\n"))
            tracker.line(time.monotonic(), lines[-1])

    reading = asyncio.create_task(read())
    client = EngineClient(home.socket)
    try:
        yield Engine(process, home, lines, tracker, client, reading)
    finally:
        await client.close()
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.wait_for(reading, 10)


async def until_listening(started: Engine) -> None:
    async with asyncio.timeout(10):
        while not await started.client.listening():
            assert started.process.returncode is None, started.lines
            await asyncio.sleep(0.02)


def spec(**changes: Any) -> WarmupSpec:
    facts = {
        "model": "tiny",
        "prompt": "Reply with one word: ok",
        "max_tokens": 1,
        "kind": WarmupKind.AUTO,
        "timeout": 5.0,
    }
    return WarmupSpec(**{**facts, **changes})


async def test_from_the_command_to_the_first_answer(root: Path) -> None:
    seconds = {"weights": 0.2, "compile": 0.1}
    async with engine(root, "--tensor-parallel-size=2", children=2, seconds=seconds) as started:
        assert not await started.client.listening()  # bound, like vLLM's, but not yet listening
        await until_listening(started)
        answer = await warm_up(started.client.session, spec())
        assert answer.kind is WarmupKind.CHAT
        assert 0 < answer.first_byte_s <= answer.seconds
        times = started.tracker.ready(time.monotonic())
        assert list(times.stages) == list(Stage)
        assert times.stages[Stage.WEIGHTS] > 0.15
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
