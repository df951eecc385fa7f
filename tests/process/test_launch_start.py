"""Starting an engine: what it gets, what it says, and what is told where it can't be started."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import uvloop
from launch_scene import PYTHON, Scene, eventually, launching, session, shim_of

from warmd.launch import LaunchError, LaunchSpec


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


async def refusal(scene: Scene, *argv: str) -> str:
    with pytest.raises(LaunchError) as caught:
        await scene.start(*argv)
    assert not scene.launcher._engines, "the name must be free at once"
    return str(caught.value)


async def test_a_program_that_cannot_be_executed_is_explained(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        missing = str(tmp_path / "no-such")
        assert await refusal(scene, missing) == (
            f"tiny.0 was not started: {missing} does not exist; correct the path in the "
            "configuration"
        )
        plain = script(tmp_path / "plain", "#!/bin/sh\n", 0o644)
        assert f"{plain} may not be executed" in await refusal(scene, plain)
        assert "is a folder, not a program" in await refusal(scene, str(tmp_path))
        orphaned = script(tmp_path / "orphaned", "#!/opt/gone/bin/python\n")
        assert "needs the interpreter /opt/gone/bin/python" in await refusal(scene, orphaned)
        garbage = script(tmp_path / "garbage", "\0\1\2")
        assert "is no program for this machine" in await refusal(scene, garbage)
        assert "NUL byte" in await refusal(scene, "/bin/true", "a\0b")
        spec = LaunchSpec("tiny.0", ("/bin/true",), {}, tmp_path / "nowhere")
        with pytest.raises(LaunchError, match=r"working folder .*/nowhere can't be entered"):
            await scene.launcher.start(spec, lambda *_: None)
        assert (await (await scene.start("/bin/true")).wait()).status == 0


async def test_a_run_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    async with launching(tmp_path) as scene:
        with pytest.raises(LaunchError, match=r"tiny\.0 was not started: .*/run"):
            await scene.start("/bin/true")


REPORT = """
import json, os, sys
block = open("/proc/self/environ", "rb").read().split(b"\\0")
report = {
    "env": sorted(os.fsdecode(entry) for entry in block if entry),
    "argv": sys.argv[1:],
    "cwd": os.getcwd(),
    "fds": sorted(os.listdir("/proc/self/fd")),
    "stdin": os.readlink("/proc/self/fd/0"),
}
print(json.dumps(report))
"""


async def test_the_engine_gets_exactly_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMD_TEST_LEAK", "1")
    async with launching(tmp_path) as scene:
        # What a daemon may have open, and forget to close.
        with (tmp_path / "open").open("wb") as file:
            os.set_inheritable(file.fileno(), True)
            neighbour = await scene.start("/bin/sleep", "60", name="neighbour.0")
            odd = ["a b", "ünïcode \udcff\n", ""]
            env = {"A": "1", "B": "", "C": "\udcff"}
            await (await scene.start(*PYTHON, "-c", REPORT, *odd, env=env)).wait()
            await neighbour.stop(0)
        marks = ["WARMD_ENGINE=tiny.0", f"WARMD_RUN_DIR={tmp_path / 'run'}"]
        assert json.loads(scene.text[0]) == {
            "env": ["A=1", "B=", "C=\udcff", *marks],
            "argv": odd,
            "cwd": str(tmp_path),
            "fds": ["0", "1", "2", "3"],  # 3 is the listing itself
            "stdin": "/dev/null",
        }


async def test_no_signal_is_blocked_or_ignored_in_an_engine(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        await (await scene.start("/bin/grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")).wait()
        assert scene.text == ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"]


async def test_forkserver_shim_and_engine_have_sessions_of_their_own(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        engine = await scene.start("/bin/sleep", "60")
        shim = shim_of(engine)
        line = [os.getpid(), scene.forkserver, shim, engine.pid]
        assert psutil.Process(shim).ppid() == scene.forkserver
        assert len({session(pid) for pid in line}) == 4
        assert session(engine.pid) == engine.pid


async def test_a_spec_may_be_larger_than_any_packet(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        env = {f"V{number}": "x" * 100_000 for number in range(10)}
        argv = ("y" * 100_000,) * 5
        engine = await scene.start("/bin/sh", "-c", "echo $# ${#V9} ${#1}", "sh", *argv, env=env)
        await engine.wait()
        assert scene.text == ["5 100000 100000"]


async def test_one_name_runs_once(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        first, second = await asyncio.gather(
            scene.start("/bin/sleep", "60"),
            scene.start("/bin/sleep", "60"),
            return_exceptions=True,
        )
        assert not isinstance(first, BaseException)
        assert isinstance(second, LaunchError)
        await first.stop(5)
        await (await scene.start("/bin/true")).wait()


async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        os.kill(scene.forkserver, signal.SIGSTOP)  # so that the start can't be over before
        start = asyncio.create_task(scene.start("/bin/sleep", "60"))
        await eventually(lambda: scene.launcher._engines)
        start.cancel()
        await asyncio.wait([start])
        assert start.cancelled()
        os.kill(scene.forkserver, signal.SIGCONT)
        await eventually(lambda: not scene.launcher._engines)
        await eventually(lambda: psutil.Process(scene.forkserver).children() == [])


async def test_lines_arrive_stamped_and_in_order_while_the_engine_runs(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        before = time.monotonic()
        go = tmp_path / "go"
        engine = await scene.start(
            "/bin/sh",
            "-c",
            f"echo one; until [ -e {go} ]; do sleep 0.01; done; printf 'two\\rlast'",
        )
        await eventually(lambda: scene.text == ["one"])
        go.touch()
        await engine.wait()
        assert scene.text == ["one", "two", "last"]
        stamps = [at for at, _ in scene.lines]
        assert before <= engine.exec_at <= stamps[0] < stamps[1] <= stamps[2] <= time.monotonic()


async def test_all_that_was_printed_before_the_exit_is_there_after_wait(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        for _ in range(10):
            scene.lines.clear()
            await (await scene.start("/bin/sh", "-c", "seq 2000; exec seq 2001 4000")).wait()
            assert scene.text == [str(number) for number in range(1, 4001)]


async def test_a_flood_neither_stalls_the_loop_nor_grows_memory(tmp_path: Path) -> None:
    size = 50 * 1024 * 1024
    count = 0

    def on_line(_: float, line: str) -> None:
        nonlocal count
        count += len(line) + 1

    async with launching(tmp_path) as scene:
        before = psutil.Process().memory_info().rss
        shell = f"yes a line of the flood, as engines print them | head -c {size}"
        engine = await scene.launcher.start(scene.spec("/bin/sh", "-c", shell), on_line)
        end = asyncio.ensure_future(engine.wait())
        turns = 0
        while not end.done():
            await asyncio.sleep(0)
            turns += 1
        assert abs(count - size) < 100
        # A turn takes one mouthful of the pipe: others had a turn after each.
        assert turns > size / (16 * 1024)
        assert psutil.Process().memory_info().rss - before < 16 * 1024 * 1024


async def test_fifty_cycles_leak_no_descriptor_and_no_process(tmp_path: Path) -> None:
    async with launching(tmp_path) as scene:
        server = psutil.Process(scene.forkserver)

        def held() -> tuple[int, int]:
            return psutil.Process().num_fds(), server.num_fds()

        await (await scene.start("/bin/sleep", "60")).stop(5)
        await eventually(lambda: server.children() == [])
        await asyncio.to_thread(lambda: None)
        before = held()
        for _ in range(50):
            await (await scene.start("/bin/sleep", "60")).stop(5)
        await eventually(lambda: server.children() == [])
        await eventually(lambda: held() == before)
        assert list((tmp_path / "run" / "engines").iterdir()) == []


async def test_an_exec_follows_its_request_at_once(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async with launching(tmp_path) as scene:
        delays = []
        for _ in range(100):
            asked = time.monotonic()
            engine = await scene.start("/bin/true")
            delays.append((engine.exec_at - asked) * 1000)
            await engine.wait()
        delays.sort()
        told = f"median {statistics.median(delays):.1f} ms, p99 {delays[98]:.1f} ms"
        record_property("start latency", told)
        print(f"request to exec, 100 starts: {told}")


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_event_loops_carry_a_whole_life(
    tmp_path: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def life() -> None:
        async with launching(tmp_path) as scene:
            engine = await scene.start_python(
                "import time; print('up', flush=True); time.sleep(60)"
            )
            ended = await engine.stop(5)
            assert (ended.signal, ended.asked_for) == (15, True)
            assert ended.sentence == "was killed by SIGTERM"
            await refusal(scene, "/no/such/program")
            os.kill(scene.forkserver, 9)
            assert (await (await scene.start("/bin/sh", "-c", "exit 3")).wait()).status == 3

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(life())


async def test_a_forkserver_that_stands_still_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmd.launch.direct._ANSWER_WITHIN_S", 0.5)
    async with launching(tmp_path) as scene:
        running = await scene.start_python(
            "import time; print('up', flush=True); time.sleep(60)", name="other.0"
        )
        stuck = scene.forkserver
        os.kill(stuck, signal.SIGSTOP)
        with pytest.raises(LaunchError, match=rf"forkserver \(process {stuck}\) had not moved"):
            await scene.start("/bin/true")
        await eventually(lambda: "tiny.0" not in scene.launcher._engines)
        assert (await (await scene.start("/bin/sh", "-c", "exit 3")).wait()).status == 3
        assert scene.forkserver != stuck
        assert psutil.pid_exists(running.pid), "what runs is not touched"
