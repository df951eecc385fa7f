"""Who listens on a TCP port of this host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Taker:
    """The process that listens; `pid` None where it may not be seen."""

    pid: int | None = None
    name: str = ""

    def __str__(self) -> str:
        if self.pid is None:
            return "a process that this user may not see"
        return f"{self.name} (process {self.pid})"


def who_listens(clashes: Callable[[str, int], bool]) -> Taker:
    """Return the first process that listens on an address and a port for which `clashes` holds."""
    try:
        for each in psutil.net_connections(kind="tcp"):
            if each.status != psutil.CONN_LISTEN or not each.laddr or each.pid is None:
                continue
            if clashes(each.laddr.ip, each.laddr.port):
                return Taker(each.pid, psutil.Process(each.pid).name())
    except (psutil.Error, OSError):
        pass  # it ended, or /proc is closed to us
    return Taker()
