"""What the systemd launcher must hold, played inside a box as user warmd: `CASE` by name."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from warmd.launch import EngineExit, LaunchError, LaunchSpec, RunningEngine
from warmd.launch.systemd import SystemdLauncher

RUN = Path("/run/warmd")
_CASE_S = 90.0
PYTHON = ("/usr/bin/python3", "-I", "-S", "-u")
WAIT = "import time\nprint('up', flush=True)\nwhile True: time.sleep(60)\n"
DEAF = """
import os, signal, time
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:  # double fork: its parent is gone at once
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(writer, b"x")
        while True:
            time.sleep(60)
    os._exit(0)
os.wait()
os.read(reader, 1)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True: time.sleep(60)
"""


class Stage:
    """A launcher, what its engines have printed, and what it has reported."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []
        self.reports: list[str] = []
        self.launcher = SystemdLauncher(RUN, self.reports.append)

    @property
    def text(self) -> list[str]:
        return [line for _, line in self.lines]

    def spec(
        self,
        *argv: str,
        name: str = "tiny.0",
        env: dict[str, str] | None = None,
        cwd: str = "/run/warmd",
    ) -> LaunchSpec:
        return LaunchSpec(name, argv, {"PATH": "/usr/bin", **(env or {})}, Path(cwd))

    async def start(self, program: str, name: str = "tiny.0", **env: str) -> RunningEngine:
        return await self.begin(self.spec(*PYTHON, "-c", program, name=name, env=env))

    async def begin(self, spec: LaunchSpec) -> RunningEngine:
        return await self.launcher.start(spec, lambda at, line: self.lines.append((at, line)))

    async def find(self, identity: str, name: str = "tiny.0") -> RunningEngine | None:
        return await self.launcher.find(name, identity, lambda at, x: self.lines.append((at, x)))

    async def up(self, program: str, name: str = "tiny.0") -> RunningEngine:
        said = len(self.lines)
        engine = await self.start(program, name)
        await eventually(lambda: "up" in self.text[said:])
        return engine


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.launcher.open()
    try:
        yield stage
    finally:
        for said in stage.reports:
            print(said)
        await stage.launcher.close()
    assert not stage.reports


async def eventually(holds: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.005)


async def refusal(work: Awaitable[object]) -> str:
    said = None
    try:
        await work
    except LaunchError as error:
        said = str(error)
    assert said is not None, "it was not refused"
    assert "\n" not in said
    return said


def systemctl(*args: str) -> str:
    done = subprocess.run(
        ["systemctl", *args],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},  # not the libraries of our Python
    )
    return done.stdout.strip()


def processes_of(name: str = "tiny.0") -> list[int]:
    found = Path("/sys/fs/cgroup").rglob(f"warmd-engine@{name}.service/cgroup.procs")
    return [int(line) for each in found for line in each.read_text().split()]


async def starts_and_is_ended_whole() -> None:
    """An engine starts, prints, has exactly its environment, and ends when told."""
    async with staged() as stage:
        before = time.monotonic()
        engine = await stage.start(
            "import os, json, time\n"
            "print(json.dumps(dict(os.environ)))\n"
            "print(os.getcwd(), os.getuid(), oct(os.umask(0)))\n"
            "print('up')\ntime.sleep(60)",
            SECRET="s3cret ü",
        )
        assert before < engine.exec_at < time.monotonic()
        await eventually(lambda: "up" in stage.text)
        env, where, _ = stage.text
        told = json.loads(env)
        told.pop("LC_CTYPE", None)  # CPython's own, PEP 538
        home = {"HOME", "LOGNAME", "USER", "SHELL"}
        assert told.keys() - home == {"PATH", "SECRET"}, told
        assert told["SECRET"] == "s3cret ü"
        assert told["USER"] == "warmd-engine"
        assert where.split()[0] == "/run/warmd"
        assert where.split()[2] == "0o7"
        assert int(where.split()[1]) != os.getuid()
        at, _ = stage.lines[0]
        assert engine.exec_at - 0.05 < at < time.monotonic()
        assert processes_of() == [engine.pid]
        assert not list(RUN.glob("engines/tiny.0.*")), "the spec with its secrets is gone"
        ended = await engine.stop(5.0)
        assert ended == EngineExit(None, signal.SIGTERM, asked_for=True), ended
        assert not processes_of()


async def what_cannot_be_executed() -> None:
    """Each refusal is one sentence with its cause."""
    async with staged() as stage:
        said = await refusal(stage.begin(stage.spec("/nowhere/python")))
        assert "/nowhere/python does not exist" in said, said
        said = await refusal(stage.begin(stage.spec("/etc/passwd")))
        assert "x bit" in said, said
        said = await refusal(stage.begin(stage.spec("/bin/true", cwd="/nowhere")))
        assert "working folder /nowhere" in said, said
        said = await refusal(stage.begin(stage.spec("/srv/shut/python")))
        assert "may not enter /srv/shut" in said, said
        assert systemctl("is-failed", "warmd-engine@tiny.0") == "inactive"
        await (await stage.up(WAIT)).stop(1.0)


async def how_it_ended_is_told() -> None:
    """Its status and its signal, with all that it printed before."""
    async with staged() as stage:
        engine = await stage.start("print('a'); print('last words'); raise SystemExit(3)")
        assert await engine.wait() == EngineExit(3)
        assert stage.text == ["a", "last words"]
        engine = await stage.start("print('b')")
        assert await engine.wait() == EngineExit(0)
        assert stage.text[2:] == ["b"]
        engine = await stage.start("import os; os.kill(os.getpid(), 11)")
        assert await engine.wait() == EngineExit(None, signal.SIGSEGV)
        engine = await stage.start("for n in range(20000): print(n, 'x' * 40)\nraise SystemExit(1)")
        await engine.main_ended()
        await engine.wait()
        numbers = [int(line.split()[0]) for line in stage.text if line.endswith("x" * 40)]
        assert numbers == list(range(20000)), len(numbers)


async def the_deaf_are_ended_whole() -> None:
    """Whoever ignores SIGTERM, and whoever left session and parent, is gone when it is told."""
    async with staged() as stage:
        engine = await stage.up(DEAF)
        assert len(processes_of()) == 2
        began = time.monotonic()
        ended = await engine.stop(0.3)
        assert ended == EngineExit(None, signal.SIGKILL, asked_for=True), ended
        assert not processes_of()
        assert 0.3 <= time.monotonic() - began < 3.0
        engine = await stage.up(
            DEAF.replace("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint", "print")
        )
        assert await engine.stop(20.0) == EngineExit(None, signal.SIGTERM, asked_for=True)
        assert not processes_of()


async def a_later_daemon_finds_it() -> None:
    """It outlives its daemon and is found by its invocation, and by no other."""
    async with staged() as first:
        engine = await first.up(WAIT.replace("'up'", "'up'"))
        identity, pid = engine.identity, engine.pid
        await engine.leave()
    async with staged() as second:
        assert await second.find("0" * 32) is None
        found = await second.find(identity)
        assert found is not None
        assert (found.pid, found.identity) == (pid, identity)
        assert 0 < found.exec_at < time.monotonic()
        assert "runs already" in await refusal(second.find(identity))
        ended = await found.stop(5.0)
        assert ended == EngineExit(None, signal.SIGTERM, asked_for=True)
        assert await second.find(identity) is None


async def what_nobody_vouches_for_is_swept() -> None:
    async with staged() as first:
        engine, spared = await first.up(WAIT), await first.up(WAIT, "spared-1.x.0")
        await engine.leave()
        await spared.leave()
    async with staged() as second:
        killed = await second.launcher.sweep({"spared-1.x.0"})
        assert [(each.pid, each.name) for each in killed] == [(engine.pid, "tiny.0")]
        found = await second.find(spared.identity, "spared-1.x.0")
        assert found is not None
        assert await second.launcher.sweep({"spared-1.x.0"}) == ()
        await found.leave()
        await second.launcher.end_leftovers("spared-1.x.0")
        assert not processes_of("spared-1.x.0")


async def lines_of_all_kinds() -> None:
    async with staged() as stage:
        program = (
            "import sys, os\n"
            "print('one\\rtwo\\r\\nthree')\n"
            "print('\\x1b[31mred\\x1b[0m')\n"
            "sys.stdout.buffer.write(b'bad \\xff byte\\n'); sys.stdout.flush()\n"
            "print('y' * 200000 + 'END')\n"
            "print('<3>kept')\n"
            "print('ümlaut', file=sys.stderr)\n"
            "os.write(1, b'unfinished')\n"
        )
        engine = await stage.start(program)
        await engine.wait()
        assert stage.text[:5] == ["one", "two", "three", "\x1b[31mred\x1b[0m", "bad \ufffd byte"]
        assert stage.text[5] == "y" * 16384
        assert stage.text[6:] == ["<3>kept", "ümlaut", "unfinished"], stage.text[6:]


async def two_at_once() -> None:
    async with staged() as stage:
        program = "print('I am NAME')\n" + WAIT
        heard: dict[str, list[str]] = {"a-b.c.0": [], "d_e.0": []}

        async def one(name: str) -> RunningEngine:
            spec = stage.spec(*PYTHON, "-c", program.replace("NAME", name), name=name)
            return await stage.launcher.start(spec, lambda _, line: heard[name].append(line))

        engines = await asyncio.gather(*map(one, heard))
        await eventually(lambda: all("up" in lines for lines in heard.values()))
        assert heard == {name: [f"I am {name}", "up"] for name in heard}
        assert "still there" in await refusal(one("d_e.0"))
        await asyncio.gather(*(each.stop(5.0) for each in engines))


async def a_start_called_off_leaves_nothing() -> None:
    async with staged() as stage:
        for pause in (0.0, 0.005, 0.01, 0.02, 0.05):
            start = asyncio.create_task(stage.start(WAIT))
            await asyncio.sleep(pause)
            start.cancel()
            await asyncio.wait([start])
            if not start.cancelled():
                await start.result().stop(0)
            await eventually(lambda: not stage.launcher._engines and not processes_of())
        await (await stage.up(WAIT)).stop(1.0)


async def what_happens_around_it_is_outlived() -> None:
    """systemd and journald are restarted meanwhile, and D-Bus with them: nothing is lost after."""
    async with staged() as stage:
        engine = await stage.start(
            "import time\nfor n in range(100000):\n print(n)\n time.sleep(0.02)"
        )
        identity = engine.identity
        await eventually(lambda: stage.text)
        print("UP", flush=True)
        await eventually((RUN / "go").exists, 60.0)
        said = len(stage.text)
        await eventually(lambda: len(stage.text) > said + 20)
        numbers = [int(line) for line in stage.text]
        assert numbers == list(range(len(numbers))), numbers
        other = await stage.up(WAIT, "other.0")
        assert (await other.stop(5.0)).signal == signal.SIGTERM
        assert engine.identity == identity
        print("KILL", engine.pid, flush=True)
        assert await engine.wait() == EngineExit(None, signal.SIGKILL)


async def started_anew_by_others_it_is_nobodys() -> None:
    """`systemctl restart` of an engine's unit ends ours, and what comes of it."""
    async with staged() as stage:
        engine = await stage.up(WAIT)
        print("UP", flush=True)
        ended = await engine.wait()
        assert not ended.asked_for
        await eventually(lambda: not processes_of())
        await (await stage.up(WAIT)).stop(1.0)


async def refused_and_says_why() -> None:
    """The second argument is part of what must be said."""
    async with staged() as stage:
        said = await refusal(stage.start(WAIT))
        assert sys.argv[2] in said, said
        assert not list(RUN.glob("engines/tiny.0.*"))
        assert not stage.launcher._engines


async def measures_the_start() -> None:
    """Print how long it takes from the order until the program was exec'ed, and told so."""
    async with staged() as stage:
        took, heard = [], []
        for _ in range(30):
            began = time.monotonic()
            engine = await stage.start("pass")
            took.append(engine.exec_at - began)
            heard.append(time.monotonic() - began)
            await engine.wait()
        took.sort()
        heard.sort()
        print(
            json.dumps(
                {
                    "exec_ms": [round(1000 * took[n], 1) for n in (0, 15, 29)],
                    "told_ms": [round(1000 * heard[n], 1) for n in (0, 15, 29)],
                }
            )
        )


def _give_up() -> None:
    for task in asyncio.all_tasks():
        task.print_stack()
    os._exit(1)


async def _play(case: Callable[[], Awaitable[None]]) -> None:
    asyncio.get_running_loop().call_later(_CASE_S, _give_up)
    await case()


def main() -> None:
    asyncio.run(_play(globals()[sys.argv[1]]))


if __name__ == "__main__":
    main()
