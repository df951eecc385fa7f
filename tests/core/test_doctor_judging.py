"""What the doctor makes of what it has seen."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from warmd.cli.doctor import report
from warmd.config import Address, SleepMode, load_what_is_sound
from warmd.devices import (
    Condition,
    Gpu,
    GpuError,
    GpuTrouble,
    Inventory,
    Recovery,
    SickGpu,
    Xid,
)
from warmd.doctor.clock import ClockFacts, judge_clock
from warmd.doctor.daemon import DaemonAnswer, judge_daemon, judge_group
from warmd.doctor.engine_python import EngineFacts, judge_engine
from warmd.doctor.examination import runner_of
from warmd.doctor.finding import Finding, Level, note, ok, problem
from warmd.doctor.folders import Folder, judge_folders
from warmd.doctor.gpus import GpuFacts, judge_gpus
from warmd.doctor.kernel import KernelFacts, judge_kernel
from warmd.doctor.limits import Limits, judge_limits
from warmd.doctor.memory import MemoryFacts, judge_memory
from warmd.doctor.ports import Port, judge_ports
from warmd.doctor.shared_memory import SharedMemory, judge_shared_memory, removal
from warmd.doctor.sound import SoundConfig
from warmd.doctor.user import Kind, Obstacle, Right, User, allows, obstacle
from warmd.doctor.weights import ModelWeights, judge_weights
from warmd.listeners import Taker

GIB = 2**30
ROOT, WARMD = User(0, frozenset({0})), User(990, frozenset({990, 44}))
GPU = Gpu(0, "GPU-1", "NVIDIA H200", 141 * GIB, 0)
CLOSED = Obstacle(Path("/root"), Kind.CLOSED, "may not be entered by user x", "chmod o+x /root")


def levels(found: Iterable[Finding]) -> list[str]:
    return [each.level for each in found]


def only(found: Iterable[Finding], level: Level = Level.PROBLEM) -> Finding:
    """The only finding that is as bad as `level`; like every bad one it has a remedy."""
    [finding] = [each for each in found if each.level is level]
    assert finding.remedy or level is Level.OK
    return finding


@pytest.mark.parametrize("trouble", list(GpuTrouble))
def test_every_trouble_with_gpus_has_a_remedy(trouble: GpuTrouble) -> None:
    facts = GpuFacts(1, "570.1", GpuError(trouble, "Unknown"), ())
    finding = only(judge_gpus(facts, needed=None))
    assert finding.sentence.startswith("no GPU can be used: ")
    [*_, sick] = judge_gpus(
        GpuFacts(2, "570.1", Inventory("570.1", (GPU,), (SickGpu(1, GpuError(trouble)),)), ()), True
    )
    assert sick.level is Level.PROBLEM
    assert sick.remedy


@pytest.mark.parametrize(
    ("trouble", "module", "words"),
    [
        (GpuTrouble.MISMATCH, "570.1", "(loaded: 570.1): reboot"),
        (GpuTrouble.NO_DRIVER, None, "modprobe nvidia"),
        (GpuTrouble.NO_DRIVER, "570.1", "nvidia-modprobe"),
        (GpuTrouble.LOST, "570.1", "grep -i xid"),
        (GpuTrouble.RESET_REQUIRED, "570.1", "--gpu-reset"),
        (GpuTrouble.NO_LIBRARY, "570.1", "of version 570.1"),
    ],
)
def test_the_remedy_fits_the_trouble(trouble: GpuTrouble, module: str | None, words: str) -> None:
    facts = GpuFacts(1, module, GpuError(trouble), ())
    assert words in only(judge_gpus(facts, needed=True)).remedy


def test_no_card_is_a_problem_only_where_vllm_needs_one() -> None:
    facts = GpuFacts(0, None, GpuError(GpuTrouble.NO_LIBRARY), ())
    assert [levels(judge_gpus(facts, needed)) for needed in (True, False, None)] == [
        ["problem"],
        ["ok"],
        ["note"],
    ]


def test_device_files_are_judged_beside_the_driver() -> None:
    missing = Obstacle(Path("/dev/nvidia-uvm"), Kind.MISSING, "isn't there", "")
    closed = replace(CLOSED, path=Path("/dev/nvidia0"))
    facts = GpuFacts(1, "570.1", Inventory("570.1", (GPU,), ()), (missing, closed))
    fine, absent, shut = judge_gpus(facts, needed=True)
    assert fine.sentence == "1 GPU: NVIDIA H200 (141.0 GiB); driver 570.1"
    assert "nvidia-modprobe -u" in absent.remedy
    assert "join it, or chmod o+x" in shut.remedy


def test_a_gpu_that_needs_a_reset_is_a_problem_and_one_that_was_ill_a_warning() -> None:
    met = Xid((0, 0x65, 0), 79, 500.0, "GPU has fallen off the bus.")
    conditions = {
        0: Condition(0, recovery=Recovery.GPU_RESET),
        1: Condition(1, uncorrected=2, xids=(met,)),
        2: Condition(2, xids=(replace(met, number=13), replace(met, at=-90_000.0))),
    }
    nvml = Inventory("570.1", (GPU,), ())
    facts = GpuFacts(3, "570.1", nvml, (), conditions, time=600.0)
    _, reset, errors, xid = judge_gpus(facts, needed=True)
    assert (reset.level, errors.level, xid.level) == ("problem", "warning", "warning")
    assert reset.sentence == "GPU 0: its driver asks for a reset of the GPU"
    assert "--gpu-reset -i 0" in reset.remedy
    assert "2 memory errors could not be corrected" in errors.sentence
    assert xid.sentence == "GPU 1: Xid 79: GPU has fallen off the bus."


ENGINE = EngineFacts(Path("/opt/vllm/bin/python"), "3.12.1", "vllm", "0.33.0", "2.13.0")


@pytest.mark.parametrize(
    ("change", "found", "words"),
    [
        ({}, ["ok"], "vllm 0.33.0, torch 2.13.0, Python 3.12.1"),
        ({"vllm": "0.33.0+cpu"}, ["ok", "note"], "can't sleep"),
        ({"vllm": "0.25.1"}, ["ok", "warning"], "0.26 and later"),
        ({"vllm": "dev"}, ["ok", "warning"], "not known"),
        ({"vllm": None, "package": None}, ["problem"], "has no vLLM"),
        ({"torch": None}, ["problem"], "no torch"),
        ({"trouble": "gave no answer in 20 s"}, ["problem"], "gave no answer"),
        ({"obstacle": CLOSED}, ["problem"], "on the way to /opt/vllm"),
        ({"obstacle": replace(CLOSED, kind=Kind.UNSEEN)}, ["note"], "on the way"),
    ],
)
def test_the_engines_python(change: dict[str, object], found: list[str], words: str) -> None:
    findings = list(judge_engine(replace(ENGINE, **change), SleepMode.AUTO))  # type: ignore[arg-type]
    assert levels(findings) == found
    assert words in findings[-1].sentence


@pytest.mark.parametrize(
    ("sleep", "vllm", "found"),
    [
        (SleepMode.OFF, "0.25.0", ["ok"]),
        (SleepMode.ON, "0.25.0", ["ok", "warning"]),
        (SleepMode.ON, "0.33.0+cpu", ["ok", "problem"]),
        (SleepMode.DRILL, "0.33.0+cpu", ["ok"]),
    ],
)
def test_whether_it_can_sleep_as_it_shall(sleep: SleepMode, vllm: str, found: list[str]) -> None:
    assert levels(judge_engine(replace(ENGINE, vllm=vllm), sleep)) == found


def test_limits() -> None:
    assert levels(judge_limits(Limits(None, None, True), 90 * GIB, pins=True)) == ["ok"]
    assert levels(judge_limits(Limits(2**23, 1 << 16, True), 90 * GIB, pins=True)) == ["warning"]
    assert levels(judge_limits(Limits(2**23, 1024, False), 90 * GIB, pins=False)) == ["note"]
    lowered, default = (Limits(None, None, True, mappings=n) for n in (15_360, 64_506))
    few_mappings = only(judge_limits(lowered, 0, pins=False), Level.WARNING)
    assert "lets a process hold 15360 files" in few_mappings.sentence
    assert levels(judge_limits(default, 0, pins=False)) == ["ok"]
    [few] = judge_limits(Limits(None, 64, True), 0, pins=False)
    assert "enough for about 0 requests" in few.sentence


def test_shared_memory() -> None:
    [full, left] = judge_shared_memory(
        SharedMemory(
            64 << 20, 64 << 20, tuple(Path(f"/dev/shm/psm_{n}") for n in range(48)), 5, 990
        )
    )
    assert full.level is Level.PROBLEM
    assert "left 48 segments" in left.sentence
    [*_, command, _] = report([left], 60)
    assert command.lstrip() == removal(Path("/dev/shm"), 990), "whole, for all of them"
    assert levels(judge_shared_memory(SharedMemory(GIB, 2**29, (), 0, 0))) == ["warning"]


def test_folders() -> None:
    run = Folder("run_dir", Path("/run/warmd"), True, None, GIB, "tmpfs")
    cache = Folder("cache_dir", Path("/var/cache/warmd"), False, CLOSED, 0, "ext4")
    found = list(judge_folders((run, cache)))
    assert "isn't there and can't be made: /root may not be entered" in only(found).sentence
    assert levels(found) == ["problem", "ok"]
    for change, level in (
        ({"kind": "ext4"}, "note"),
        ({"free": 32 << 20}, "warning"),
        ({"free": 0}, "problem"),
    ):
        assert levels(judge_folders((replace(run, **change),)))[:1] == [level]
    nearly = only(judge_folders((replace(run, key="state_dir", free=4 << 20),)))
    assert "is nearly full: 4.0 MiB free" in nearly.sentence
    assert nearly.remedy.endswith("; the history goes there")


def test_a_run_folder_on_a_disk_gets_a_remedy_that_helps() -> None:
    def told(path: str, kind_of_run: str) -> Finding:
        folder = Folder("run_dir", Path(path), True, None, GIB, "ext4", kind_of_run)
        return only(judge_folders((folder,)), Level.NOTE)

    assert told("/srv/run", "tmpfs").remedy == "set host.run_dir to a folder below /run"
    for path in ("/run/warmd", "/srv/run"):
        found = told(path, "ext4")
        assert "is on ext4, for /run of this host is no tmpfs" in found.sentence
        assert found.remedy.startswith(f"mount a tmpfs on {path} ")
    assert "is no tmpfs" not in told("/run/warmd", "tmpfs").sentence
    assert told("/run/warmd", "tmpfs").remedy.startswith("mount a tmpfs on /run/warmd ")


def test_the_remedy_for_no_vllm_fits_the_host_and_spares_the_systems_python() -> None:
    bare = EngineFacts(Path("/usr/bin/python3"), "3.12.1")

    def remedy(facts: EngineFacts, *, has_gpu: bool) -> str:
        return only(judge_engine(facts, SleepMode.AUTO, has_gpu=has_gpu)).remedy

    assert "python3 -m venv DIR" in remedy(bare, has_gpu=True)
    own = replace(bare, python=Path("/opt/vllm/bin/python"), own=True)
    assert remedy(own, has_gpu=True).startswith("/opt/vllm/bin/python -m pip install vllm,")
    for facts in (bare, own):
        assert "scripts/engine-env DIR" in remedy(facts, has_gpu=False)
        assert "pip install" not in remedy(facts, has_gpu=False)


def test_the_control_sockets_group() -> None:
    assert levels(judge_group("warmd", 990, WARMD)) == []
    assert levels(judge_group("warmd", 5, ROOT)) == []
    missing = only(judge_group("warmd", None, WARMD), Level.WARNING)
    assert "there is no group warmd" in missing.sentence
    assert "groupadd --system warmd" in missing.remedy
    assert (
        "is no member of the group adm"
        in only(judge_group("adm", 5, WARMD), Level.WARNING).sentence
    )


def test_weights() -> None:
    sound = ModelWeights("m", Path("/w"), 3 * GIB)
    assert levels(judge_weights((sound,), True, WARMD)) == ["ok"]
    foreign = replace(sound, foreign=Path("/w/a"))
    assert levels(judge_weights((foreign,), True, WARMD)) == ["ok", "note"]
    assert levels(judge_weights((foreign,), False, WARMD)) == ["ok", "warning"]
    torn = replace(sound, trouble="/w/a: is half-downloaded; finish the download")
    finding = only(judge_weights((torn,), True, WARMD))
    assert finding.sentence == "models.m: /w/a: is half-downloaded"
    assert finding.remedy == "finish the download"
    shut = replace(sound, obstacle=CLOSED)
    assert only(judge_weights((shut,), True, WARMD)).remedy == "chmod o+x /root"


def test_memory() -> None:
    roomy = MemoryFacts(256 * GIB, 200 * GIB, 0, 0, None, 0)

    def found(budget: int = 128, weights: int = 90, reserve: int = 0, **change: int) -> list[str]:
        facts = replace(roomy, **change)  # type: ignore[arg-type]  # sizes
        return levels(judge_memory(facts, budget * GIB, weights * GIB, 0, reserve * GIB))

    assert found() == ["ok"]
    assert found(weights=130) == ["warning"]
    assert found(available=80 * GIB) == ["warning"]
    assert found(available=100 * GIB, reserve=12) == ["warning"]
    assert found(limit=64 * GIB) == ["warning"]
    assert found(limit=512 * GIB) == ["ok"]
    assert found(overcommit=2) == ["problem"]
    assert found(swap=GIB) == ["note", "ok"]
    tight = replace(roomy, limit=64 * GIB, limited_by="/sys/fs/cgroup/warmd/memory.max")
    [named] = judge_memory(tight, 128 * GIB, 90 * GIB, 0, 0)
    assert "64.0 GiB of RAM (/sys/fs/cgroup/warmd/memory.max), less than" in named.sentence
    [kept] = judge_memory(roomy, 128 * GIB, 0, 0, 0, kept={"small": GIB, "large": 200 * GIB})
    assert kept.sentence.startswith("the weights of large (200.0 GiB) are larger")


def test_clock() -> None:
    assert levels(judge_clock(ClockFacts(False, True))) == ["warning"]
    assert levels(judge_clock(ClockFacts(None, False))) == ["ok", "note"]


def test_ports() -> None:
    port = Port("gateway.listen", Address("0.0.0.0", 80))
    taken = replace(port, error=errno.EADDRINUSE, taker=Taker(7, "nginx"))
    assert "by nginx (process 7)" in only(judge_ports((taken,), None)).sentence
    assert levels(judge_ports((taken,), 8)) == ["problem"]
    assert levels(judge_ports((port, taken), 7)) == ["ok", "ok"]
    unseen = replace(taken, taker=Taker())
    assert "sudo ss" in only(judge_ports((unseen,), None)).remedy
    assert levels(judge_ports((unseen,), 7)) == ["ok"]  # a daemon runs: most likely it is that
    assert levels(judge_ports((unseen,), None, runs=True)) == ["note"]  # asked by a stranger
    assert levels(judge_ports((taken,), None, runs=True)) == ["problem"]
    assert "1024" in only(judge_ports((replace(port, error=errno.EACCES),), None)).remedy
    assert "ip address" in only(judge_ports((replace(port, error=errno.EADDRNOTAVAIL),), 7)).remedy
    assert "DNS" in only(judge_ports((replace(port, unknown_host="no such name"),), 7)).remedy


def test_the_daemon() -> None:
    answer = DaemonAnswer(Path("/s"), 7, "0.1.0")
    assert levels(judge_daemon(answer, "0.1.0", ROOT, WARMD)) == ["ok"]
    assert levels(judge_daemon(answer, "0.2.0", ROOT, WARMD)) == ["warning"]
    assert levels(judge_daemon(DaemonAnswer(Path("/s")), "0.1.0", ROOT, ROOT)) == ["note"]
    other = User(1000, frozenset())
    assert levels(judge_daemon(answer, "0.1.0", other, WARMD)) == ["ok", "note"]
    shut = DaemonAnswer(Path("/s"), trouble="you may not open /s: join warmd", runs=True)
    assert only(judge_daemon(shut, "0.1.0", other, other)).remedy == "join warmd"


def test_the_kernel() -> None:
    new = KernelFacts("6.12", True, True, True, "madvise")
    assert levels(judge_kernel(new)) == ["ok"]
    assert levels(judge_kernel(replace(new, cachestat=False, huge_pages="never"))) == ["note"] * 2
    blind = replace(new, cachestat=False, mincore=False, tables=False)
    assert levels(judge_kernel(blind)) == ["warning"]


@pytest.mark.parametrize(
    ("mode", "owner", "user", "given"),
    [
        (0o700, 990, WARMD, True),
        (0o077, 990, WARMD, False),  # an owner's bits count alone, though others have more
        (0o040, 0, WARMD, True),
        (0o707, 0, WARMD, False),
        (0o000, 0, ROOT, True),
    ],
)
def test_modes(mode: int, owner: int, user: User, given: bool) -> None:
    status = os.stat_result((0o100000 | mode, 1, 1, 1, owner, 44, 0, 0, 0, 0))
    assert allows(status, user, Right.READ) is given


def test_root_executes_nothing_that_nobody_may() -> None:
    status = os.stat_result((0o100644, 1, 1, 1, 0, 0, 0, 0, 0, 0))
    assert not allows(status, ROOT, Right.EXECUTE)


def test_the_first_obstacle_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shut = tmp_path / "shut"
    shut.mkdir()
    file, link = shut / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(file)

    def may(path: Path, user: User, rights: Right) -> bool:
        path.stat()
        return path != closed

    monkeypatch.setattr("warmd.doctor.user.may", may)  # root is refused nowhere
    for closed, remedy in ((shut, "chmod o+x"), (file, "chmod o+r"), (None, "")):
        for way in (file, link):
            found = obstacle(way, WARMD, Right.READ)
            if closed is None or (closed is file and way is link):
                assert found is None  # a link is as open as what it leads to
            else:
                assert found is not None
                assert (found.path, found.kind) == (closed, Kind.CLOSED)
                assert found.remedy.startswith(f"{remedy} {closed}")
    file.unlink()
    dead = obstacle(link, WARMD, Right.READ)
    assert str(dead) == f"{link} leads to {file}, which isn't there"
    link.unlink()
    link.symlink_to(link)
    circle = obstacle(link, WARMD, Right.READ)
    assert circle is not None
    assert circle.kind is Kind.BROKEN


def test_only_what_is_sound_of_a_config_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "warmd.toml"
    file.write_text(
        'gateway.listen = ["nonsense"]\nhost.run_dir = 3\n'
        '[models.a]\nresting = "hot"\n[models.b]\nweights = "/w"\n'
    )
    sound = SoundConfig(file, *load_what_is_sound(file))
    assert set(sound.weights) == set()  # a has none, b's are not there: both are told
    assert set(sound.folders) == {"state_dir", "cache_dir"}
    assert set(sound.addresses) == {"metrics.listen", "gateway.agent_check"}
    told = [each.sentence for each in sound.judge(frozenset({"engine.python"}))]
    assert not any("engine.python" in sentence for sentence in told)
    assert any("models.b.weights: there is no such folder" in sentence for sentence in told)

    file.write_text("[[[")
    nothing = SoundConfig(file, *load_what_is_sound(file))
    assert not nothing.weights
    assert not nothing.folders
    assert levels(nothing.judge(frozenset())) == ["problem", "note"]


def test_the_report_begins_with_the_worst_and_leaves_commands_whole() -> None:
    found = [ok("a", "fine"), problem("b", "broken \x1b[2J", "rm " + "x" * 80), note("c", "so")]
    lines = list(report(found, 60))
    assert lines[0] == "problem  b  broken  [2J"
    assert "x" * 80 in lines[1]
    assert [line.split()[0] for line in lines[2:4]] == ["note", "ok"]
    assert lines[-1] == "1 problem, 0 warnings"


def test_who_may_not_ask_the_daemon_is_not_told_to_take_its_folders(tmp_path: Path) -> None:
    somebody = User(4_000_000, frozenset())
    shut = DaemonAnswer(Path("/s"), trouble="you may not open /s: join warmd", runs=True)
    assert runner_of(shut, tmp_path, somebody).uid == os.geteuid()
    assert runner_of(DaemonAnswer(Path("/s")), tmp_path, somebody) == somebody
