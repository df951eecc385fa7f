from __future__ import annotations

import dataclasses
import grp
import json
import os
import pwd
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import aiohttp
import psutil
import pytest
import uvloop

from warmd.config.address import Address
from warmd.control import ControlError, ControlServer, MetricsServer, listen_privately
from warmd.devices import CardUse, Condition, GpuError, GpuTrouble, Holder, Survey, Surveyed
from warmd.engine.sizing import Estimate
from warmd.foresight import Foresight
from warmd.history import Report, Start
from warmd.ladder import FileKind, Rung
from warmd.reckoning import Account
from warmd.residency import KnownSet, SetInRam
from warmd.status import Decision, ModelStatus, StagingStatus, Status
from warmd.timeline import Agenda, Timeline

GROUP = grp.getgrgid(os.getgid()).gr_name


class Daemon:
    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.driver: Exception | None = None
        self.trouble: str | None = None

    def snapshot(self) -> Status:
        staging = StagingStatus(0, 10, holding=False)
        model = ModelStatus(
            "qwen3", ("gpt-4o",), Rung.COLD, Rung.HOT, "why", None, None, 0, 0.0, staging, ()
        )
        return Status("0.1.0", 7, 1.0, 2.0, {"qwen3": model}, history_trouble=self.trouble)

    async def settle(self) -> None:
        self.trouble = "the disk is full"  # that is seen once something is written

    def shutdown(self) -> str:
        return "warmd ends"

    async def reload(self) -> list[str]:
        return ["m is new"]

    async def plan(self, config: Path | None) -> Foresight:
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
        return [SetInRam(KnownSet("weights:qwen3", ("qwen3",), FileKind.WEIGHTS, None), None)]

    def warmup_crons(self, model: str) -> tuple[()]:
        return ()

    def calendar(self, model: str) -> None:
        """No model has one."""

    async def last_starts(self, model: str) -> list[Start]:
        return []

    async def gpus(self) -> Survey:
        if self.driver is not None:
            raise self.driver
        holder = Holder(12, "python", "qwen3.0", 5)
        use = CardUse("GPU-a", 0, "NVIDIA Fake", 10, 7, {12: 5}, frozenset())
        return Survey((Surveyed(use, (holder,), Condition(0, ecc=True, uncorrected=2)),))

    def set_target(
        self, model: str, rung: Rung | None, for_s: float | None, replicas: int | None = None
    ) -> str:
        if for_s == 13:
            raise ValueError("not for 13 seconds")
        if for_s == 14:
            raise KeyError("a bug")
        self.asked.append((model, rung, for_s, *([replicas] if replicas else [])))
        return "it goes hot"

    def try_files_again(self, model: str) -> None:
        pass

    async def shortfalls(self) -> tuple[str, ...]:
        return ()

    def keep_staged(self, model: str, for_s: float | None) -> str:
        return self.set_target(model, Rung.STAGED, for_s)


def present(path: Path) -> bool:
    return path.exists()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def client(path: Path, daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    server = ControlServer(path, GROUP, daemon, lambda: b"warmd_up 1\n", pytest.fail)
    await server.start()
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession("http://warmd", connector=connector) as client:
        yield client
    await server.close()
    assert not present(path)


async def test_status_is_the_dataclass_as_json(
    client: aiohttp.ClientSession, daemon: Daemon
) -> None:
    async with client.get("/status") as response:
        answer = await response.json()
    assert answer == json.loads(json.dumps(dataclasses.asdict(daemon.snapshot())))
    assert answer["models"]["qwen3"]["target"] == "hot"
    async with client.get("/metrics") as response:
        assert response.content_type == "text/plain"
        assert await response.read() == b"warmd_up 1\n"


async def test_set_hands_the_wish_over(client: aiohttp.ClientSession, daemon: Daemon) -> None:
    for asked in (
        {"model": "gpt-4o", "rung": "hot", "for": 7200},
        {"model": "qwen3", "rung": "cold", "for": None},
        {"model": "qwen3", "rung": "auto"},
    ):
        async with client.post("/set", json=asked) as response:
            assert response.status == 200
            full = {"history_trouble": "the disk is full"}
            assert await response.json() == {"models": {"qwen3": "it goes hot"}} | full
    assert daemon.asked == [
        ("qwen3", Rung.HOT, 7200.0),
        ("qwen3", Rung.COLD, None),
        ("qwen3", None, None),
    ]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("{", 400, "no JSON"),
        ("[]", 400, "must be an object"),
        ('{"model": "qwen3", "rung": "hot", "fro": 1}', 400, "unknown: fro"),
        ('{"model": "qwen3", "rung": "hot", "replicas": 0}', 400, '"replicas" must be a whole'),
        ('{"model": "qwen3", "rung": "auto", "replicas": 1}', 400, "auto has no replicas"),
        ('{"rung": "hot"}', 400, '"model" must be'),
        ('{"model": "qwen", "rung": "hot"}', 404, "did you mean qwen3?"),
        ('{"model": "zzz", "rung": "hot"}', 404, "there are gpt-4o, qwen3"),
        ('{"model": "qwen3", "rung": "warm"}', 400, "choose hot, asleep, staged, cold, auto"),
        ('{"model": "qwen3", "rung": "hot", "for": "2h"}', 400, "number of seconds"),
        ('{"model": "qwen3", "rung": "hot", "for": true}', 400, "number of seconds"),
        ('{"model": "qwen3", "rung": "hot", "for": 0}', 400, "more than 0"),
        ('{"model": "qwen3", "rung": "hot", "for": NaN}', 400, "more than 0"),
        ('{"model": "qwen3", "rung": "hot", "for": Infinity}', 400, "more than 0"),
        ('{"model": "qwen3", "rung": "hot", "for": 1' + 400 * "0" + "}", 400, "at most ten years"),
        ('{"model": "qwen3", "rung": "auto", "for": 60}', 400, "auto has no end"),
        ('{"model": "qwen3", "rung": "hot", "for": 13}', 409, "not for 13 seconds"),
        ('"' + "x" * 70_000 + '"', 413, "too large"),
    ],
)
async def test_what_can_not_be_set_is_answered_in_a_sentence(
    client: aiohttp.ClientSession, daemon: Daemon, body: str, status: int, words: str
) -> None:
    async with client.post("/set", data=body) as response:
        assert response.status == status
        assert words in (await response.json())["error"]
    assert daemon.asked == []


async def test_a_plan_of_what_is_no_path_is_refused(client: aiohttp.ClientSession) -> None:
    for config in ('"w.toml"', "1", r'"/a\u0000b"', r'"/\ud800"'):
        async with client.post("/plan", data=f'{{"config": {config}}}') as response:
            assert response.status == 400
            assert "the whole path of a file" in (await response.json())["error"]


async def test_a_plan_of_the_time_to_come(client: aiohttp.ClientSession) -> None:
    async with client.post("/plan", json={"next": 3600}) as response:
        told = await response.json()
    assert (told["timeline"]["until"], told["timeline"]["moves"], told["before"]) == (
        4600.0,
        [],
        None,
    )
    for ahead in (0, -1, "24h", True, 1e9):
        async with client.post("/plan", json={"next": ahead}) as response:
            assert response.status == 400
            assert '"next" must be' in (await response.json())["error"]


async def test_a_bug_is_no_refusal(client: aiohttp.ClientSession) -> None:
    async with client.post("/set", json={"model": "qwen3", "rung": "hot", "for": 14}) as response:
        assert response.status == 500


async def test_gpus_are_told_and_why_they_can_not_be(
    client: aiohttp.ClientSession, daemon: Daemon
) -> None:
    async with client.get("/gpus") as response:
        [card] = (await response.json())["gpus"]
    assert card["held_by"] == [{"pid": 12, "name": "python", "replica": "qwen3.0", "bytes": 5}]
    assert card["condition"]["ecc"] is True
    assert card["condition"]["troubles"][0]["sentence"].startswith("2 memory errors")
    for error, words in (
        (GpuError(GpuTrouble.MISMATCH), "differ in version: see nvidia-smi"),
        (TimeoutError(), "has been asked and doesn't answer: see nvidia-smi"),
    ):
        daemon.driver = error
        async with client.get("/gpus") as response:
            assert response.status == 503
            assert words in (await response.json())["error"]


async def test_other_paths_and_methods(client: aiohttp.ClientSession) -> None:
    async with client.get("/nothing") as response:
        assert response.status == 404
        assert (await response.json())["error"] == "GET /nothing: not found"
    async with client.get("/set") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"


def test_the_socket_is_private_before_it_can_be_reached(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def listen(self: socket.socket, backlog: int) -> None:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        super(socket.socket, self).listen(backlog)

    def chmod(target: Path, mode: int) -> None:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
            early.connect(str(target))
        real_chmod(target, mode)

    real_chmod = Path.chmod
    monkeypatch.setattr(Path, "chmod", chmod)
    monkeypatch.setattr(socket.socket, "listen", listen)
    umask = os.umask(0)
    try:
        listen_privately(path, GROUP, pytest.fail).close()
    finally:
        os.umask(umask)
    assert modes == [0o600, 0o660]
    assert path.stat().st_gid == os.getgid()


def test_without_the_group_it_stays_with_its_user(path: Path) -> None:
    reports: list[str] = []
    listen_privately(path, "no-such-group", reports.append).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "there is no group no-such-group" in reports[0]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_group_that_may_not_be_given_is_reported() -> None:
    mine = {os.getegid(), *os.getgroups()}
    other = next(group for group in grp.getgrall() if group.gr_gid not in mine)
    nobody = pwd.getpwnam("nobody").pw_uid
    reports: list[str] = []
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is for its owner alone
        os.chown(folder, nobody, -1)
        path = Path(folder, "control.sock")
        os.seteuid(nobody)
        try:
            listen_privately(path, other.gr_name, reports.append).close()
        finally:
            os.seteuid(0)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"this user may not give it to the group {other.gr_name}" in reports[0]


async def test_a_dead_daemons_socket_is_replaced_a_live_ones_is_not(
    path: Path, daemon: Daemon
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    first = ControlServer(path, GROUP, daemon, bytes, pytest.fail)
    await first.start()
    second = ControlServer(path, GROUP, daemon, bytes, pytest.fail)
    with pytest.raises(ControlError, match="another warmd runs"):
        await second.start()
    await second.close()
    assert present(path)
    os.unlink(path)
    await second.start()  # as after `rm`: the path is free
    await first.close()
    assert present(path)  # the first takes only its own away
    await second.close()


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ControlError, match="is no socket"):
        listen_privately(path, GROUP, pytest.fail)
    assert path.read_text() == "precious"
    with pytest.raises(ControlError, match="No such file"):
        listen_privately(path.parent / "none" / "c.sock", GROUP, pytest.fail)
    with pytest.raises(ControlError, match="too long"):
        listen_privately(path.parent / ("x" * 120), GROUP, pytest.fail)


def test_the_daemons_own_loop_serves_the_socket(path: Path, daemon: Daemon) -> None:
    async def scenario() -> None:
        server = ControlServer(path, GROUP, daemon, bytes, pytest.fail)
        await server.start()
        connector = aiohttp.UnixConnector(str(path))
        async with (
            aiohttp.ClientSession("http://warmd", connector=connector) as client,
            client.get("/status") as response,
        ):
            assert (await response.json())["pid"] == 7
        await server.close()
        assert not present(path)

    uvloop.run(scenario())


async def test_metrics_over_tcp() -> None:
    server = MetricsServer([Address("127.0.0.1", 0), Address("::1", 0)], lambda: b"warmd_up 1\n")
    await server.start()
    async with aiohttp.ClientSession() as client:
        for host, port in server.listening:
            where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            async with client.get(f"{where}/metrics") as response:
                assert await response.read() == b"warmd_up 1\n"
            async with client.post(f"{where}/set") as response:
                assert response.status == 404
    taken = MetricsServer([Address(*server.listening[0])], bytes)
    with pytest.raises(ControlError) as refused:
        await taken.start()
    host, port = server.listening[0]
    name = psutil.Process().name()
    assert str(refused.value) == (
        f"metrics can't be served on {host}:{port}: the port is taken by {name} (process "
        f"{os.getpid()}); stop it, or change [metrics] listen"
    )
    elsewhere = MetricsServer([Address("192.0.2.1", 8401)], bytes)
    with pytest.raises(ControlError, match=r"8401: Cannot assign requested address; change \[metr"):
        await elsewhere.start()
    await server.close()
