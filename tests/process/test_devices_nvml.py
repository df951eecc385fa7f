"""NVML through the real pynvml, over a fake library; and where there is none at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nvml_rig import GIB, ROOT, TWO_GPUS, ask, build, environment


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def says(tmp_path: Path) -> Path:
    file = tmp_path / "says"
    file.write_text(TWO_GPUS)
    return file


def test_gpus(library: Path, says: Path) -> None:
    first, second = ask("gpus()", environment(library, says))
    assert first == {
        "index": 0,
        "uuid": "GPU-aaaa",
        "name": "NVIDIA Fake 80GB",
        "total": 80 * GIB,
        "used": 2 * GIB,
        "slice": None,
    }
    assert second["uuid"] == "GPU-bbbb"
    assert ask("inventory().driver", environment(library, says)) == "570.00.fake"


def test_a_lost_gpu_leaves_the_others(library: Path, says: Path) -> None:
    says.write_text(TWO_GPUS + "sick 15\nsick 16\n")
    env = environment(library, says)
    assert len(ask("gpus()", env)) == 2
    troubles = ask("[(each.index, each.error.trouble) for each in inventory().sick]", env)
    assert troubles == [[2, "lost"], [3, "reset-required"]]
    says.write_text("sick 15\n")
    assert ask("gpus()", env)["trouble"] == "lost"
    assert ask("held_by_card([1])", env) is None


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        ("error nvmlInit 9", "no-driver"),
        ("error nvmlInit 18", "mismatch"),
        ("error nvmlInit 4", "no-permission"),
        ("error nvmlInit 999", "other"),
        ("error nvmlInit 777", "other"),
        ("error nvmlSystemGetDriverVersion 13", "too-old"),
        ("", "no-gpu"),
    ],
)
def test_why_there_is_no_gpu(library: Path, says: Path, line: str, trouble: str) -> None:
    says.write_text(line + "\n")
    answer = ask("gpus()", environment(library, says))
    assert answer["trouble"] == trouble
    if trouble == "other":
        assert answer["said"].startswith("the NVIDIA driver reports an error (")


def test_what_processes_hold(library: Path, says: Path) -> None:
    says.write_text(f"{TWO_GPUS}process 0 11 {GIB}\nprocess 1 11 {GIB}\nprocess 0 12 5\n")
    env = environment(library, says)
    assert ask("sum(held_by_card([11]).values())", env) == 2 * GIB
    assert ask("sum(held_by_card([11, 12]).values())", env) == 2 * GIB + 5
    assert ask("sum(held_by_card([13]).values())", env) == 0
    says.write_text(f"{TWO_GPUS}process 0 11 -1\n")
    assert ask("held_by_card([11])", env) is None
    assert ask("sum(held_by_card([12]).values())", env) == 0
    # Closed after each look, so that it can be opened again.
    assert ask("[sum(held_by_card([12]).values()) for _ in range(3)]", env) == [0, 0, 0]


def test_footprint_of_a_tree(library: Path, says: Path) -> None:
    says.write_text(f"{TWO_GPUS}process 0 {os.getpid()} {GIB}\n")
    found = ask(f"footprint({os.getpid()})", environment(library, says))
    assert found["device_bytes"] == GIB
    assert found["host_bytes"] > 10 * 2**20
    assert found["host_available"] > 0


def test_a_library_without_the_function(tmp_path: Path, says: Path) -> None:
    old = build(tmp_path / "old", "-DOLD")
    env = environment(old, says)
    assert len(ask("gpus()", env)) == 2
    assert ask("held_by_card([1])", env) is None


def test_without_a_gpu_it_costs_next_to_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "libnvidia-ml.so.1"
    broken.write_text("no library")  # hides a real one, where there is one
    program = """
import sys, psutil
from warmd.devices import GpuError, GpuTrouble, held_by_card, gpus
before = psutil.Process().memory_info().rss
try:
    gpus()
except GpuError as error:
    assert error.trouble is GpuTrouble.NO_LIBRARY
assert held_by_card([1]) is None
assert "pynvml" not in sys.modules
print(psutil.Process().memory_info().rss - before)
"""
    env = environment(tmp_path, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2**20
