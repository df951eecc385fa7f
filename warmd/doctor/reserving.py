"""Whether a sound config's pools and engines fit on this host: asked of `warmd check-config`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from warmd.doctor.finding import Finding, note, problem

_SUBJECT = "config"
_EX_CONFIG = 78


@dataclass(frozen=True)
class Checked:
    """What `warmd check-config` ended with, and the first line of what it objected to."""

    status: int
    said: str


def look_at_reservations(file: Path | None, within_s: float) -> Checked:
    """Run `warmd check-config` over `file`, as `warmd run` would read it; over None nothing."""
    if file is None:
        return Checked(0, "")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "warmd", "check-config", "--config", str(file)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Checked(-1, f"it took more than {within_s:g} s")
    return Checked(done.returncode, next(iter(done.stderr.strip().splitlines()), ""))


def judge_reservations(checked: Checked) -> Iterator[Finding]:
    """Judge whether what the config reserves is there."""
    if checked.status == _EX_CONFIG:
        remedy = "warmd check-config shows who wants what; warmctl size says what an engine takes"
        yield problem(_SUBJECT, checked.said.rstrip(":"), remedy)
    elif checked.status != 0:
        yield note(_SUBJECT, f"warmd check-config could not be asked: {checked.said}")
