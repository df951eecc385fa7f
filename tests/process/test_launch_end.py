"""The end of an engine: asked for or not, nothing of its tree is left, whoever was killed."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from launch_scene import DEAF_ORPHAN, PYTHON, alive, eventually, launching, pids, shim_of

import warmd
from warmd.launch import DirectLauncher, EngineExit, LaunchError, LaunchSpec

POLITE = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"bye\\n"), os._exit(0)))
print("up", flush=True)
while True:
    signal.pause()
"""
DEAF = POLITE.replace('lambda *_: (os.write(1, b"bye\\n"), os._exit(0))', "signal.SIG_IGN")
HANGS_ON = DEAF_ORPHAN + "signal.pause()\n"


async def test_sigterm_is_honoured(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        engine = await scene.start_python(POLITE)
        assert await engine.stop(30) == EngineExit(0, asked_for=True)
        assert scene.text == ["up", "bye"]
        assert await engine.stop(30) == await engine.wait()


async def test_an_exit_nobody_asked_for_says_so(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        engine = await scene.start("/bin/sh", "-c", "exit 0")
        assert await engine.wait() == EngineExit(0, asked_for=False)
        engine = await scene.start("/bin/sh", "-c", "kill -SEGV $$")
        assert await engine.wait() == EngineExit(None, signal.SIGSEGV, asked_for=False)


async def test_sigkill_follows_when_the_grace_is_over(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        engine = await scene.start_python(DEAF)
        asked = time.monotonic()
        assert await engine.stop(0.3) == EngineExit(None, signal.SIGKILL, asked_for=True)
        assert time.monotonic() - asked >= 0.3


async def test_a_shim_that_talks_nonsense_vouches_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with launching(tmp_path) as scene:
        engine = await scene.start_python(HANGS_ON)
        tree = [engine.pid, *pids(scene.notes).values()]
        with monkeypatch.context() as spoilt:
            spoilt.setattr("warmd.launch.direct_engine.json.loads", lambda _: {"hello": "world"})
            os.kill(engine.pid, signal.SIGKILL)  # the shim will say so, and end what is left
            await engine.wait()
        assert not any(alive(pid) for pid in tree)


async def test_a_second_stop_may_be_less_patient(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        engine = await scene.start_python(DEAF)
        patient = asyncio.create_task(engine.stop(600))
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            assert await engine.stop(0) == await patient


async def test_stop_takes_what_has_left_session_and_parent(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        engine = await scene.start_python(HANGS_ON)
        assert (await engine.stop(5)).signal == signal.SIGTERM
        assert not alive(pids(scene.notes)["orphan"])


@pytest.mark.parametrize("end", ["is killed", "exits 0"])
async def test_when_the_main_process_ends_nothing_outlives_it(tmp_path: Path, end: str) -> None:
    async with launching(tmp_path) as scene:
        engine = await scene.start_python(HANGS_ON if end == "is killed" else DEAF_ORPHAN)
        if end == "is killed":
            os.kill(engine.pid, signal.SIGKILL)
        # The orphan holds the output pipe and ignores SIGTERM.
        async with asyncio.timeout(2):
            ended = await engine.wait()
        assert not alive(pids(scene.notes)["orphan"])
        assert ended == EngineExit(*((None, 9) if end == "is killed" else (0,)))


async def test_a_tree_that_keeps_forking_is_ended(tmp_path: Path) -> None:
    program = """
import os, signal, sys, time
print("up", flush=True)
for _ in range(4):
    os.fork()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork():
        time.sleep(0.01)
    else:
        os.setsid()
        time.sleep(0.05)
        os._exit(0)
"""
    async with launching(tmp_path) as scene:
        engine = await scene.start_python(program)
        async with asyncio.timeout(10):
            await engine.stop(0.1)
        marked = f"WARMD_RUN_DIR={tmp_path}/run".encode()
        assert [pid for pid in psutil.pids() if marked in environ(pid)] == []


async def test_the_moment_after_the_end_lets_a_child_tidy_up(tmp_path: Path) -> None:
    program = """
import os, signal, sys
if os.fork() == 0:
    signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"tidied\\n"), os._exit(0)))
    print("up", flush=True)
    while True:
        signal.pause()
signal.pause()
"""
    async with launching(tmp_path) as scene:
        engine = await scene.start_python(program)
        os.kill(engine.pid, signal.SIGKILL)
        await engine.wait()
        assert scene.text == ["up", "tidied"]


async def test_close_ends_every_tree(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        engines = [await scene.start_python(DEAF, name=f"tiny.{number}") for number in range(3)]
        server = scene.forkserver
    assert not any(alive(pid) for pid in [server, *(engine.pid for engine in engines)])
    assert (await engines[0].wait()).asked_for
    with pytest.raises(LaunchError, match="closed"):
        await scene.start("/bin/true")


async def test_a_killed_forkserver_is_replaced_and_engines_run_on(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        engine = await scene.start_python(POLITE)
        os.kill(scene.forkserver, signal.SIGKILL)
        other = await scene.start("/bin/sh", "-c", "exit 7", name="other.0")
        assert (await other.wait()).status == 7
        assert await engine.stop(5) == EngineExit(0, asked_for=True)


async def test_a_forkserver_killed_with_a_request_in_its_hands_costs_nothing(
    tmp_path: Path,
) -> None:
    async with launching(tmp_path) as scene:
        first = scene.forkserver
        os.kill(first, signal.SIGSTOP)
        start = asyncio.create_task(scene.start("/bin/sh", "-c", "exit 7"))
        await eventually(lambda: scene.launcher._engines)
        os.kill(first, signal.SIGKILL)
        assert (await (await start).wait()).status == 7
        assert scene.forkserver != first


async def test_a_killed_shim_takes_the_whole_tree_with_it(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        neighbour = await scene.start_python(POLITE, name="neighbour.0")
        engine = await scene.start_python(HANGS_ON)
        os.kill(shim_of(engine), signal.SIGKILL)
        async with asyncio.timeout(2):
            ended = await engine.wait()
        assert ended.sentence == "was killed by SIGKILL"
        assert not any(alive(pid) for pid in pids(scene.notes).values())
        assert alive(neighbour.pid)
        assert await neighbour.stop(5) == EngineExit(0, asked_for=True)


MAPS = (
    "import mmap, os\n"
    "fd = os.open(f'/dev/shm/psm_warmd{os.getpid()}', os.O_RDWR | os.O_CREAT)\n"
    "os.truncate(fd, 4096)\n"
    "mapped = mmap.mmap(fd, 4096)\n"
)


async def test_a_killed_shim_leaves_no_shared_memory(tmp_path: Path) -> None:
    """Leftovers in /dev/shm block restarts (vllm#54002)."""
    async with launching(tmp_path) as scene:
        engine = await scene.start_python(MAPS + HANGS_ON)
        segment = f"/dev/shm/psm_warmd{engine.pid}"
        assert os.path.exists(segment)
        os.kill(shim_of(engine), signal.SIGKILL)
        await engine.wait()
        assert not os.path.exists(segment)


WITH_A_SEMAPHORE = """
import multiprocessing, os, signal, time
lock = multiprocessing.get_context("spawn").Lock()
print("semaphore", lock._semlock.name, flush=True)
os.fork() or signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["engine", "shim", "nobody"])
async def test_a_hard_end_leaves_no_semaphore_and_takes_no_others(
    tmp_path: Path, victim: str
) -> None:
    """Python's own tidying dies with the tree, and each engine left one more."""
    ours: Any = multiprocessing.get_context("spawn").Lock()
    async with launching(tmp_path) as scene:
        neighbour = await scene.start(*PYTHON, "-c", WITH_A_SEMAPHORE, name="neighbour.0")
        await eventually(lambda: len(scene.text) == 1)
        engine = await scene.start(*PYTHON, "-c", WITH_A_SEMAPHORE)
        await eventually(lambda: len(scene.text) == 2)
        kept, gone = (f"/dev/shm/sem.{line.partition('/')[2]}" for line in scene.text)
        assert os.path.exists(gone)
        match victim:
            case "engine":
                os.kill(engine.pid, signal.SIGKILL)
                await engine.wait()
            case "shim":
                os.kill(shim_of(engine), signal.SIGKILL)
                await engine.wait()
            case _:
                await engine.stop(0)
        assert not os.path.exists(gone)
        assert os.path.exists(kept)
        assert os.path.exists(f"/dev/shm/sem.{ours._semlock.name[1:]}")
        await neighbour.stop(0)
        assert not os.path.exists(kept)


async def test_shared_memory_goes_before_who_could_tell_of_it(tmp_path: Path) -> None:
    """A shim may be killed, too, while the tree that it has just killed ends (vllm#54002)."""
    many = "for _ in range(50):\n    os.fork() or (time.sleep(600), os._exit(0))\n"
    async with launching(tmp_path) as scene:
        engine = await scene.start_python("import time\n" + MAPS + many + DEAF)
        segment = f"/dev/shm/psm_warmd{engine.pid}"
        assert os.path.exists(segment)
        ended = os.pidfd_open(engine.pid)
        stopping = asyncio.create_task(engine.stop(0))
        await asyncio.sleep(0)
        assert select.select([ended], [], [], 10)[0]
        assert not os.path.exists(segment)
        os.close(ended)
        await stopping


async def test_without_shim_and_forkserver_the_marks_are_enough(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        neighbour = await scene.start_python(POLITE, name="neighbour.0")
        engine = await scene.start_python(HANGS_ON)
        os.kill(scene.forkserver, signal.SIGKILL)
        os.kill(shim_of(engine), signal.SIGKILL)
        async with asyncio.timeout(5):
            await engine.wait()
        assert not any(alive(pid) for pid in pids(scene.notes).values())
        assert await neighbour.stop(5) == EngineExit(0, asked_for=True)


DAEMON = f"""
import asyncio, json, signal, sys
from pathlib import Path
from warmd.launch import DirectLauncher, LaunchSpec

async def main():
    folder = Path(sys.argv[1])
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    launcher = DirectLauncher(folder / "run")
    up = asyncio.Event()
    argv = (sys.executable, "-I", "-S", "-c", {HANGS_ON!r}, str(folder / "notes"))
    engine = await launcher.start(
        LaunchSpec("tiny.0", argv, {{}}, folder), lambda at, line: up.set()
    )
    await up.wait()
    print(json.dumps([launcher._server.pid, engine.pid]), flush=True)
    await interrupted.wait()
    print("interrupted", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@contextmanager
def daemon(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run a daemon with one engine; give its whole line: forkserver, shim, main, orphan."""
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(folder)],
        cwd=Path(warmd.__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        server, main = json.loads(process.stdout.readline())
        yield process, [server, psutil.Process(main).ppid(), *pids(folder / "notes").values()]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_nothing_outlives_a_killed_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path) as (process, line):
        assert len(line) == 4
        assert all(alive(pid) for pid in line)
        process.kill()
        await eventually(lambda: not any(alive(pid) for pid in line), within_s=2)


async def test_ctrl_c_at_the_terminal_is_for_the_daemon_alone(tmp_path: Path) -> None:
    with daemon(tmp_path) as (process, line):
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "interrupted\n"
        assert all(alive(pid) for pid in line)
        # Nor do signals that a service manager sends to every process of the service.
        for pid in line[:2]:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGHUP)
        await asyncio.sleep(0.1)
        assert all(alive(pid) for pid in line)


def environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


async def test_shared_memory_of_a_killed_tree_is_removed_and_that_of_others_is_not(
    tmp_path: Path,
) -> None:
    """Leftovers in /dev/shm block restarts (vllm#54002)."""
    program = tmp_path / "program.py"
    program.write_text(
        "import mmap, os, sys, time\n"
        "from multiprocessing.shared_memory import SharedMemory\n"
        "mine = SharedMemory(create=True, size=4096)\n"
        "fd = os.open('/dev/shm/' + sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "os.truncate(fd, 4096)\n"
        "others = mmap.mmap(fd, 4096)\n"
        "print('segment', mine.name, flush=True)\n"
        "time.sleep(600)\n"
    )
    others = f"/dev/shm/warmd-test-{os.getpid()}"
    said: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_line(_: float, text: str) -> None:
        if text.startswith("segment"):
            said.set_result(text.split()[1])

    launcher = DirectLauncher(tmp_path)
    try:
        argv = (sys.executable, str(program), others.rpartition("/")[2])
        spec = LaunchSpec("m.0", argv, {"PATH": os.defpath}, tmp_path)
        engine = await launcher.start(spec, on_line)
        segment = f"/dev/shm/{await asyncio.wait_for(said, 20)}"
        assert os.path.exists(segment)
        await engine.stop(0)
        assert not os.path.exists(segment)
        assert os.path.exists(others), "a name that others may share is left alone"
    finally:
        os.unlink(others)
        await launcher.close()
