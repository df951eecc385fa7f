"""The stage keeper beyond one daemon's life: found again, taken over, killed, lied to, alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from staging_rig import (
    alive,
    evict,
    hold,
    holding,
    keeper_python,
    resident,
    some_weights,
    take_away,
    the_program,
    until,
)

from warmd.ladder import Place
from warmd.staging import (
    FileSet,
    Keeper,
    KeeperEndedError,
    Left,
    Pace,
    Request,
    StagingError,
    StagingProgress,
)


@pytest.fixture
def weights(tmp_path: Path) -> FileSet:
    return some_weights(tmp_path / "a")


@asynccontextmanager
async def a_run_dir() -> AsyncIterator[Path]:
    """A folder whose stage keeper, if there is one at the end, is ended."""
    with tempfile.TemporaryDirectory(prefix="warmd-") as folder:
        yield Path(folder)
        last = Keeper(Path(folder))
        await last.open()
        await last.close(leave=False)


async def test_the_next_daemon_finds_what_is_held(weights: FileSet) -> None:
    async with a_run_dir() as folder:
        first = Keeper(folder, linger_s=60)
        held = await hold(first, weights)
        program = the_program(held)
        other = await first.hold("weights:n", Request(weights.files[:1], 8 << 20), Pace(), print)
        await first.close(leave=True)
        for file in weights.files:
            evict(file)
        assert sum(map(resident, weights.files)) == weights.total, "nobody is there, and it holds"

        second = Keeper(folder, linger_s=60)
        await second.open()
        before = time.monotonic()
        again = await hold(second, weights)
        assert time.monotonic() - before < 1
        assert (again.adopted, again.pid, again.resident) == (True, held.pid, weights.total)
        # Another request of the same name replaces what stands.
        anew = await second.hold(
            "weights:n", Request(weights.files[1:], 5 * (1 << 20) + 4097), Pace(), print
        )
        assert (anew.adopted, anew.pid == other.pid) == (False, False)
        await until(lambda: not psutil.pid_exists(other.pid))
        await second.close(leave=False)
        await until(lambda: not any(map(alive, (program.pid, held.pid, anew.pid))))
        assert list(folder.iterdir()) == []


async def test_what_stands_while_it_is_brought_in_is_found_too(weights: FileSet) -> None:
    async with a_run_dir() as folder:
        first = Keeper(folder, linger_s=60)
        request = Request(weights.files, weights.total)
        task = asyncio.create_task(
            first.hold("weights:m", request, Pace(urgent=False, rate=1 << 20), lambda _: None)
        )
        await until(lambda: any(map(resident, weights.files)))
        await first.close(leave=True)
        task.cancel()
        await asyncio.wait([task])
        second = Keeper(folder, linger_s=60)
        held = await second.hold("weights:m", request, Pace(), lambda _: None)
        assert (held.adopted, held.resident) == (True, weights.total)


async def test_the_next_daemon_is_told_what_is_held_before_it_asks(weights: FileSet) -> None:
    async with a_run_dir() as folder:
        first = Keeper(folder, linger_s=60)
        await hold(first, weights)
        part = Request(weights.files, weights.total, 5 << 20)
        await first.hold("weights:n", part, Pace(), lambda _: None)
        locked = Request(weights.files[:1], 8 << 20, place=Place.LOCKED)
        await first.hold("weights:o", locked, Pace(), lambda _: None)
        await first.close(leave=True)
        second = Keeper(folder, linger_s=60)
        await second.open()
        assert second.left == {
            "weights:m": Left(weights.total, 0),
            "weights:n": Left(5 << 20, 0),
            "weights:o": Left(8 << 20, 8 << 20),
        }
        held = await hold(second, weights)
        assert list(second.left) == ["weights:n", "weights:o"], "it was asked for"
        os.kill(next(p.pid for p in the_program(held).children() if p.pid != held.pid), 9)
        await until(lambda: len(second.left) == 1)
        the_program(held).kill()
        await until(lambda: second.left == {})
        await second.close(leave=False)


@pytest.mark.parametrize("linger_s", [0.3, 0.0])
async def test_alone_it_ends_after_its_time(weights: FileSet, linger_s: float) -> None:
    async with a_run_dir() as folder:
        keeper = Keeper(folder, linger_s=linger_s)
        held = await hold(keeper, weights)
        program = the_program(held)
        await keeper.close(leave=True)
        left = time.monotonic()
        await until(lambda: not (alive(program.pid) or alive(held.pid)))
        assert time.monotonic() - left >= linger_s
        assert not (folder / "stage.sock").exists()


async def test_what_no_daemon_asks_for_is_let_go(
    weights: FileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_run_dir() as folder:
        keeper = Keeper(folder, linger_s=60, python=keeper_python(folder, "program.CLAIM_S = 0.3"))
        kept, dropped = await hold(keeper, weights), await hold(keeper, weights, key="weights:n")
        await keeper.close(leave=True)
        later = Keeper(folder, linger_s=60)
        again = await hold(later, weights)
        await until(lambda: not psutil.pid_exists(dropped.pid))
        assert alive(kept.pid)
        assert again.pid == kept.pid


async def test_what_a_daemon_has_no_turn_for_yet_is_not_let_go(weights: FileSet) -> None:
    """It asks for one set after the other, and the first may have to be read for minutes."""
    async with a_run_dir() as folder:
        keeper = Keeper(folder, linger_s=60, python=keeper_python(folder, "program.CLAIM_S = 0.3"))
        left = await hold(keeper, weights)
        await keeper.close(leave=True)
        later, slow = Keeper(folder, linger_s=60), Pace(urgent=False, rate=8 << 20)
        first = Request(weights.files, weights.total)
        await later.hold("weights:n", first, slow, lambda _: None)
        assert (await hold(later, weights)).pid == left.pid


async def test_a_pace_that_changes_before_the_order_has_gone_out_is_kept(
    weights: FileSet,
) -> None:
    async with a_run_dir() as folder:
        keeper = Keeper(folder)
        request, slow = Request(weights.files, weights.total), Pace(urgent=False, rate=1 << 10)
        task = asyncio.create_task(keeper.hold("weights:m", request, slow, lambda _: None))
        await asyncio.sleep(0)  # its program isn't started yet
        keeper.pace("weights:m", Pace())
        assert (await asyncio.wait_for(task, 10)).complete


async def test_no_second_process_is_sent_where_the_first_hangs(
    weights: FileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_run_dir() as folder:
        keeper = Keeper(folder)
        held = await hold(keeper, weights)
        program = the_program(held)
        monkeypatch.setattr("warmd.staging.holding._END_S", 0.2)
        program.suspend()  # nobody hears of the end, as of one that is in the kernel
        is_stopped = f"m: process {program.pid}, the stage keeper, was stopped .*kill -CONT"
        with pytest.raises(StagingError, match=is_stopped):
            await held.release()
        with pytest.raises(StagingError, match=is_stopped):
            await hold(keeper, weights)
        monkeypatch.setattr("warmd.staging.holding.is_stopped", lambda _pid: False)
        with pytest.raises(StagingError, match="doesn't end"):
            await held.release()
        with pytest.raises(StagingError, match=f"m: process {held.pid}, .* hangs in the kernel"):
            await hold(keeper, weights)
        program.resume()
        await until(lambda: not psutil.pid_exists(held.pid))
        await until(lambda: keeper._hanging("weights:m") is None)
        assert (await hold(keeper, weights)).complete


async def test_the_keepers_death_is_told_and_the_next_staging_starts_another(
    weights: FileSet,
) -> None:
    async with a_run_dir() as folder:
        keeper = Keeper(folder, linger_s=60)
        held = await hold(keeper, weights)
        program = the_program(held)
        program.kill()
        with pytest.raises(KeeperEndedError) as ended:
            await asyncio.wait_for(held.lost(), 10)
        assert str(ended.value) == (
            f"m: process {program.pid}, the stage keeper, was killed by SIGKILL (an operator, or "
            "the kernel for want of memory: look for the OOM killer in the kernel's log); it is "
            "tried again in 1 s"
        )
        assert ended.value.retry_s == 1.0
        await until(lambda: not alive(held.pid))  # its children die with it
        await held.release()
        assert (folder / "stage.sock").exists(), "a dead one's socket is in the way"
        again = await hold(keeper, weights)
        assert again.resident == weights.total
        the_program(again).kill()
        with pytest.raises(KeeperEndedError, match="it is tried again in 30 s") as ended:
            await asyncio.wait_for(again.lost(), 10)
        assert ended.value.retry_s == 30.0, "it dies too often"
        await again.release()


async def test_a_set_that_hangs_holds_up_no_other(weights: FileSet, tmp_path: Path) -> None:
    async with a_run_dir() as folder:
        keeper = Keeper(folder, interval=0.05)
        stuck = await hold(keeper, weights)
        os.kill(stuck.pid, signal.SIGSTOP)
        for _ in range(2000):  # more than its pipe takes
            stuck.pace(Pace(urgent=False, rate=1 << 30))
        other = await asyncio.wait_for(hold(keeper, weights, key="weights:n"), 5)
        assert other.complete
        await asyncio.wait_for(stuck.release(), 5)
        assert not psutil.pid_exists(stuck.pid)
        assert alive(other.pid)


def greet(folder: Path) -> socket.socket:
    caller = socket.socket(socket.AF_UNIX)
    caller.settimeout(10)
    caller.connect(str(folder / "stage.sock"))
    assert json.loads(caller.recv(4096))["keeper"] == 1
    return caller


async def test_garbage_and_half_a_line_hurt_nobody(weights: FileSet) -> None:
    async with a_run_dir() as folder:
        keeper = Keeper(folder, linger_s=60)
        held = await hold(keeper, weights)
        await keeper.close(leave=True)
        with greet(folder) as caller:
            caller.sendall(
                b'\x00\xff\n[]\n"x"\n{"hold": 1}\n{"release": "weights:none", "number": 3}\n'
                b'{"pace": "weights:none", "urgent": true, "rate": null}\n{"linger": 60}\n{"hold"'
            )
        with greet(folder) as caller:  # in the midst of its hello
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        later = Keeper(folder)
        assert (await hold(later, weights)).pid == held.pid


async def test_a_second_daemon_takes_over(
    weights: FileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmd.staging.link._END_S", 0.5)
    async with a_run_dir() as folder:
        first, second = Keeper(folder, linger_s=60), Keeper(folder, linger_s=60)
        held = await hold(first, weights)
        again = await hold(second, weights)
        assert again.pid == held.pid
        with pytest.raises(KeeperEndedError, match="the stage keeper, has hung up"):
            await asyncio.wait_for(held.lost(), 10)
        assert alive(again.pid)


async def test_one_of_another_version_is_replaced(weights: FileSet) -> None:
    async with a_run_dir() as folder:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "stage.sock"))
            listener.listen()
            python = str(keeper_python(folder, "program.PROTOCOL = 2"))
            other = subprocess.Popen([python], stdin=listener.fileno())  # noqa: ASYNC220
        keeper = Keeper(folder)
        assert (await hold(keeper, weights)).complete
        assert other.wait(5) == 0


async def test_a_program_of_another_version_is_a_sentence(weights: FileSet) -> None:
    """As after an upgrade on disk, while the daemon runs."""
    async with a_run_dir() as folder:
        with pytest.raises(StagingError, match="another version of warmd was installed"):
            await hold(Keeper(folder, keeper_python(folder, "program.PROTOCOL = 2")), weights)


async def test_one_that_does_not_answer_is_replaced(
    weights: FileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_run_dir() as folder:
        keeper = Keeper(folder, linger_s=60)
        program = the_program(await hold(keeper, weights))
        await keeper.close(leave=True)
        monkeypatch.setattr("warmd.staging.link._ANSWER_S", 1.5)
        monkeypatch.setattr("warmd.staging.link._END_S", 0.5)
        program.suspend()
        told: list[str] = []
        later = Keeper(folder, report=told.append)
        began = time.monotonic()
        await later.open()
        assert time.monotonic() - began < 1.4, "a daemon's start waits for nobody"
        assert alive(program.pid)
        assert (await hold(later, weights)).complete
        assert not alive(program.pid)
        [sentence] = told
        assert f"process {program.pid}, the earlier stage keeper, gave no answer" in sentence
        assert "(it is stopped) and was ended" in sentence


async def test_a_socket_that_cannot_be_made_is_a_sentence(weights: FileSet, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    with pytest.raises(StagingError, match=r"too long for a unix socket.*\[host\] run_dir"):
        await Keeper(long).open()
    with pytest.raises(StagingError, match="too long for a unix socket"):
        await hold(Keeper(long), weights)
    async with a_run_dir() as folder:
        (folder / "stage.sock").write_text("mine")
        with pytest.raises(StagingError, match="is no socket: move it away"):
            await hold(Keeper(folder), weights)
        with pytest.raises(StagingError, match="can't be made"):
            await hold(Keeper(folder / "none"), weights)


async def test_nobody_else_may_connect(weights: FileSet) -> None:
    async with a_run_dir() as folder:
        keeper = Keeper(folder)
        await hold(keeper, weights)
        assert (folder / "stage.sock").stat().st_mode & 0o777 == 0o600
        await keeper.close(leave=False)


@pytest.mark.parametrize("known", [True, False])
async def test_silence_is_an_error(
    weights: FileSet, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """As of a read that hangs on a dead network mount; a stopped process is as silent."""
    monkeypatch.setattr("warmd.staging.holding.SILENCE_S", 1.0)
    if not known:
        monkeypatch.setattr("warmd.staging.holding.is_stopped", lambda _pid: False)
    async with holding(weights, interval=0.5) as held:
        os.kill(held.pid, signal.SIGSTOP)
        sentence = await asyncio.wait_for(held.lost(), 10)
        told = f"let it go on with `kill -CONT {held.pid}`" if known else "says nothing any more"
        assert told in sentence


async def test_silence_while_it_is_read_is_an_error_too(
    weights: FileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmd.staging.holding.SILENCE_S", 3.0)
    async with a_run_dir() as folder:
        keeper = Keeper(folder)
        seen: list[StagingProgress] = []
        request, slow = Request(weights.files, weights.total), Pace(urgent=False, rate=1 << 20)
        task = asyncio.create_task(keeper.hold("weights:m", request, slow, seen.append))
        await until(lambda: bool(seen))
        await asyncio.sleep(4)
        assert not task.done(), "slow isn't silent"
        (holder,) = (
            p for p in psutil.Process().children(recursive=True) if p.name() == "warmd-held"
        )
        holder.suspend()
        monkeypatch.setattr("warmd.staging.holding.is_stopped", lambda _pid: False)
        with pytest.raises(StagingError, match="m: not one byte could be read for 3 s"):
            await asyncio.wait_for(task, 10)
        assert not alive(holder.pid)


async def test_when_memory_gets_short_it_looks_what_is_left(weights: FileSet) -> None:
    """The kernel's word is made up, of a socket's urgent data: pressure is the whole machine's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        trigger = (
            "import socket; program.open_trigger = lambda: "
            f'socket.create_connection(("127.0.0.1", {port})).detach(); '
            "child._LOOKS_APART_S = 0.1"
        )
        async with a_run_dir() as folder:
            keeper = Keeper(folder, keeper_python(folder, trigger), interval=3600)
            held = await hold(keeper, weights)
            kernel, _ = server.accept()
            take_away(weights.files[0])
            await asyncio.sleep(0.3)
            assert resident(weights.files[0]) == 0, "nobody looks for an hour"
            kernel.send(b"!", socket.MSG_OOB)
            await until(lambda: resident(weights.files[0]) == 8 << 20)
            kernel.close()
            await held.release()


async def test_no_descriptor_stays_open_and_mappings_are_counted(tmp_path: Path) -> None:
    """An engine has tens of thousands of files; a process may map 65530."""
    for number in range(40):
        (tmp_path / f"{number:02}").write_bytes(b"x" * 5000)
    files = FileSet.of(sorted(tmp_path.iterdir()))
    few = "from holder import members; members.allowed_mappings = lambda: 30"
    async with a_run_dir() as folder:
        keeper = Keeper(folder, keeper_python(folder, few), linger_s=60)
        held = await hold(keeper, files)
        assert len(list(Path(f"/proc/{held.pid}/fd").iterdir())) < 10
        assert held.resident == 30 * 5000
        assert held.trouble is not None
        assert "the last 10 of its 40 files aren't held" in held.trouble
        assert "sysctl -w vm.max_map_count=" in held.trouble
        maps = Path(f"/proc/{held.pid}/maps").read_text()
        assert (str(files.files[29]) in maps, str(files.files[30]) in maps) == (True, False)


async def test_what_the_system_refuses_is_a_sentence(weights: FileSet) -> None:
    fault = 'child.can_populate = lambda: open("/nowhere/to/be/found")'
    async with a_run_dir() as folder:
        with pytest.raises(StagingError, match=r"m: /nowhere/.*No such file.*; put it back"):
            await hold(Keeper(folder, keeper_python(folder, fault)), weights)
    async with a_run_dir() as folder:
        fifo = folder / "fifo"
        os.mkfifo(fifo)
        with pytest.raises(StagingError, match="fifo: is no regular file"):
            await hold(Keeper(folder), FileSet((fifo,), 1))
