"""The host's memory, as the budget of staging and the status page need it."""

from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class HostMemory:
    """RAM of the host, in bytes.

    `available` is the kernel's MemAvailable (proc(5)): it counts page cache as available, also
    page cache that a staging process holds.
    """

    total: int
    available: int


def host_memory() -> HostMemory:
    """Read the host's memory now."""
    memory = psutil.virtual_memory()
    return HostMemory(total=memory.total, available=memory.available)
