"""One engine, started by the real command without a daemon, and the way to it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from warmd.config import WarmupKind
from warmd.engine import (
    EngineClient,
    EngineHome,
    EngineRecipe,
    StartTracker,
    WarmupSpec,
    engine_command,
    engine_home,
    failure_cause,
    point_at,
    prepare_home,
    stable_path,
)

SITE = Path(__file__).parents[1] / "fakes" / "site"


@dataclass
class Engine:
    """An engine that was started, and the way to it."""

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
        return failure_cause(self.lines, f"exited with status {status}").sentence


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="w-") as folder:
        yield Path(folder)


def a_recipe(root: Path, knobs: Mapping[str, object], args: tuple[str, ...] = ()) -> EngineRecipe:
    """Say how the fake engine is started."""
    return EngineRecipe(
        python=Path(sys.executable),
        model="tiny",
        weights=stable_path(root / "cache", "tiny"),
        home=engine_home(root / "run", "tiny.0"),
        cache_dir=root / "cache",
        slot=0,
        args=args,
        engine_env={"PYTHONPATH": SecretStr(str(SITE))},
        model_env={"FAKE_VLLM": SecretStr(json.dumps(knobs))},
    )


@asynccontextmanager
async def engine(root: Path, *args: str, **knobs: object) -> AsyncIterator[Engine]:
    """Start the fake engine."""
    (root / "weights").mkdir(exist_ok=True)
    async with started_by(a_recipe(root, knobs, args), root / "weights") as started:
        yield started


@asynccontextmanager
async def started_by(recipe: EngineRecipe, source: Path) -> AsyncIterator[Engine]:
    """Start the engine of `recipe`, be it the fake or the real one."""
    home = recipe.home
    prepare_home(home)
    point_at(recipe.weights, source)
    command = engine_command(recipe, os.environ)
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


async def until_listening(started: Engine, within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
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
