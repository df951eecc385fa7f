"""How hard a set is brought in, how much of it, and what is locked: real reads, real limits."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from staging_rig import MIB, a_keeper, evict, libc, resident, some_weights, until

from warmd.ladder import Place
from warmd.staging import FileSet, Pace, Request, StagingProgress
from warmd.staging.holder import pace as pacing

ROOT = Path(sys.modules["warmd"].__path__[0]).parent


@pytest.fixture
def weights(tmp_path: Path) -> FileSet:
    return some_weights(tmp_path)


def priorities(pid: int) -> set[int]:
    """The I/O priorities of a process's threads, ioprio_get(2)."""
    assert pacing._SET is not None
    threads = os.listdir(f"/proc/{pid}/task")
    return {libc.syscall(pacing._SET + 1, 1, int(thread)) for thread in threads}


async def test_a_slow_pace_becomes_a_fast_one_while_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(os.urandom(16 * MIB) * 4)
    evict(file)
    seen: list[StagingProgress] = []
    async with a_keeper() as keeper:
        slow = Pace(urgent=False, rate=8 * MIB)
        request = Request((file,), 64 * MIB)
        task = asyncio.create_task(keeper.hold("weights:m", request, slow, seen.append))
        await until(lambda: bool(seen) and seen[-1].done > 0)
        await asyncio.sleep(0.5)
        assert seen[-1].done == 16 * MIB, "a window, and then it waits for two seconds"
        (holder,) = (
            p for p in psutil.Process().children(recursive=True) if p.name() == "warmd-held"
        )
        assert pacing.IDLE in priorities(holder.pid)
        keeper.pace("weights:m", Pace())
        held = await asyncio.wait_for(task, 1.2)
        assert held.complete


async def test_only_the_first_bytes_are_held(weights: FileSet) -> None:
    first, second = weights.files
    async with a_keeper() as keeper:
        request = Request(weights.files, weights.total, limit=9 * MIB)
        held = await keeper.hold("weights:m", request, Pace(), lambda _: None)
        assert held.total == held.resident == 9 * MIB
        assert resident(first) == 8 * MIB
        assert resident(second) < second.stat().st_size
        request = Request(weights.files, weights.total, limit=MIB)
        held = await keeper.hold("weights:m", request, Pace(), lambda _: None)
        assert held.total == held.resident == MIB


def locked(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmLck")) * 1024


async def test_what_is_locked_is_locked(weights: FileSet) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if os.geteuid() and soft < weights.total:
        pytest.skip("this user may not lock 13 MiB")
    async with a_keeper() as keeper:
        request = Request(weights.files, weights.total, place=Place.LOCKED)
        held = await keeper.hold("weights:m", request, Pace(), lambda _: None)
        assert held.complete
        assert locked(held.pid) >= weights.total


CHILD = """
import json, os, resource, sys
from warmd.staging.holder import child, pressure
asked = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
if os.geteuid() == 0 and asked.get("place") == "locked":
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
pressure.SYSTEM = asked.pop("pressure", pressure.SYSTEM)
sys.exit(child.hold(asked))
"""


@contextmanager
def alone(asked: dict[str, object]) -> Iterator[Iterator[dict[str, object]]]:
    """Run the process that holds a set; give what it says."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps({"enough": 0.99, "interval": 1, **asked})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        try:
            yield (json.loads(line) for line in process.stdout)
        finally:
            process.kill()


def test_what_may_not_be_locked_names_the_limit() -> None:
    with alone({"files": ["/bin/bash"], "place": "locked"}) as said:
        (word,) = said
        assert "1.0 MiB; LimitMEMLOCK=infinity in warmd's unit" in str(word["error"])


def test_it_waits_while_memory_is_short(weights: FileSet, tmp_path: Path) -> None:
    """The kernel's figure is made up: real pressure would be the whole machine's."""
    psi = tmp_path / "psi"
    psi.write_text("some avg10=34.50 avg60=3.00 avg300=0.00 total=1\n")
    files = [str(file) for file in weights.files]
    with alone({"files": files, "pressure": str(psi)}) as said:
        word = next(w for w in said if "paused" in w)
        assert "waited for it 34 % of the last 10 s" in str(word["paused"])
        psi.write_text("some avg10=14.00 avg60=3.00 avg300=0.00 total=1\n")
        word = next(w for w in said if "progress" in w)  # it says that it lives
        assert int(str(word["progress"])) < weights.total
        psi.write_text("some avg10=9.00 avg60=3.00 avg300=0.00 total=1\n")
        assert next(w for w in said if "paused" in w)["paused"] is None
        assert next(w for w in said if "resident" in w)["resident"] == weights.total
