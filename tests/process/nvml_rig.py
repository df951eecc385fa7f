"""The fake NVML, built and told what to say, for programs that load the real pynvml."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[1] / "fakes" / "fake_nvml.c"
ROOT = Path(__file__).parents[2]
GIB = 2**30
TWO_GPUS = f"""\
gpu GPU-aaaa {80 * GIB} {2 * GIB} NVIDIA Fake 80GB
gpu GPU-bbbb {24 * GIB} {GIB} NVIDIA Fake 24GB
"""


def build(folder: Path, *flags: str) -> Path:
    """Make libnvidia-ml.so.1 in `folder`; skips where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the fake NVML: apt install gcc")
    folder.mkdir(exist_ok=True)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, *flags, "-shared", "-fPIC", "-pthread", "-o", library, SOURCE], check=True
    )
    return folder


def environment(library: Path, says: Path) -> dict[str, str]:
    """The environment in which NVML is the fake in folder `library`, driven by the file `says`."""
    return {**os.environ, "LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(says)}


def ask(expression: str, env: dict[str, str]) -> Any:
    """What an expression over `warmd.devices` is, as JSON knows it, in a process of its own."""
    program = f"""
import dataclasses, json
from warmd.devices import *
try:
    answer = {expression}
except GpuError as error:
    answer = {{"trouble": error.trouble, "said": str(error)}}
def plain(value):
    return sorted(value) if isinstance(value, frozenset) else dataclasses.asdict(value)
print(json.dumps(answer, default=plain))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
