"""What one look at all GPUs costs, in a thread beside an event loop: over the tests' fake NVML.

What the fake can't show is how long a real driver takes for its answers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench_rig import HERE, BenchError, quantile
from report import Table

FAKE = HERE.parents[1] / "tests" / "fakes" / "fake_nvml.c"
CARDS, PROCESSES = 16, 8
_AIM_MS = 20.0
_GIB = 2**30
_PROBE = """
import asyncio, json, sys, time
import uvloop
from warmd.aside import aside
from warmd.devices import sweep

async def beat(stalls, until):
    last = time.monotonic()
    while last < until:
        await asyncio.sleep(0.001)
        now = time.monotonic()
        stalls.append((now - last) * 1000 - 1)
        last = now

async def main(seconds):
    quiet, stalls, taken, used = [], [], [], []
    await aside(sweep)  # loads pynvml, once in a daemon's life
    await beat(quiet, time.monotonic() + seconds / 4)
    until = time.monotonic() + seconds * 3 / 4
    beats = asyncio.create_task(beat(stalls, until))
    while time.monotonic() < until:
        began, spent = time.monotonic(), time.process_time()
        found = await aside(sweep)
        taken.append((time.monotonic() - began) * 1000)
        used.append((time.process_time() - spent) * 1000)
        held = sum(len(card.held) for card in found.cards.values())
        assert (len(found.cards), held) == (int(sys.argv[2]), int(sys.argv[3])), found
        await asyncio.sleep(0.02)
    await beats
    print(json.dumps({"quiet": quiet, "stalls": stalls, "taken": taken, "used": used}))

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main(float(sys.argv[1])))
"""


def run(seconds: float) -> Sequence[Table]:
    """Sweep `CARDS` GPUs again and again for `seconds`, and watch the loop meanwhile."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise BenchError("there is no C compiler to build the fake NVML: apt install gcc")
    with tempfile.TemporaryDirectory(prefix="warmd-bench-") as name:
        folder = Path(name)
        library = folder / "libnvidia-ml.so.1"
        build = [compiler, "-O2", "-shared", "-fPIC", "-pthread", "-o", str(library), str(FAKE)]
        subprocess.run(build, check=True)
        (folder / "says").write_text("".join(_host()))
        env = os.environ | {
            "LD_LIBRARY_PATH": name,
            "FAKE_NVML": str(folder / "says"),
            "PYTHONPATH": str(HERE.parents[1]),
        }
        arguments = [str(seconds), str(CARDS), str(CARDS * PROCESSES)]
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, *arguments],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"the sweep failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout)
    names = {
        "taken": "one sweep, ms",
        "used": "CPU of the process meanwhile, ms",
        "stalls": "the loop is late, ms",
        "quiet": "the loop is late without sweeps, ms",
    }
    rows = {
        name: (
            *(quantile(found[key], share) for share in (0.5, 0.99, 1.0)),
            _AIM_MS if key == "taken" else None,
        )
        for key, name in names.items()
    }
    title = f"sweep: {CARDS} GPUs, {PROCESSES} processes on each"
    note = f"{len(found['taken'])} sweeps, in a thread; the driver is a fake that answers at once"
    return [Table(title, ("p50", "p99", "max", "aim (p99)"), rows, (note,))]


def _host() -> list[str]:
    cards = [f"gpu GPU-{n:04} {140 * _GIB} {100 * _GIB} NVIDIA H200\n" for n in range(CARDS)]
    held = [
        f"process {card} {1000 + card * PROCESSES + n} {10 * _GIB}\n"
        for card in range(CARDS)
        for n in range(PROCESSES)
    ]
    return [*cards, *held]
