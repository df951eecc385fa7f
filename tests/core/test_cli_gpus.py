"""`warmctl gpus` in words, from the daemon's JSON."""

from __future__ import annotations

from typing import Any

from warmd.cli.gpus import gpus_table

GIB = 2**30
FARES: dict[str, Any] = {
    **dict.fromkeys(("watts", "watts_limit", "sm_mhz", "sm_mhz_most", "ecc"), None),
    **dict.fromkeys(("memory_mhz", "memory_mhz_most", "uncorrected_errors"), None),
    "xids": [],
    "troubles": [],
}


def held(pid: int, name: str | None, replica: str | None, size: int | None) -> dict[str, Any]:
    return {"pid": pid, "name": name, "replica": replica, "bytes": size}


def card(*holders: dict[str, Any], used: int = 0, **changes: Any) -> dict[str, Any]:
    told = {
        "key": "GPU-a",
        "index": 0,
        "driver_index": 0,
        "new": False,
        "slice": None,
        "name": "NVIDIA H200",
        "total": 80 * GIB,
        "used": used,
        "held_by": list(holders),
        "condition": FARES,
    }
    return told | changes


def said(*cards: dict[str, Any], **more: Any) -> list[str]:
    told: dict[str, Any] = {"gpus": cards, "sick": [], "no_gpu": None, "ledger": []}
    return gpus_table(told | more).splitlines()


def test_who_holds_what_stands_below_each_gpu() -> None:
    fares = FARES | {
        "watts": 412.4,
        "watts_limit": 700.0,
        "sm_mhz": 1200,
        "sm_mhz_most": 1980,
        "memory_mhz": 2619,
        "ecc": True,
        "troubles": [{"sentence": "Xid 94: \x1b[31m", "remedy": "see", "unfit": False}],
    }
    lines = said(
        card(
            held(11, "VLLM::EngineCore", "qwen3.0", 40 * GIB),
            held(12, "worker", "qwen3.0", 4 * GIB),
            held(7, "jupyter\n", None, 3 * GIB),
            used=48 * GIB,
            condition=fares,
        )
    )
    bar = "[###########+........]"
    assert lines[0].split() == (
        ["GPU", "USE", "USED", "TOTAL", "WATTS", "SM", "MHZ", "MEMORY", "MHZ", "ECC"]
    )
    assert lines[1] == (
        f"0  NVIDIA H200  {bar}  48.0 GiB  80.0 GiB  412 of 700  1200 of 1980        2619   on"
    )
    assert lines[2:] == [
        "     qwen3.0       44.0 GiB  VLLM::EngineCore 11, worker 12",
        "     not of warmd   3.0 GiB  jupyter 7",
        "     the rest       1.0 GiB  the driver",
        "     ! Xid 94:  [31m: see",
    ]


def test_a_slice_a_process_of_unknown_size_and_many_processes() -> None:
    many = [held(pid, "w", "m.0", None if pid == 3 else 2 * GIB) for pid in (1, 2, 3)]
    lines = said(card(*many, used=7 * GIB, slice=2))
    assert lines[1].startswith("0:2  NVIDIA H200  [#+..................]")
    assert lines[2].split() == ["m.0", "?", "3", "processes"]
    assert lines[3].endswith("the driver, and who isn't told")
    assert said(card(held(9, None, None, 5)))[2].endswith("process 9")


def test_what_is_sick_or_not_there_is_said() -> None:
    lines = said(
        card(condition=FARES | {"xids": None}),
        sick=[
            {"index": 1, "uuid": None, "sentence": "it is lost"},
            {"index": 2, "uuid": "GPU-c", "sentence": "it has no slice"},
        ],
    )
    assert lines[-3:] == [
        "GPU 1 can't be used: it is lost",
        "GPU 2 (GPU-c) can't be used: it has no slice",
        "Xid errors aren't shown: warmd may not read the kernel's log (group systemd-journal)",
    ]
    host = card(key="host", name="host memory", used=8 * GIB, condition=None)
    lines = said(host, no_gpu="no library")
    assert lines[1].startswith("host memory  [++..................]")
    assert lines[2:] == [
        "     the rest  8.0 GiB  all else on this host",
        "the host's memory is the device: no library",
    ]


def promised(**changes: Any) -> dict[str, Any]:
    told = {
        "key": "GPU-a",
        "words": "GPU 0",
        "total": 80 * GIB,
        "quarantine": None,
        "reserved": 40 * GIB,
        "held": 20 * GIB,
        "sleepers": 8 * GIB,
        "foreign": 4 * GIB,
        "headroom": 4 * GIB,
        "free": 24 * GIB,
        "remedy": None,
    }
    return told | changes


def test_what_is_promised_stands_in_the_bar_and_in_a_table() -> None:
    lines = said(card(used=32 * GIB), ledger=[promised()])
    assert "[#####=====zz+......-]" in lines[1]
    assert [line.split() for line in lines[-2:]] == [
        ["RESERVED", "ON", "RESERVED", "SLEEPERS", "FOREIGN", "HEADROOM", "FREE"],
        ["GPU", "0", "40.0", "GiB", "8.0", "GiB", "4.0", "GiB", "4.0", "GiB", "24.0", "GiB"],
    ]
    for used in (0, 200):
        told = promised(held=used * GIB, sleepers=used * GIB, headroom=used * GIB)
        bar = said(card(used=used * GIB), ledger=[told])[1].partition("[")[2].partition("]")[0]
        assert len(bar) == 20, "whatever is held"


def test_what_is_quarantined_is_said_also_of_a_gpu_that_nobody_sees() -> None:
    lost = promised(key="GPU-b", words="GPU 1", quarantine="it is lost", remedy="switch it off")
    sick = [{"index": 1, "uuid": None, "sentence": "it is lost"}]
    lines = said(card(), ledger=[promised(), lost], sick=sick)
    assert lines[-1] == "     ! quarantined: it is lost: switch it off"
    assert lines[-2].split()[:2] + lines[-2].split()[-1:] == ["GPU", "1", "-"]


def test_a_gpu_that_nvidia_smi_numbers_otherwise_says_so() -> None:
    behind = card(key="GPU-c", index=2, driver_index=1)
    missing = [{"index": 1, "uuid": "GPU-b", "sentence": "the driver doesn't list it"}]
    lines = said(card(), behind, sick=missing)
    assert lines[2].startswith("2  NVIDIA H200")
    assert lines[3] == "     nvidia-smi has it as GPU 1 today, the config as 2"
    assert lines[4] == "GPU 1 (GPU-b) can't be used: the driver doesn't list it"
    came = said(card(key="GPU-d", index=3, driver_index=0, new=True))
    assert came[2].startswith("     new, nvidia-smi has it as GPU 0: warmd uses it from its next")
