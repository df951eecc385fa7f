"""Sleep and wake of the real vLLM, which on the CPU goes through the motions and frees nothing.

Memory, speed and what level 2 drops are a GPU's; the scheduler, the endpoints and the answers are
the real ones.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from engine_scene import Engine, a_recipe, short_folder, spec, started_by, until_listening
from pydantic import SecretStr

from warmd.engine import SleepError, SleepSupport, VllmConnection, difference

PATIENCE_S = 300.0

pytestmark = [
    pytest.mark.skipif(
        "WARMD_TEST_ENGINE_PYTHON" not in os.environ, reason="no engine's Python: run scripts/test"
    ),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started() -> AsyncIterator[Engine]:
    """One vLLM for all of these tests, without a compile."""
    with short_folder() as root:
        recipe = replace(
            a_recipe(root, {}, ("--enforce-eager", "--max-model-len", "1024")),
            python=Path(os.environ["WARMD_TEST_ENGINE_PYTHON"]),
            engine_env={"VLLM_CPU_KVCACHE_SPACE": SecretStr("1")},
            sleep=SleepSupport.DRILL,
        )
        async with started_by(recipe, Path(os.environ["WARMD_TEST_MODEL"])) as engine:
            await until_listening(engine, PATIENCE_S)
            yield engine
            # A killed API server would leave the others (vllm#55510).
            tree = psutil.Process(engine.process.pid).children(recursive=True)
            engine.process.terminate()
            await asyncio.wait_for(engine.process.wait(), 60)
            for process in psutil.wait_procs(tree, 10)[1]:
                process.kill()


@pytest.fixture
def connection(started: Engine) -> VllmConnection:
    return VllmConnection(started.client, spec(timeout=60.0))


async def complete(started: Engine, **changes: object) -> dict[str, Any]:
    asked = {"model": "tiny", "prompt": "the quick", "max_tokens": 3, **changes}
    async with started.client.session.post("/v1/completions", json=asked) as response:
        assert response.status == 200
        answer: dict[str, Any] = await response.json()
        return answer


async def metrics(started: Engine) -> str:
    async with started.client.session.get("/metrics") as response:
        return await response.text()


@pytest.mark.parametrize("level", [1, 2])
async def test_it_sleeps_and_wakes_and_the_canary_sings_as_before(
    connection: VllmConnection, level: int
) -> None:
    await connection.warm_up()
    before = await connection.canary()
    assert before.tokens == 16, "a random model doesn't end early either"
    assert difference(before, await connection.canary(), slowest=0) is None
    assert not await connection.sleeping()
    await connection.sleep(level)
    assert await connection.sleeping()
    assert await connection.listening()
    await connection.wake(level)
    assert not await connection.sleeping()
    assert difference(before, await connection.canary(), slowest=0) is None


async def test_it_tells_its_version_and_its_names(connection: VllmConnection) -> None:
    assert (await connection.version() or "").startswith("0.")
    assert await connection.serves() == ("tiny",)


async def test_a_request_to_a_sleeper_hangs_until_the_wake(
    started: Engine, connection: VllmConnection
) -> None:
    await connection.sleep(1)
    asking = asyncio.create_task(complete(started))
    done, _ = await asyncio.wait({asking}, timeout=1.0)
    assert not done
    await connection.wake(1)
    answer = await asyncio.wait_for(asking, 60)
    assert answer["usage"]["completion_tokens"] == 3


async def test_a_sleep_under_a_request_aborts_it_behind_a_200(
    started: Engine, connection: VllmConnection
) -> None:
    """vllm#45520: hence the drain before."""
    asking = asyncio.create_task(complete(started, max_tokens=900, ignore_eos=True))
    async with asyncio.timeout(30):
        while not re.search(r"num_requests_running{[^}]*} 1\.0", await metrics(started)):
            assert not asking.done()
    await connection.sleep(1)
    choice = (await asyncio.wait_for(asking, 60))["choices"][0]
    assert choice["finish_reason"] == "abort"
    await connection.wake(1)


async def test_level_2_takes_three_steps_and_is_asleep_until_the_last(
    started: Engine, connection: VllmConnection
) -> None:
    await connection.sleep(2)
    session = started.client.session
    for step in ("/wake_up?tags=weights", "/collective_rpc"):
        async with session.post(step, json={"method": "reload_weights"}) as response:
            assert response.status == 200, await response.text()
        assert await connection.sleeping(), step
    async with session.post("/wake_up?tags=kv_cache") as response:
        assert response.status == 200
    assert not await connection.sleeping()


async def test_a_refused_call_is_one_sentence(connection: VllmConnection) -> None:
    with pytest.raises(SleepError, match=r"POST /sleep\?level=7&mode=abort .*HTTP 400, .1 validat"):
        await connection.sleep(7)
    assert not await connection.sleeping()
