"""Listening on TCP addresses of this host, and who else does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil

BACKLOG = 1024
"""So many connections wait in the kernel while nobody accepts them, as in a restart."""


async def listen_on(
    host: str, port: int, ready: dict[object, socket.socket]
) -> list[socket.socket]:
    """Return listening sockets for all addresses of `host`; raises `OSError`, and leaves none open.

    `ready`: sockets that listen already, by host and port; those that are used are taken out.
    """
    listening: list[socket.socket] = []
    try:
        for family, kind, protocol, name in await _resolved(host, port):
            handed_over = ready.pop(name[:2], None)
            one = handed_over or socket.socket(family, kind, protocol)
            listening.append(one)
            one.setblocking(False)
            if handed_over is None:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind(name)
            one.listen(BACKLOG)
    except OSError:
        for one in listening:
            one.close()
        raise
    return listening


async def meant(addresses: Iterable[tuple[str, int]]) -> set[object]:
    """Return the hosts and ports that `addresses` come to; what can't be found is left out."""
    names: set[object] = set()
    for host, port in addresses:
        with suppress(OSError):  # whoever is to listen there says so
            names.update(name[:2] for *_, name in await _resolved(host, port))
    return names


async def _resolved(host: str, port: int) -> list[tuple[int, int, int, tuple[object, ...]]]:
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return [(family, kind, way, name) for family, kind, way, _, name in dict.fromkeys(found)]


@dataclass(frozen=True)
class Taker:
    """The process that listens; `pid` None where it may not be seen."""

    pid: int | None = None
    name: str = ""

    def __str__(self) -> str:
        if self.pid is None:
            return "a process that this user may not see"
        return f"{self.name} (process {self.pid})"


def who_listens(clashes: Callable[[str, int], bool], process: int | None = None) -> Taker:
    """Return the first process that listens on an address and a port for which `clashes` holds.

    `process`: only that one is asked. Several may hold one socket, and psutil tells one of them.
    """
    try:
        found = (
            [(each, each.pid) for each in psutil.net_connections(kind="tcp")]
            if process is None
            else [(each, process) for each in psutil.Process(process).net_connections(kind="tcp")]
        )
        for each, pid in found:
            if each.status != psutil.CONN_LISTEN or not each.laddr or pid is None:
                continue
            if clashes(each.laddr.ip, each.laddr.port):
                return Taker(pid, psutil.Process(pid).name())
    except (psutil.Error, OSError):
        pass  # it ended, or /proc is closed to us
    return Taker()
