"""What `GET /history` and `warmctl history` answer, and what a whole daemon remembers."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from daemon_rig import Daemon, a_daemon, until

from warmd.cli.main import main
from warmd.control import ControlServer
from warmd.devices import Survey
from warmd.engine.sizing import Estimate
from warmd.foresight import Foresight
from warmd.history import History, Report, Start
from warmd.ladder import FilesAtStart, Rung, Stage, StartTimes
from warmd.reckoning import Account, account
from warmd.residency import SetInRam
from warmd.status import Decision, ModelStatus, StagingStatus, Status
from warmd.timeline import Agenda


class Owner:
    """The owner of the models for the admin API, with a real history."""

    def __init__(self, path: Path) -> None:
        self.remembered = History(path, print)

    def snapshot(self) -> Status:
        staging = StagingStatus(0, 10, holding=False)
        model = ModelStatus(
            "qwen3", ("gpt-4o",), Rung.COLD, Rung.HOT, "why", None, None, 0, 0.0, staging, ()
        )
        return Status("0.1.0", 7, 1.0, time.time(), {"qwen3": model})

    async def history(self, model: str | None, since: float) -> Report:
        return await asyncio.to_thread(self.remembered.report, model, since)

    async def report(self, models: Collection[str] | None, since: float) -> Account:
        past = self.remembered.past(models, since)
        return account(past, {}, "UTC", since, time.time())

    async def settle(self) -> None:
        pass

    def shutdown(self) -> str:
        return "warmd ends"

    async def reload(self) -> list[str]:
        raise NotImplementedError

    async def plan(self, config: Path | None) -> Foresight:
        return Foresight((str(config),), {}, ("tiny",), (), (), 0.0, None)

    async def agenda(self, next_s: float, config: Path | None) -> Agenda:
        raise NotImplementedError

    async def decisions(self, model: str) -> list[Decision]:
        raise NotImplementedError

    async def size(self, model: str) -> Estimate:
        raise NotImplementedError

    async def return_gpu(self, name: str) -> str:
        raise NotImplementedError

    async def forget_gpu(self, name: str) -> str:
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
        raise NotImplementedError

    def try_files_again(self, model: str) -> None:
        pass

    async def shortfalls(self) -> tuple[str, ...]:
        return ()

    def keep_staged(self, model: str, for_s: float | None) -> str:
        return self.set_target(model, Rung.STAGED, for_s)


@pytest.fixture
async def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Owner]:
    monkeypatch.setenv("WARMD_SOCKET", str(tmp_path / "c.sock"))
    owner = Owner(tmp_path / "history.db")
    server = ControlServer(tmp_path / "c.sock", "no-such-group", owner, bytes, lambda _: None)
    await server.start()
    now = time.time()
    for model, took, ago in (("qwen3", 8.0, 10), ("qwen3", 41.25, 7200), ("gone", 5.0, 60)):
        times = StartTimes({Stage.IMPORTS: took})
        owner.remembered.record_start(model, f"{model}.0", Rung.STAGED, times, now - ago)
        files = {"weights": FilesAtStart(100, 40, 100, held=True)}
        owner.remembered.record_start_files(f"{model}.0", now - ago, files)
    yield owner
    await server.close()
    owner.remembered.close()


async def warmctl(*argv: str) -> int:
    return await asyncio.to_thread(main, argv)


async def test_a_report_for_people(owner: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    assert await warmctl("history") == 0
    said = capsys.readouterr().out
    assert "starts        2 from staged: half within 8.0 s, longest 41.2 s" in said
    assert "gone\n" in said
    assert await warmctl("history", "gpt-4o", "--since", "1h") == 0
    said = capsys.readouterr().out
    assert "\nqwen3\n  starts        1 from staged: 8.0 s\n  last starts   " in said
    assert "in RAM as it began -> when ready: weights 40 -> 100 % (held)\n" in said
    assert "gone" not in said
    assert await warmctl("history", "qwen") == 1
    assert "did you mean qwen3" in capsys.readouterr().err


async def test_a_report_for_programs(owner: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    assert await warmctl("history", "qwen3", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    later, earlier = (start.pop("at") for start in answer["models"]["qwen3"]["last_starts"])
    assert later > earlier, "the newest stands first"
    start = {
        "replica": "qwen3.0",
        "from_rung": "staged",
        "files": {"weights": {"total": 100, "began": 40, "ready": 100, "held": True}},
        "first_token_s": None,
    }
    took = [{"seconds": each, "stages": {"imports": each}} for each in (8.0, 41.25)]
    assert answer["models"] == {
        "qwen3": {
            "last_starts": [start | each for each in took],
            "starts": {"staged": {"count": 2, "p50": 8.0, "max": 41.25}},
            "sleeps": None,
            "wakes": None,
            "first_tokens_awake": None,
            "synthetic": {},
            "probes": [],
            "not_kept": [],
            "failures": [],
            "requests": None,
        }
    }
    keys = {"time", "since", "slow_s", "models", "decisions", "history_trouble"}
    assert answer.keys() == keys


@pytest.mark.parametrize("since", ["yesterday", "nan", "-inf", ""])
async def test_a_time_that_is_none_is_refused(owner: Owner, tmp_path: Path, since: str) -> None:
    connector = aiohttp.UnixConnector(str(tmp_path / "c.sock"))
    async with aiohttp.ClientSession("http://warmd", connector=connector) as client:
        async with client.get("/history", params={"since": since}) as response:
            assert response.status == 400
            assert "Unix seconds" in (await response.json())["error"]
        async with client.get("/history", params={"since": "0", "model": "zzz"}) as response:
            assert response.status == 404


async def test_a_damaged_history_is_told_and_no_bug(
    owner: Owner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner.remembered.overrides.read()
    database = tmp_path / "history.db"
    for part in ("", "-wal"):
        file = database.with_name(database.name + part)
        file.write_bytes(b"\xff" * file.stat().st_size)
    assert await warmctl("history") == 1
    said = capsys.readouterr().err
    assert "history.db can't be read (" in said
    assert "bug" not in said


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with a_daemon() as daemon:
        yield daemon


def test_requests_are_remembered_over_restarts_and_never_their_words(daemon: Daemon) -> None:
    daemon.turn()
    models = {"m": 'resting = "hot"\naliases = ["other"]'}
    daemon.write_config(models, rest='[history]\nkeep = "1d"')

    def told() -> Any:
        return daemon.control("GET", "/history?model=other").json["models"]["m"]

    def moved_at() -> list[float]:
        return [each["at"] for each in daemon.control("GET", "/history?since=0").json["decisions"]]

    daemon.start()
    assert told()["requests"] is None
    assert daemon.chat(content="a secret").status == 200
    assert daemon.chat("other", user="a secret").status == 200
    first = told()
    assert first["requests"]["count"] == 2
    assert first["requests"]["first_delays"]["count"] >= 1
    assert sum(first["requests"]["met"].values()) == 2
    assert [start["count"] for start in first["starts"].values()] == [1]
    assert daemon.chat().status == 200
    assert b"warmd_requests_total{" in daemon.control("GET", "/metrics").body
    assert daemon.stop() == 0
    with closing(sqlite3.connect(daemon.folder / "state" / "history.db")) as db, db:
        db.execute("UPDATE decisions SET at = at - 2 * 86400")
    daemon.start()
    assert told()["requests"]["count"] == 3
    until(lambda: all(at > time.time() - 86400 for at in moved_at()), "old decisions are pruned")
    assert daemon.chat().status == 200
    daemon.stop(signal.SIGTERM)
    for file in (each for each in (daemon.folder / "state").rglob("*") if each.is_file()):
        assert b"secret" not in file.read_bytes()
    assert "Traceback" not in daemon.log


def test_who_relies_on_a_history_that_can_not_be_kept_is_told(daemon: Daemon) -> None:
    daemon.turn()
    daemon.write_config({"m": 'resting = "cold"'})
    (daemon.folder / "state" / "history.db").mkdir(parents=True)
    daemon.start()
    assert "what operators had set could not be read" in daemon.log
    asked = {"model": "m", "rung": "cold", "for": 60}
    told = [daemon.control("POST", "/set", asked), daemon.control("GET", "/explain?model=m")]
    for answer in (*(each.json for each in told), daemon.status):
        assert "history.db" in answer["history_trouble"]
    assert daemon.control("GET", "/history").status == 503
