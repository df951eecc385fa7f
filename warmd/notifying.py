"""Word to the service manager that runs the daemon, and the sockets that it keeps for the next.

sd_notify(3), sd_pid_notify_with_fds(3), sd_listen_fds(3). Without a manager all of it is in vain.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

_HEARD_S = 1.0
"""So long the manager may take to have read all that was said; it does so within milliseconds."""


class ServiceManager:
    """Who started the daemon, at $NOTIFY_SOCKET; an abstract one (`@...`) is heard as well."""

    def __init__(self) -> None:
        self._socket = _connected(os.environ.get("NOTIFY_SOCKET", ""))

    @property
    def listens(self) -> bool:
        """Whether there is one that hears what it is told."""
        return self._socket is not None

    def tell(self, *words: str) -> None:
        """Say `READY=1` and the like, all in one datagram."""
        self._hand_over("\n".join(words), ())

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Be shown as reloading meanwhile; however that ends, the service is ready again."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.tell("RELOADING=1", f"MONOTONIC_USEC={now}")
        try:
            yield
        finally:
            self.tell("READY=1")

    def keep(self, name: str, sockets: Sequence[socket.socket]) -> None:
        """Hand copies of `sockets` over, to be given to the next daemon under `name`.

        What it has already isn't kept twice. One that keeps none (`FileDescriptorStoreMax=0`) drops
        them.
        """
        if sockets:
            descriptors = [each.fileno() for each in sockets]
            self._hand_over(f"FDSTORE=1\nFDNAME={name}", descriptors)

    def drop(self, name: str) -> None:
        """Let it close all that it keeps under `name`; what it hears next finds that done."""
        self.tell("FDSTOREREMOVE=1", f"FDNAME={name}")

    def heard(self) -> bool:
        """Wait until it has done all that it was told before, a second at most (sd_notify(3))."""
        mine, its = os.pipe2(os.O_CLOEXEC)
        try:
            self._hand_over("BARRIER=1", [its])
        finally:
            os.close(its)
        try:
            hung_up = select.poll()
            hung_up.register(mine, 0)
            return bool(hung_up.poll(_HEARD_S * 1000))
        finally:
            os.close(mine)

    def _hand_over(self, words: str, descriptors: Sequence[int]) -> None:
        if self._socket is None:
            return
        with suppress(OSError):  # a manager that has gone is no reason to end
            if descriptors:
                socket.send_fds(self._socket, [words.encode()], descriptors)
            else:
                self._socket.sendall(words.encode())


def _connected(address: str) -> socket.socket | None:
    if not address:
        return None
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        manager.connect("\0" + address[1:] if address[0] == "@" else address)
    except OSError:
        manager.close()
        return None
    return manager
