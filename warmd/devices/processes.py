"""Which processes belong to which engine, and what each has taken of the host's memory."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from warmd.config.run_files import engine_unit

_T = TypeVar("_T")

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
_UNIT_BEGINS, _UNIT_ENDS = engine_unit("*").split("*")


def owners(roots: Mapping[int, _T]) -> dict[int, _T]:
    """Say of each process of the trees below `roots` whose it is; from one pass over /proc.

    `roots` are engines' main processes. An orphan of an engine has become a child of its shim,
    which is its main process's parent, and is counted to it; where systemd runs the engine there is
    no shim, and an orphan is known by the engine's unit.
    """
    above = _parents()
    known = dict(roots)
    shims = {above[root]: owner for root, owner in roots.items() if root in above}
    for nobody in (0, 1, os.getpid()):
        shims.pop(nobody, None)
    units = {_unit(root): owner for root, owner in roots.items() if above.get(root) == 1}
    units.pop(None, None)
    if units:
        orphans = (pid for pid, parent in above.items() if parent == 1 and pid not in known)
        known |= {pid: units[unit] for pid in orphans if (unit := _unit(pid)) in units}
    found: dict[int, _T] = {}
    for pid in above:
        line: list[int] = []
        at = pid
        while at in above and at not in known and above[at] not in shims and at not in line:
            line.append(at)
            at = above[at]
        if at in known:
            found[pid] = known[at]
        elif at in above and above[at] in shims:
            found[pid] = shims[above[at]]
    return found


def engine_unit_of(text: str) -> str | None:
    """Name the engine's unit that a process is in, by its /proc/PID/cgroup; None: it is in none."""
    for line in text.splitlines():
        unit = line.rpartition("/")[2]
        if unit.startswith(_UNIT_BEGINS) and unit.endswith(_UNIT_ENDS):
            return unit
    return None


def _unit(pid: int) -> str | None:
    try:
        return engine_unit_of((_PROC / str(pid) / "cgroup").read_text())
    except OSError:
        return None  # it ended while we looked


def strangers(ours: Collection[int], most: int, least: int) -> dict[int, int]:
    """Say which of the other processes have taken most of the host's memory, and how many bytes.

    At most `most` of them, each with at least `least` bytes; no process below this one.
    """
    above = _parents()
    known = dict.fromkeys((*ours, os.getpid()), True)

    def is_ours(pid: int) -> bool:
        line = []
        while pid in above and pid not in known and pid not in line:
            line.append(pid)
            pid = above[pid]
        return known.setdefault(pid, False)

    sizes = {}
    for pid in above:
        if not is_ours(pid):
            with suppress(PermissionError):
                sizes[pid] = own_memory(pid) or 0
    largest = sorted(sizes, key=lambda pid: -sizes[pid])[:most]
    return {pid: sizes[pid] for pid in largest if sizes[pid] >= least}


def own_memory(pid: int) -> int | None:
    """Bytes that a process alone has taken; None where it has ended. Raises `PermissionError`.

    That is its RSS without shared and file pages, whose cache can be had back (proc_pid_statm(5)).
    The kernel's counters are read, no page tables: cheap, and wrong by some MiB on many cores.
    """
    try:
        fields = (_PROC / str(pid) / "statm").read_bytes().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (int(fields[1]) - int(fields[2])) * _PAGE


def _parents() -> dict[int, int]:
    found: dict[int, int] = {}
    for entry in os.listdir(_PROC):  # noqa: PTH208  it is read each few seconds
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as stat:  # noqa: PTH123  as above
                line = stat.read()
        except OSError:
            continue  # it ended while we looked
        # The name stands in parentheses and may hold anything, parentheses too.
        found[int(entry)] = int(line[line.rindex(b")") + 2 :].split(None, 2)[1])
    return found
