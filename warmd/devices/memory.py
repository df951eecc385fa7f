"""The host's memory, as the budget of staging and the status page need it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from warmd.devices.cgroups import memory_limits

_NODES = Path("/sys/devices/system/node")


@dataclass(frozen=True)
class HostMemory:
    """RAM of the host, in bytes.

    `available` is the kernel's MemAvailable (proc(5)): it counts page cache as available, also
    page cache that a staging process holds; or less, where a limit of this process's control
    groups leaves less.
    """

    total: int
    available: int


def host_memory() -> HostMemory:
    """Read the host's memory now."""
    memory = psutil.virtual_memory()
    left = [limit.available for limit in memory_limits()]
    return HostMemory(total=memory.total, available=min([memory.available, *left]))


def largest_node() -> int:
    """Bytes of RAM of the host's largest NUMA node; of the whole host where none is told of.

    What vLLM without a GPU takes its share of: sysfs's node*/meminfo (numa(7)).
    """
    totals = [
        int(line.split()[3]) * 1024
        for file in _NODES.glob("node[0-9]*/meminfo")
        for line in file.read_text().splitlines()
        if "MemTotal:" in line
    ]
    return max(totals, default=host_memory().total)
