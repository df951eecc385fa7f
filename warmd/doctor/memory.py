"""Host RAM against what staging may fill: free memory, limits of the cgroup, swap, overcommit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from warmd.devices import host_memory
from warmd.doctor.finding import Finding, note, ok, problem, warning
from warmd.spoken import size

_SUBJECT = "memory"
_STRICT = 2  # vm.overcommit_memory, proc_sys_vm(5)
_UNLIMITED_V1 = 1 << 60


@dataclass(frozen=True)
class MemoryFacts:
    """Sizes in bytes. `limit`: the least memory limit of the cgroup and all above it."""

    total: int
    available: int
    swap: int
    swap_used: int
    limit: int | None
    overcommit: int | None


def look_at_memory(daemon: int | None) -> MemoryFacts:
    """Read host memory, and the cgroup of the daemon (None: this process's)."""
    memory = host_memory()
    swap, swap_used = _swap()
    return MemoryFacts(
        memory.total,
        memory.available,
        swap,
        swap_used,
        _cgroup_limit(daemon),
        _number(Path("/proc/sys/vm/overcommit_memory")),
    )


def _swap() -> tuple[int, int]:
    try:
        swap = psutil.swap_memory()
    except (OSError, RuntimeError):
        return 0, 0
    return int(swap.total), int(swap.used)


def _cgroup_limit(pid: int | None) -> int | None:
    try:
        lines = Path(f"/proc/{pid or 'self'}/cgroup").read_text().splitlines()
    except OSError:
        return None
    limits: list[int] = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, names = Path("/sys/fs/cgroup"), ["memory.max", "memory.high"]
        elif "memory" in controllers.split(","):
            root, names = Path("/sys/fs/cgroup/memory"), ["memory.limit_in_bytes"]
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            found = [_number(folder / name) for name in names]
            limits += [limit for limit in found if limit is not None]
    least = min(limits, default=_UNLIMITED_V1)
    return least if least < _UNLIMITED_V1 else None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def judge_memory(
    facts: MemoryFacts, budget: int, weights: int, staged: int, reserve: int
) -> Iterator[Finding]:
    """Bytes: `budget` is ram.staging, `weights` of all models that rest staged, `staged` held now.

    `reserve` is ram.reserve, which staging leaves free. Held page cache counts as available in the
    kernel's figure.
    """
    fine = True
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
            f"the cgroup may use {size(facts.limit)} of RAM, less than ram.staging "
            f"({size(budget)}); staged weights count in it and would be pushed out",
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
