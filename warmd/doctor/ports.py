"""The addresses of the gateway and the metrics: free, or taken by whom."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from warmd.config import Address
from warmd.doctor.finding import Finding, note, ok, problem
from warmd.listeners import Taker, who_listens

_SUBJECT = "ports"


@dataclass(frozen=True)
class Port:
    """An address of the config. `error` is bind(2)'s number, 0 where it could be bound."""

    key: str
    address: Address
    error: int = 0
    taker: Taker | None = None
    unknown_host: str | None = None


def look_at_ports(
    addresses: Mapping[str, tuple[Address, ...]], daemon: int | None = None
) -> tuple[Port, ...]:
    """Bind each for a moment, without listening, and find who has those that are taken.

    `daemon`: its process. It is asked first: systemd holds each socket that it keeps for it, too.
    """
    return tuple(_look(key, each, daemon) for key, many in addresses.items() for each in many)


def _look(key: str, address: Address, daemon: int | None) -> Port:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        return Port(key, address, unknown_host=error.strerror or str(error))
    for family, kind, protocol, _, where in dict.fromkeys(found):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(where)
            except OSError as error:
                number = error.errno or errno.EINVAL
                taker = _taker(address, daemon) if number == errno.EADDRINUSE else None
                return Port(key, address, number, taker)
    return Port(key, address)


def _taker(address: Address, daemon: int | None) -> Taker:
    def clashes(host: str, port: int) -> bool:
        return Address(host, port).overlaps(address)

    if daemon is not None and (found := who_listens(clashes, daemon)).pid is not None:
        return found
    return who_listens(clashes)


def judge_ports(
    ports: tuple[Port, ...], daemon: int | None, *, runs: bool = False
) -> Iterator[Finding]:
    """`daemon`: the process that answers at the control socket, None where none does.

    `runs`: one is there that may not be asked by who looks, who then can't see its ports either.
    """
    free: list[str] = []
    ours: list[str] = []
    for port in ports:
        told = f"{port.key} {port.address}"
        if port.unknown_host is not None:
            yield problem(
                _SUBJECT,
                f"{told}: the host's name has no address ({port.unknown_host})",
                f"write an IP address in {port.key}, or mend /etc/hosts or DNS",
            )
        elif port.error == 0:
            free.append(str(port.address))
        elif port.error != errno.EADDRINUSE:
            yield problem(_SUBJECT, f"{told}: {os.strerror(port.error)}", _unbindable(port))
        elif daemon is not None and (port.taker or Taker()).pid in (daemon, None):
            ours.append(str(port.address))
        elif runs and (port.taker or Taker()).pid is None:
            yield note(
                _SUBJECT,
                f"{told} is taken, most likely by the daemon that runs",
                "sudo warmctl doctor tells for certain",
            )
        else:
            yield _taken(port, told)
    if ours:
        yield ok(_SUBJECT, f"the daemon listens on {', '.join(ours)}")
    if free:
        yield ok(_SUBJECT, f"{', '.join(free)} free")


def _unbindable(port: Port) -> str:
    match port.error:
        case errno.EACCES:
            return f"a port below 1024 needs CAP_NET_BIND_SERVICE: take a higher one in {port.key}"
        case errno.EADDRNOTAVAIL:
            return f"no interface has that address (ip address): correct {port.key}"
        case _:
            return f"correct {port.key}"


def _taken(port: Port, told: str) -> Finding:
    taker = port.taker or Taker()
    if taker.pid is None:
        return problem(
            _SUBJECT,
            f"{told} is taken, by {taker}",
            f"sudo ss -ltnp 'sport = :{port.address.port}' names it",
        )
    if taker.pid == 1:
        return problem(
            _SUBJECT,
            f"{told} is held by {taker}, for a socket unit or for a service that is to come back",
            f"systemctl list-sockets, and systemctl status warmd, tell for whom; or take another "
            f"port in {port.key}",
        )
    return problem(
        _SUBJECT,
        f"{told} is taken by {taker}",
        f"stop it, or take another port in {port.key}",
    )
