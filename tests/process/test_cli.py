from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from pathlib import Path

import pytest

from warmd.cli.main import main
from warmd.config import ConfigError, Problem
from warmd.control import ControlServer
from warmd.devices import Survey
from warmd.engine.sizing import Estimate
from warmd.foresight import Foresight
from warmd.history import Report, Start
from warmd.ladder import Phase, Rung
from warmd.reckoning import Account
from warmd.residency import SetInRam
from warmd.status import Decision, ModelStatus, ReplicaStatus, StagingStatus, Status
from warmd.timeline import Agenda, Timeline

WARMCTL = [sys.executable, "-m", "warmd.cli.main"]
ROOT = Path(__file__).parents[2]


class Daemon:
    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.models = 1
        self.problem: str | None = None
        self.trouble: str | None = None

    def snapshot(self) -> Status:
        now = time.time()
        replica = ReplicaStatus(
            "tiny.0", Rung.HOT, Phase.READY, 1, now, "caf\u00e9", 0, 0, None, None, None
        )
        staging = StagingStatus(1, 1, holding=True)
        model = ModelStatus(
            "tiny", (), Rung.HOT, Rung.HOT, "caf\u00e9", None, None, 0, 0.0, staging, (replica,)
        )
        models = {f"tiny{n}": model for n in range(self.models)}
        return Status("0.1.0", 7, now, now, models, history_trouble=self.trouble)

    async def settle(self) -> None:
        pass

    def shutdown(self) -> str:
        return "warmd ends"

    async def reload(self) -> list[str]:
        return ["m is new"]

    async def plan(self, config: Path | None) -> Foresight:
        if self.problem is not None:
            raise ConfigError([Problem(Path("/x.toml"), 3, "", self.problem)])
        return Foresight((str(config),), {}, ("tiny",), (), (), 0.0, None)

    async def agenda(self, next_s: float, config: Path | None) -> Agenda:
        return Agenda(Timeline(1000.0, 1000.0 + next_s, (), {}, (), ()))

    async def decisions(self, model: str) -> list[Decision]:
        why = "1 request waits for it"
        return [
            Decision(1000.0, f"{model}.0", Rung.STAGED, Rung.HOT, why, 41.25),
            Decision(900.0, f"{model}.0", Rung.COLD, Rung.STAGED, "it rests staged", None),
        ]

    async def history(self, model: str | None, since: float) -> Report:
        return Report(since + 1, since, 5.0, {}, [])

    async def size(self, model: str) -> Estimate:
        raise NotImplementedError

    async def return_gpu(self, name: str) -> str:
        if name != "1":
            raise LookupError(f"no GPU is named {name}")
        return "GPU 1 is back in service"

    async def forget_gpu(self, name: str) -> str:
        raise NotImplementedError

    async def report(self, models: Collection[str] | None, since: float) -> Account:
        raise NotImplementedError

    async def residency(self) -> list[SetInRam]:
        raise NotImplementedError

    def warmup_crons(self, model: str) -> tuple[()]:
        return ()

    def calendar(self, model: str) -> None:
        """No model has one."""

    async def last_starts(self, model: str) -> list[Start]:
        return []

    async def gpus(self) -> Survey:
        raise NotImplementedError

    def set_target(
        self, model: str, rung: Rung | None, for_s: float | None, replicas: int | None = None
    ) -> str:
        self.asked.append((model, rung, for_s, *([replicas] if replicas else [])))
        return "it goes hot"

    def try_files_again(self, model: str) -> None:
        pass

    async def shortfalls(self) -> tuple[str, ...]:
        return ()

    def keep_staged(self, model: str, for_s: float | None) -> str:
        return self.set_target(model, Rung.STAGED, for_s)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.sock"


@pytest.fixture
async def daemon(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Daemon]:
    monkeypatch.setenv("WARMD_SOCKET", str(path))
    daemon = Daemon()
    server = ControlServer(path, "no-such-group", daemon, bytes, lambda _: None)
    await server.start()
    yield daemon
    await server.close()


async def warmctl(*argv: str) -> int:
    return await asyncio.to_thread(main, argv)


async def test_status(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert await warmctl("status") == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == [
        *("MODEL", "RUNG", "TARGET", "DOING", "BUSY", "WAITING", "SINCE", "WHY")
    ]
    assert line.split() == ["tiny", "hot", "hot", "ready", "-", "-", "0", "s", "caf\u00e9"]
    assert await warmctl("status", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["models"]["tiny0"]["replicas"][0]["phase"] == "ready"


async def test_explain(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert await warmctl("explain", "tiny0") == 0
    said = capsys.readouterr().out
    assert "staged -> hot in 41.2 s: 1 request waits for it" in said
    assert said.index("cold -> staged") < said.index("staged -> hot")
    assert await warmctl("explain", "tiny0", "--json") == 0
    assert json.loads(capsys.readouterr().out)["decisions"][0]["to_rung"] == "hot"
    assert await warmctl("explain", "tniy0") == 1
    assert "did you mean tiny0" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["explain", "history", "size"])
@pytest.mark.parametrize("name", ["", "\udcff"])
async def test_a_name_that_can_be_none_is_unknown(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    """An empty shell variable asks for no model, not for all; argv may hold any byte."""
    assert await warmctl(command, name) == 1
    assert "no model is named" in capsys.readouterr().err


async def test_set(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert await warmctl("set", "tiny0", "hot", "--for", "1h30m") == 0
    assert capsys.readouterr().out == "it goes hot\n"
    assert await warmctl("set", "tiny0", "auto") == 0
    assert await warmctl("set", "tiny0", "hot", "--replicas", "2", "--for", "2h") == 0
    assert await warmctl("set", "tiny0", "cold", "--replicas", "2") == 1
    assert "cold has no replicas: it is hot and asleep that have" in capsys.readouterr().err
    assert daemon.asked == [
        ("tiny0", Rung.HOT, 5400.0),
        ("tiny0", None, None),
        ("tiny0", Rung.HOT, 7200.0, 2),
    ]
    capsys.readouterr()
    daemon.trouble = "the disk is full"
    for command in ("set tiny0 hot", "explain tiny0", "history", "status"):
        assert await warmctl(*command.split()) == 0
        assert "warning: the disk is full\n" in capsys.readouterr().out
    assert await warmctl("set", "tony0", "hot") == 1
    assert capsys.readouterr() == (
        "",
        "warmctl: no model is named tony0: did you mean tiny0?\n",
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "COMMAND"),
        (["set", "tiny", "warm"], "choose hot, asleep, staged, cold, auto"),
        (["set", "tiny", "hot", "--for", "2"], "must be a duration"),
        (["set", "tiny", "hot", "--for", "0s"], "more than 0"),
        (["status", "--json", "--watch"], "not allowed with"),
        (["probe", "tiny", "--idle", "15m,3d"], 'must be at most 12 times, each at most "1d"'),
    ],
)
def test_wrong_usage(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


async def test_plan(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/tmp")
    assert await warmctl("plan", "--config", "new.toml") == 0
    assert capsys.readouterr().out == "a reload of /tmp/new.toml would change nothing\n"
    assert await warmctl("plan", "--json") == 0
    assert json.loads(capsys.readouterr().out)["untouched"] == ["tiny"]
    daemon.problem = "no such key"
    assert await warmctl("plan") == 1
    assert capsys.readouterr().err.splitlines() == [
        "warmctl: a reload would be refused, and the running config would stay in force:",
        "/x.toml:3: no such key",
    ]


def test_no_daemon(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", str(path), "status"]) == 3
    assert capsys.readouterr().err == (
        f"warmctl: warmd doesn't answer at {path} (No such file or directory): "
        "is it running? systemctl status warmd\n"
    )
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        assert main(["set", "--socket", str(path), "tiny", "hot"]) == 3
    assert "(Connection refused)" in capsys.readouterr().err


def test_permission(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)  # root is refused nowhere
    assert main(["--socket", str(path), "status"]) == 1
    assert "add yourself to the group warmd" in capsys.readouterr().err


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhm"]
)
async def test_somebody_else_answers(
    answer: bytes, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(reply, path):
        assert await warmctl("--socket", str(path), "status") == 3
    assert "is not warmd" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["status", "set m hot", "reload", "plan", "shutdown", "explain m", "history", "size m"],
)
async def test_a_daemon_of_another_version(
    path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        if asked.startswith(b"POST"):
            await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_unix_server(reply, path):
        assert await warmctl("--socket", str(path), *command.split()) == 1
    assert "of another version" in capsys.readouterr().err


async def ended(process: Process) -> tuple[int, bytes]:
    assert process.stderr is not None
    errors = await asyncio.wait_for(process.stderr.read(), 20)
    return await asyncio.wait_for(process.wait(), 20), errors


async def test_watch_in_a_pipe_ends_on_ctrl_c_and_outlives_the_daemon(
    daemon: Daemon, path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        *WARMCTL, "status", "--watch", cwd=ROOT, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    header = await asyncio.wait_for(process.stdout.readline(), 20)
    assert header.startswith(b"MODEL")
    assert b"\x1b" not in await process.stdout.readline()
    away = path.with_name("away")
    os.rename(path, away)
    seen = b""
    while b"doesn't answer at" not in seen:
        seen = await asyncio.wait_for(process.stdout.readline(), 20)
    os.rename(away, path)
    while not seen.startswith(b"MODEL"):
        seen = await asyncio.wait_for(process.stdout.readline(), 20)
    process.send_signal(signal.SIGINT)
    await process.stdout.read()
    assert await ended(process) == (0, b"")


async def test_watch_on_a_terminal_gives_the_screen_back(daemon: Daemon) -> None:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *WARMCTL,
        *("status", "--watch"),
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        stdin=theirs,
        stdout=theirs,
        stderr=PIPE,
    )
    os.close(theirs)
    screen = b""
    while b"up 0 s" not in screen:
        screen += await asyncio.wait_for(asyncio.to_thread(os.read, ours, 65536), 20)
    assert b"\x1b[?1049h" in screen  # the alternate screen
    assert b"\x1b[1;32mhot" in screen
    process.send_signal(signal.SIGINT)
    assert await ended(process) == (0, b"")
    with suppress(OSError):  # EIO: all was read
        while True:
            screen += os.read(ours, 65536)
    os.close(ours)
    assert b"\x1b[?1049l" in screen


async def test_a_reader_that_had_enough(daemon: Daemon) -> None:
    daemon.models = 3000
    process = await asyncio.create_subprocess_shell(
        f"set -o pipefail; {' '.join(WARMCTL)} status | head -n 1",
        executable="/bin/bash",
        cwd=ROOT,
        stdout=PIPE,
        stderr=PIPE,
    )
    assert await ended(process) == (141, b"")


async def test_a_full_disk_and_a_poor_locale_end_in_no_traceback(daemon: Daemon) -> None:
    process = await asyncio.create_subprocess_shell(
        f"{' '.join(WARMCTL)} status > /dev/full", cwd=ROOT, stderr=PIPE
    )
    assert await ended(process) == (
        1,
        b"warmctl: can't write the answer: No space left on device\n",
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [*WARMCTL, "status"],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("caf\\xe9\n")


def test_set_starts_without_rich_or_aiohttp() -> None:
    program = (
        "import sys; from warmd.cli.main import main;"
        "main(['--socket', '/nowhere', 'set', 'tiny', 'hot']);"
        "print(sorted({'rich', 'aiohttp', 'pydantic', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
