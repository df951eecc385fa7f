"""Engines that outlive the daemon: the next one finds each, wholly in hand, or can end it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import uvloop
from launch_scene import DEAF_ORPHAN, PYTHON, Scene, alive, eventually, launching, pids

import warmd
from warmd.launch import EngineExit, LaunchError, RunningEngine, shim_socket, sweep

HANGS_ON = DEAF_ORPHAN + "signal.pause()\n"
"""A main process, and an orphan of its that is deaf to SIGTERM."""

UNMARKED = HANGS_ON.replace(
    """        while True:
            time.sleep(60)
""",
    """        os.dup2(0, 1)
        os.dup2(0, 2)
        os.execve("/bin/sleep", ["sleep", "600"], {})
""",
)
"""The same, and the orphan bears no mark by which a sweep could know it."""

PRINTS_WHEN_TOLD = """
import os, pathlib, sys, time
def told(word):
    while not os.path.exists(word):
        time.sleep(0.005)
print("up", flush=True)
told("flood")
for number in range(20_000):
    print("line", number, "of a flood that no pipe holds", flush=True)
pathlib.Path("flooded").touch()
told("more")
print("more", flush=True)
time.sleep(600)
"""

DAEMON = """
import asyncio, json, sys
from pathlib import Path
from warmd.launch import DirectLauncher, LaunchSpec

async def main():
    folder, names, program = Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3]
    launcher = DirectLauncher(folder / "run", outlive=True)
    identities = {}
    for name in names:
        up = asyncio.Event()
        argv = (sys.executable, "-I", "-S", "-c", program, str(folder / "notes"))
        spec = LaunchSpec(name, argv, {}, folder)
        engine = await launcher.start(spec, lambda at, line: up.set())
        await up.wait()
        identities[name] = [engine.identity, engine.pid, engine.exec_at]
    print(json.dumps([launcher._server.pid, identities]), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@dataclass
class Left:
    """What a daemon has started, and how to SIGKILL the daemon."""

    daemon: subprocess.Popen[str]
    forkserver: int
    engines: dict[str, tuple[str, int, float]]
    orphan: int | None

    def identity(self, name: str = "tiny.0") -> str:
        return self.engines[name][0]

    def main(self, name: str = "tiny.0") -> int:
        return self.engines[name][1]

    def kill_daemon(self) -> None:
        self.daemon.kill()
        self.daemon.wait()

    def processes(self) -> list[int]:
        mains = [main for _, main, _ in self.engines.values()]
        shims = [psutil.Process(main).ppid() for main in mains]
        return [self.forkserver, *shims, *mains, *([self.orphan] if self.orphan else [])]


@contextmanager
def daemon(folder: Path, program: str = HANGS_ON, names: str = "tiny.0") -> Iterator[Left]:
    """Run a daemon until its engines are up; at the end nothing of it is left."""
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(folder), names, program],
        cwd=Path(warmd.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        try:
            server, engines = json.loads(process.stdout.readline())
            orphan = pids(folder / "notes").get("orphan")
            yield Left(process, server, engines, orphan)
        finally:
            process.kill()
            sweep(folder / "run")


async def found(scene: Scene, left: Left, name: str = "tiny.0") -> RunningEngine:
    engine = await scene.find(left.identity(name), name)
    assert engine is not None
    return engine


async def test_the_engine_of_a_killed_daemon_is_taken_over_and_stopped_whole(
    tmp_path: Path,
) -> None:
    with daemon(tmp_path) as left:
        line = left.processes()
        left.kill_daemon()
        assert left.daemon.stderr is not None
        # Whoever reads what the daemon says must see its end.
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(left.daemon.stderr.read) == ""
        assert all(alive(pid) for pid in line)
        async with launching(tmp_path, outlive=True) as scene:
            engine = await found(scene, left)
            assert (engine.name, engine.identity, engine.pid, engine.exec_at) == (
                "tiny.0",
                *left.engines["tiny.0"],
            )
            with pytest.raises(LaunchError, match=r"tiny\.0 runs already"):
                await scene.find(engine.identity)
            ended = await engine.stop(5)
            assert ended == EngineExit(None, signal.SIGTERM, asked_for=True)
            assert not any(alive(pid) for pid in line[2:])
            await eventually(lambda: not any(alive(pid) for pid in line))
            assert list((tmp_path / "run" / "engines").iterdir()) == []
            assert await scene.find(engine.identity) is None
            assert (await (await scene.start("/bin/sh", "-c", "exit 7")).wait()).status == 7


async def test_an_engine_is_handed_from_daemon_to_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path) as left:
        left.kill_daemon()
        for _ in range(3):
            async with launching(tmp_path, outlive=True) as scene:
                await (await found(scene, left)).leave()
        async with launching(tmp_path, outlive=True) as scene:
            engine = await found(scene, left)
            main_ended = asyncio.create_task(engine.main_ended())
            os.kill(engine.pid, signal.SIGSEGV)
            assert await engine.wait() == EngineExit(None, signal.SIGSEGV, asked_for=False)
            await main_ended
            assert left.orphan is not None
            assert not alive(left.orphan)


def test_the_event_loop_of_production_finds_and_leaves_as_well(tmp_path: Path) -> None:
    async def life(left: Left) -> None:
        for _ in range(2):
            async with launching(tmp_path, outlive=True) as scene:
                await (await found(scene, left)).leave()
        async with launching(tmp_path, outlive=True) as scene:
            engine = await found(scene, left)
            assert (await engine.stop(5)).asked_for

    with daemon(tmp_path) as left:
        left.kill_daemon()
        uvloop.run(life(left))


async def test_what_is_printed_while_nobody_reads_neither_blocks_nor_kills(
    tmp_path: Path,
) -> None:
    with daemon(tmp_path, PRINTS_WHEN_TOLD) as left:
        left.kill_daemon()
        (tmp_path / "flood").touch()
        await eventually((tmp_path / "flooded").exists)
        async with launching(tmp_path, outlive=True) as scene:
            await found(scene, left)
            flood = list(scene.text)
            (tmp_path / "more").touch()
            await eventually(lambda: scene.text[-1:] == ["more"])
            # The last of the flood was kept: each line whole and once, without a gap.
            first = 20_000 - len(scene.text) + 1
            assert 100 < len(flood) < 1000
            assert scene.text[:-1] == [
                f"line {number} of a flood that no pipe holds" for number in range(first, 20_000)
            ]


async def test_in_a_flood_each_daemon_begins_where_the_last_has_ended(tmp_path: Path) -> None:
    numbers = "import itertools\nfor n in itertools.count(): print(n, flush=True)\n"
    with daemon(tmp_path, numbers) as left:
        left.kill_daemon()
        seen: list[int] = []
        for _ in range(5):
            async with launching(tmp_path, outlive=True) as scene:
                engine = await found(scene, left)
                lines = scene.lines
                await eventually(lambda lines=lines: len(lines) > 1000)  # type: ignore[misc]
                await engine.leave()
                # The first and the last line of a daemon may be torn.
                seen += [int(text) for text in scene.text[1:-1]]
        assert seen == sorted(set(seen)), "no line is read by two"


async def test_another_identity_is_refused_and_the_engine_runs_on(tmp_path: Path) -> None:
    with daemon(tmp_path) as left:
        left.kill_daemon()
        boot, pid, started = left.identity().split(":")
        async with launching(tmp_path, outlive=True) as scene:
            assert await scene.find(f"{boot}:{pid}:{int(started) + 1}") is None
            assert await scene.find(left.identity(), "other.0") is None
            assert alive(left.main())
            await found(scene, left)


async def test_an_engine_that_ended_while_nobody_was_there_is_not_found(tmp_path: Path) -> None:
    with daemon(tmp_path) as left:
        line = left.processes()
        left.kill_daemon()
        os.kill(left.main(), signal.SIGKILL)
        await eventually(lambda: not any(alive(pid) for pid in line))
        async with launching(tmp_path, outlive=True) as scene:
            assert await scene.find(left.identity()) is None
            assert sweep(tmp_path / "run", name="tiny.0") == ()
            assert (await (await scene.start("/bin/true")).wait()).status == 0


async def test_an_end_that_is_not_over_yet_is_told(tmp_path: Path) -> None:
    slow = HANGS_ON.replace("signal.pause()", "signal.signal(15, lambda *_: 0)\nsignal.pause()")
    with daemon(tmp_path, slow) as left:
        left.kill_daemon()
        async with launching(tmp_path, outlive=True) as scene:
            os.kill(left.main(), signal.SIGKILL)
            await eventually(lambda: not alive(left.main()))
            engine = await found(scene, left)  # the orphan has half a second to tidy up
            await asyncio.wait_for(engine.main_ended(), 0.1)
            assert await engine.wait() == EngineExit(None, signal.SIGKILL)


@pytest.mark.parametrize("killed", ["shim", "forkserver", "both"])
async def test_what_is_left_of_a_killed_line_is_found_or_ended(tmp_path: Path, killed: str) -> None:
    with daemon(tmp_path) as left:
        server, shim, main, orphan = left.processes()
        left.kill_daemon()
        psutil.Process(shim).suspend()
        for pid in {"shim": [shim], "forkserver": [server], "both": [server, shim]}[killed]:
            os.kill(pid, signal.SIGKILL)
        if killed == "forkserver":
            psutil.Process(shim).resume()
        await eventually(lambda: not alive(main) or killed == "forkserver")
        async with launching(tmp_path, outlive=True) as scene:
            if killed == "forkserver":
                await (await found(scene, left)).stop(5)
            else:
                assert await scene.find(left.identity()) is None
                ended = sweep(tmp_path / "run", name="tiny.0")
                assert [each.pid for each in ended] in ([], [orphan])
                assert killed == "shim" or ended
            assert not any(alive(pid) for pid in (main, orphan))
            await eventually(lambda: not alive(shim))


@pytest.mark.parametrize("adopted", [True, False])
async def test_what_a_killed_shim_leaves_is_waited_for_though_it_bears_no_mark(
    tmp_path: Path, adopted: bool
) -> None:
    with daemon(tmp_path, UNMARKED) as left:
        server, shim, main, orphan = left.processes()
        left.kill_daemon()
        async with launching(tmp_path, outlive=True) as scene:
            engine = await found(scene, left) if adopted else None
            psutil.Process(server).suspend()
            os.kill(shim, signal.SIGKILL)
            await eventually(lambda: not alive(main))
            end = asyncio.create_task(
                engine.wait() if engine else asyncio.to_thread(sweep, tmp_path / "run")
            )
            assert not (await asyncio.wait([end], timeout=0.3))[0]
            psutil.Process(server).resume()
            assert await end in (EngineExit(None, signal.SIGKILL), ())
            assert not any(alive(pid) for pid in (shim, main, orphan))


async def test_a_second_daemon_is_refused_while_one_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shim_socket, "_ANSWER_WITHIN_S", 0.2)
    with daemon(tmp_path) as left:
        async with launching(tmp_path, outlive=True) as scene:
            with pytest.raises(LaunchError, match="belongs to another warmd that lives"):
                await scene.find(left.identity())
            with pytest.raises(LaunchError, match="an engine of this name is still there"):
                await scene.start("/bin/true")
            monkeypatch.undo()
            finding = asyncio.create_task(found(scene, left))
            await asyncio.sleep(0.05)
            left.kill_daemon()
            assert (await finding).pid == left.main()


async def test_a_shim_that_does_not_answer_is_not_believed_and_can_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shim_socket, "_ANSWER_WITHIN_S", 0.1)
    with daemon(tmp_path) as left:
        line = left.processes()
        psutil.Process(line[1]).suspend()
        left.kill_daemon()
        async with launching(tmp_path, outlive=True) as scene:
            assert await scene.find(left.identity()) is None
        sweep(tmp_path / "run", name="tiny.0")
        assert not any(alive(pid) for pid in line[1:])


async def test_an_orderly_daemon_leaves_what_it_wants_and_ends_the_rest(tmp_path: Path) -> None:
    try:
        async with launching(tmp_path, outlive=True) as scene:
            stays = await scene.start_python(HANGS_ON)
            goes = await scene.start_python(HANGS_ON, name="goes.0")
            waiting = [asyncio.ensure_future(stays.wait()), asyncio.create_task(stays.main_ended())]
            await asyncio.sleep(0)
            held = psutil.Process().num_fds()
            await stays.leave()
            await asyncio.wait(waiting)
            assert all(each.cancelled() for each in waiting)
            assert psutil.Process().num_fds() == held - 2
            assert goes.identity != stays.identity
        assert (await goes.wait()).asked_for
        assert alive(stays.pid)
        async with launching(tmp_path, outlive=True) as scene:
            engine = await scene.find(stays.identity)
            assert engine is not None
            assert (await engine.stop(5)).asked_for
    finally:
        sweep(tmp_path / "run")


async def test_where_engines_do_not_outlive_the_daemon_none_is_left_or_found(
    tmp_path: Path,
) -> None:
    with daemon(tmp_path, names="left.0") as left:
        left.kill_daemon()
        async with launching(tmp_path) as scene:
            engine = await scene.start("/bin/sleep", "60")
            with pytest.raises(LaunchError, match="was not started to outlive warmd"):
                await engine.leave()
            assert alive(engine.pid)
            assert await scene.find(left.identity("left.0"), "left.0") is None


async def test_the_sweep_spares_whom_it_is_told_and_ends_strays_with_their_shims(
    tmp_path: Path,
) -> None:
    with daemon(tmp_path, names="kept.0 stray.0") as left:
        server, kept_shim, stray_shim, kept, stray, stray_orphan = left.processes()
        left.kill_daemon()
        ended = sweep(tmp_path / "run", spare={"kept.0"})
        assert {each.name for each in ended} == {"stray.0"}
        assert not any(alive(pid) for pid in (stray, stray_shim, stray_orphan))
        assert all(alive(pid) for pid in (server, kept, kept_shim))
        async with launching(tmp_path, outlive=True) as scene:
            await (await found(scene, left, "kept.0")).leave()
        assert [path.name for path in (tmp_path / "run" / "engines").iterdir()] == ["kept.0.shim"]
        sweep(tmp_path / "run")
        assert not any(alive(pid) for pid in (kept, kept_shim))
        await eventually(lambda: not alive(server))
        assert list((tmp_path / "run" / "engines").iterdir()) == []


async def test_the_sweep_removes_the_shared_memory_of_what_it_kills(tmp_path: Path) -> None:
    """Leftovers in /dev/shm block restarts (vllm#54002)."""
    program = (
        "import mmap, os, sys, time\n"
        "path = f'/dev/shm/psm_warmd{os.getpid()}'\n"
        "fd = os.open(path, os.O_RDWR | os.O_CREAT)\n"
        "os.truncate(fd, 4096)\n"
        "mapped = mmap.mmap(fd, 4096)\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    )
    with daemon(tmp_path, program) as left:
        left.kill_daemon()
        segment = Path(f"/dev/shm/psm_warmd{left.main()}")
        assert segment.exists()
        sweep(tmp_path / "run")
        assert not segment.exists()


async def test_a_daemon_that_dies_before_its_engine_is_started_starts_none(tmp_path: Path) -> None:
    async with launching(tmp_path, outlive=True) as scene:
        server = psutil.Process(scene.forkserver)
        server.suspend()
        start = asyncio.create_task(scene.start("/bin/sh", "-c", f"touch {tmp_path}/begun"))
        await eventually(lambda: scene.launcher._engines)
        await scene.launcher._engines["tiny.0"].leave()
        await asyncio.wait([start])
        assert start.cancelled()
        server.resume()
        await (await scene.start("/bin/true", name="next.0")).wait()
        await eventually(lambda: server.children() == [])
        assert not (tmp_path / "begun").exists()


async def test_an_engine_holds_nothing_of_what_its_shim_keeps(tmp_path: Path) -> None:
    async with launching(tmp_path, outlive=True) as scene:
        await (
            await scene.start(*PYTHON, "-c", "import os; print(os.listdir('/proc/self/fd'))")
        ).wait()
        assert scene.text == ["['0', '1', '2', '3']"]
        server = psutil.Process(scene.forkserver)
        await eventually(lambda: server.children() == [])
        held = psutil.Process().num_fds(), server.num_fds()
        for _ in range(5):
            await (await scene.start("/bin/sleep", "60")).stop(5)
        await eventually(lambda: server.children() == [])
        await eventually(lambda: (psutil.Process().num_fds(), server.num_fds()) == held)


async def test_eight_engines_are_found_at_once(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    names = [f"m.{number}" for number in range(8)]
    with daemon(tmp_path, names=" ".join(names)) as left:
        left.kill_daemon()
        async with launching(tmp_path, outlive=True) as scene:
            began = time.monotonic()
            engines = await asyncio.gather(*(found(scene, left, name) for name in names))
            took = (time.monotonic() - began) * 1000
            record_property("adoption of eight engines", f"{took:.1f} ms")
            assert [engine.pid for engine in engines] == [left.main(name) for name in names]
            assert took < 1000
            await asyncio.gather(*(engine.stop(0) for engine in engines))
