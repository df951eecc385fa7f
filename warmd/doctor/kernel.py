"""What the kernel can do for staging: tell what is in RAM, and use large pages for it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from warmd.doctor.finding import Finding, note, ok, warning
from warmd.staging.holder.residency import Measure, mapped_now

_SUBJECT = "kernel"


@dataclass(frozen=True)
class KernelFacts:
    """`huge_pages` is the mode of transparent huge pages, None where the kernel has none."""

    release: str
    cachestat: bool
    mincore: bool
    tables: bool  # this process's page tables can be read, in /proc/self/smaps
    huge_pages: str | None


def look_at_kernel() -> KernelFacts:
    """Try the calls on a file of known state."""
    measure = Measure()
    try:
        tables = bool(mapped_now())
    except (OSError, ValueError, IndexError):
        tables = False
    return KernelFacts(
        platform.release(), measure.cachestat_works, measure.mincore_works, tables, _huge_pages()
    )


def _huge_pages() -> str | None:
    try:
        modes = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return None
    return modes.partition("[")[2].partition("]")[0] or None


def judge_kernel(facts: KernelFacts) -> Iterator[Finding]:
    """Judge it."""
    if not (facts.cachestat or facts.mincore or facts.tables):
        yield warning(
            _SUBJECT,
            "nothing tells what is in RAM (cachestat, mincore and /proc/self/smaps are closed): "
            "no model can be staged",
            "let the sandbox or container pass cachestat and mincore (systemd: SystemCallFilter=)",
        )
    elif not facts.cachestat:
        yield note(
            _SUBJECT,
            f"Linux {facts.release} has no cachestat(2): what is in RAM is measured a slower way",
            "Linux 6.5 and later have it; a sandbox may hide it",
        )
    else:
        yield ok(_SUBJECT, f"Linux {facts.release}, cachestat(2) tells what is in RAM")
    if facts.huge_pages == "never":
        yield note(
            _SUBJECT,
            "transparent huge pages are switched off: staging takes more CPU",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        )
