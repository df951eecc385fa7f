"""Host RAM against what staging may fill: free memory, limits of the cgroup, swap, overcommit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from warmd.devices import host_memory, memory_limits
from warmd.doctor.finding import Finding, note, ok, problem, warning
from warmd.spoken import size

_SUBJECT = "memory"
_STRICT = 2  # vm.overcommit_memory, proc_sys_vm(5)


@dataclass(frozen=True)
class MemoryFacts:
    """Sizes in bytes. `limit`: the least memory limit of the cgroup and all above it.

    `limited_by`: the file that says so.
    """

    total: int
    available: int
    swap: int
    swap_used: int
    limit: int | None
    overcommit: int | None
    limited_by: str | None = None


def look_at_memory(daemon: int | None) -> MemoryFacts:
    """Read host memory, and the cgroup of the daemon (None: this process's)."""
    memory = host_memory()
    swap, swap_used = _swap()
    least = min(memory_limits(daemon), key=lambda each: each.limit, default=None)
    return MemoryFacts(
        memory.total,
        memory.available,
        swap,
        swap_used,
        None if least is None else least.limit,
        _number(Path("/proc/sys/vm/overcommit_memory")),
        None if least is None else str(least.key),
    )


def _swap() -> tuple[int, int]:
    try:
        swap = psutil.swap_memory()
    except (OSError, RuntimeError):
        return 0, 0
    return int(swap.total), int(swap.used)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


_NOBODY: Mapping[str, int] = {}


def judge_memory(
    facts: MemoryFacts,
    budget: int,
    weights: int,
    staged: int,
    reserve: int,
    *,
    kept: Mapping[str, int] = _NOBODY,
) -> Iterator[Finding]:
    """Bytes: `budget` is ram.staging, `weights` of all models that rest staged, `staged` held now.

    `reserve` is ram.reserve, which staging leaves free. Held page cache counts as available in the
    kernel's figure. `kept`: bytes by model, of those whose weights are locked or in a tmpfs.
    """
    fine = True
    for model, total in kept.items():
        if total > budget:
            fine = False
            yield warning(
                _SUBJECT,
                f"the weights of {model} ({size(total)}) are larger than ram.staging "
                f"({size(budget)}), and its `stage` keeps them in memory: it never gets staged",
                f'raise ram.staging, or set models.{model}.stage = "page-cache"',
            )
    wanted = min(budget, weights)
    if weights > budget:
        fine = False
        yield warning(
            _SUBJECT,
            f"models that rest staged have {size(weights)} of weights, and ram.staging allows "
            f"{size(budget)}: some stay cold",
            "raise ram.staging, or let some rest cold",
        )
    if facts.limit is not None and facts.limit < min(budget, facts.total):
        fine = False
        yield warning(
            _SUBJECT,
            f"the cgroup may use {size(facts.limit)} of RAM"
            f"{f' ({facts.limited_by})' if facts.limited_by else ''}, less than ram.staging "
            f"({size(budget)}); staged weights count in it, and no more are staged than fit",
            "take MemoryMax= and MemoryHigh= away from warmd's unit (or the container's limit)",
        )
    if wanted + reserve > facts.available:
        fine = False
        yield warning(
            _SUBJECT,
            f"{size(facts.available)} of RAM are available; staging wants {size(wanted)}, and "
            f"ram.reserve leaves {size(reserve)} free",
            "see who has it: ps -eo rss,user,args --sort=-rss | head; or lower ram.staging",
        )
    if facts.overcommit == _STRICT:
        fine = False
        yield problem(
            _SUBJECT,
            "vm.overcommit_memory is 2, and engines reserve far more address space than they use",
            "sudo sysctl vm.overcommit_memory=0, and the same in /etc/sysctl.d",
        )
    if facts.swap:
        yield note(
            _SUBJECT,
            f"swap is on ({size(facts.swap_used)} of {size(facts.swap)} used): an idle engine that "
            "was swapped out answers late",
            "sudo swapoff -a if engines are slow after a quiet time",
        )
    if fine:
        yield ok(
            _SUBJECT,
            f"{size(facts.available)} of {size(facts.total)} available, {size(staged)} of "
            f"{size(budget)} for staging in use",
        )
