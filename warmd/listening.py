"""The sockets that the daemon listens on: a service manager keeps them while it is restarted."""

from __future__ import annotations

import socket
import stat
from collections.abc import Callable, Collection, Iterable, MutableMapping, Sequence
from pathlib import Path

from warmd.gateway import inherited_sockets
from warmd.listeners import meant
from warmd.notifying import ServiceManager

FRONTS = ("gateway", "control", "metrics", "agent-check")

_KEPT = "kept-"
"""Before a front's name: what an earlier daemon left. Without it, it is a socket unit's."""


class Listening:
    """What was handed over, for each of `FRONTS`, and what is left to the next daemon.

    Raises `GatewayError` where something else than listening sockets was handed over.
    """

    def __init__(
        self,
        manager: ServiceManager,
        environ: MutableMapping[str, str],
        tell: Callable[[str], None],
    ) -> None:
        """Take the sockets over: from now on no child of ours inherits them."""
        self._manager = manager
        self._tell = tell
        self._handed = inherited_sockets(environ)
        self._of_units: set[socket.socket] = set()

    async def tcp(
        self, front: str, addresses: Collection[tuple[str, int]]
    ) -> Sequence[socket.socket]:
        """Return what listens already for `front`: all of a socket unit, and what `addresses` name.

        What an earlier daemon left and nobody names any more is closed, for good.
        """
        names = await meant(addresses)
        return self._ready(front, lambda name: name[:2] in names)

    def unix(self, front: str, path: Path) -> Sequence[socket.socket]:
        """Return what listens already at `path` for `front`, as `tcp` does."""
        found = self._ready(front, lambda name: name == str(path))
        if found and not _is_socket(path):  # somebody took it away, and nobody can get to ours
            for each in found:
                each.close()
            self._manager.drop(_KEPT + front)
            return ()
        return found

    def _ready(self, front: str, is_meant: Callable[..., bool]) -> Sequence[socket.socket]:
        of_unit, kept = (self._handed.pop(name, []) for name in (front, _KEPT + front))
        self._of_units.update(of_unit)
        ready = {_name_of(each): each for each in of_unit}
        gone: list[socket.socket] = []
        for each in kept:
            name = _name_of(each)
            if is_meant(name) and name not in ready:
                ready[name] = each
            else:
                gone.append(each)
        if gone:
            self._part_with(front, gone, [each for each in kept if each not in gone])
        return [*ready.values()]

    def _part_with(
        self, front: str, gone: Iterable[socket.socket], stay: Sequence[socket.socket]
    ) -> None:
        for each in gone:
            self._tell(f"{front}: what an earlier warmd listened on is closed: {_shown(each)}")
            each.close()
        self._manager.drop(_KEPT + front)
        self._manager.keep(_KEPT + front, stay)
        # Its copy listens too, and the address may be wanted again in another way.
        self._manager.heard()

    def keep(self, front: str, sockets: Iterable[socket.socket]) -> None:
        """Have `sockets` kept for the next daemon; a socket unit's are kept by their unit."""
        own = [each for each in sockets if each not in self._of_units]
        self._manager.keep(_KEPT + front, own)

    def end(self) -> None:
        """Have none kept any more: who comes from now on is refused at once."""
        for front in FRONTS:
            self._manager.drop(_KEPT + front)
        self._manager.heard()


def _name_of(each: socket.socket) -> object:
    name = each.getsockname()
    return name[:2] if isinstance(name, tuple) else name


def _shown(each: socket.socket) -> str:
    match _name_of(each):
        case (str(host), int(port)):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case other:
            return str(other)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False
