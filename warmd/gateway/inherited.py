"""Listening sockets that whoever started the daemon holds: a restart of it loses no connection."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from warmd.gateway.errors import GatewayError

_FIRST = 3  # SD_LISTEN_FDS_START
_UNNAMED = "unknown"  # as sd_listen_fds_with_names(3) calls them
_REMEDY = "correct the socket unit, or whatever else starts warmd"


def inherited_sockets(environ: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    """Return the listening sockets that were handed over, by name; see sd_listen_fds(3).

    Takes the variables out of `environ`: they are for this process alone. Raises `GatewayError`.
    """
    pid = environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_PIDFDID", None)
    number = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()):
        return {}
    if not number.isascii() or not number.isdigit():
        raise GatewayError(f"LISTEN_FDS is {number!r} and must be a number: {_REMEDY}.")
    found: dict[str, list[socket.socket]] = {}
    for index in range(int(number)):
        name = names[index] if index < len(names) and names[index] else _UNNAMED
        found.setdefault(name, []).append(_listening(_FIRST + index, name))
    return found


def _listening(descriptor: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        handed_over = socket.socket(fileno=descriptor)
        if handed_over.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            handed_over.setblocking(False)
            return handed_over
        why = "it does not listen"
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
    raise GatewayError(
        f"Descriptor {descriptor} ({name}) was handed over as a listening socket and is none "
        f"({why}): {_REMEDY}."
    )
