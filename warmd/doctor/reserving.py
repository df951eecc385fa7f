"""Whether a sound config's pools and engines fit on this host: asked of `warmd check-config`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from warmd.doctor.finding import Finding, note, problem, warning

_SUBJECT = "config"
_EX_CONFIG = 78
_WARNING = "# warning: "


@dataclass(frozen=True)
class Checked:
    """What `warmd check-config` ended with, the first line of what it objected to, its warnings."""

    status: int
    said: str
    warnings: tuple[str, ...] = ()


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
    said = next(iter(done.stderr.strip().splitlines()), "")
    lines = [line for line in done.stdout.splitlines() if line.startswith(_WARNING)]
    return Checked(done.returncode, said, tuple(line.removeprefix(_WARNING) for line in lines))


def judge_reservations(checked: Checked) -> Iterator[Finding]:
    """Judge whether what the config reserves is there."""
    if checked.status == _EX_CONFIG:
        remedy = "warmd check-config shows who wants what; warmctl size says what an engine takes"
        yield problem(_SUBJECT, checked.said.rstrip(":"), remedy)
    elif checked.status != 0:
        yield note(_SUBJECT, f"warmd check-config could not be asked: {checked.said}")
    for sentence in checked.warnings:
        what, _, remedy = sentence.partition("; ")
        yield warning(_SUBJECT, what, remedy or "warmd check-config shows who wants what")
