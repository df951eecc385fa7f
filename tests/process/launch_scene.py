"""Real process trees for the tests of the launch room: tiny programs, and how to watch them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from warmd.launch import DirectLauncher, LaunchSpec, RunningEngine

PYTHON = (sys.executable, "-I", "-S")

DEAF_ORPHAN = """
import os, signal, sys, time
def note(what):
    with open(sys.argv[1], "a") as file:
        file.write(f"{what} {os.getpid()}\\n")
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:  # double fork: its parent is gone at once
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note("orphan")
        os.write(writer, b"x")
        while True:
            time.sleep(60)
    os._exit(0)
os.wait()
os.read(reader, 1)
note("main")
print("up", flush=True)
"""
"""A main process with a child that left its session, its parent and SIGTERM behind."""


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie doesn't."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def eventually(holds: Callable[[], object], within_s: float = 10.0) -> None:
    """Poll until `holds`; fail after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.005)


def pids(notes: Path) -> dict[str, int]:
    """Read what a program noted: word -> process."""
    if not notes.exists():
        return {}
    lines = [line.split() for line in notes.read_text().splitlines()]
    return {word: int(pid) for word, pid in lines}


@dataclass
class Scene:
    """A launcher, and the lines that its engines have printed."""

    folder: Path
    launcher: DirectLauncher
    lines: list[tuple[float, str]] = field(default_factory=list)

    @property
    def text(self) -> list[str]:
        return [line for _, line in self.lines]

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    @property
    def forkserver(self) -> int:
        server = self.launcher._server
        assert server is not None
        return server.pid

    def spec(
        self, *argv: str, name: str = "tiny.0", env: Mapping[str, str] | None = None
    ) -> LaunchSpec:
        return LaunchSpec(name, argv, env or {}, self.folder)

    async def start(
        self, *argv: str, name: str = "tiny.0", env: Mapping[str, str] | None = None
    ) -> RunningEngine:
        spec = self.spec(*argv, name=name, env=env)
        return await self.launcher.start(spec, lambda at, line: self.lines.append((at, line)))

    async def find(self, identity: str, name: str = "tiny.0") -> RunningEngine | None:
        return await self.launcher.find(
            name, identity, lambda at, line: self.lines.append((at, line))
        )

    async def start_python(self, program: str, *, name: str = "tiny.0") -> RunningEngine:
        """Start a program that is told where to note its processes; wait until it says up."""
        said = len(self.lines)
        engine = await self.start(*PYTHON, "-c", program, str(self.notes), name=name)
        await eventually(lambda: "up" in self.text[said:])
        return engine


@asynccontextmanager
async def launching(folder: Path, *, outlive: bool = False) -> AsyncIterator[Scene]:
    launcher = DirectLauncher(folder / "run", outlive=outlive)
    await launcher.open()
    try:
        yield Scene(folder, launcher)
    finally:
        await launcher.close()


def shim_of(engine: RunningEngine) -> int:
    """The process above an engine."""
    return psutil.Process(engine.pid).ppid()


def session(pid: int) -> int:
    return os.getsid(pid)
