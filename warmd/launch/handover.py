"""What a shim does between two daemons, where its engine may outlive the one that started it.

It reads what the engine prints, so that a full pipe blocks nobody, and keeps the last of it. It
listens on a SOCK_SEQPACKET socket below the run folder, and says to a daemon of its own user that
connects, in one packet of a JSON line and the bytes nobody has read:

    {"hello": 1, "pid": N, "identity": ID, "at": SECONDS, "ended": STATUS PACKET or null}

With it goes the reading end of the engine's output. Where it has a daemon already: {"busy": true}.
Standard library only, see forkserver.py.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct

HELLO = 1
"""The version of what a shim and a later daemon say to each other: either may be the newer."""

_KEPT = 16 * 1024  # bytes of output: a packet must hold them
_TURN = 64 * 1024  # what a pipe holds
_OUTPUT = 1
_PEER = struct.Struct("3i")  # SO_PEERCRED, unix(7): pid, uid, gid


class Handover:
    """The listening socket and the engine's output, of which only one may be read at a time."""

    def __init__(self, poll: select.poll, listener: int, output: int) -> None:
        """Take over both descriptors; the output becomes our stdout: by that a sweep knows us."""
        os.dup2(output, _OUTPUT, inheritable=False)
        os.close(output)
        self._listener = socket.socket(fileno=listener)
        self._poll = poll
        self._poll.register(self._listener, select.POLLIN)
        self._unread = b""
        self._alone = False
        self._ended = False  # nobody is left who could write

    def begin(self) -> None:
        """The daemon is gone: read what the engine prints."""
        self._alone = True
        if not self._ended:
            self._poll.register(_OUTPUT, select.POLLIN)

    def serve(self, readable: dict[int, int], hello: dict[str, object]) -> socket.socket | None:
        """Do what is due; return the connection of a daemon that has taken over."""
        if _OUTPUT in readable:
            self._read()
        return self._answer(hello) if self._listener.fileno() in readable else None

    def _read(self) -> None:
        try:
            chunk = os.read(_OUTPUT, _TURN)
        except BlockingIOError:
            return
        if not chunk:
            self._ended = True
            self._poll.unregister(_OUTPUT)
            return
        unread = self._unread + chunk
        # Whole lines only, as far as there are any.
        self._unread = unread if len(unread) <= _KEPT else unread[-_KEPT:].partition(b"\n")[2]

    def _answer(self, hello: dict[str, object]) -> socket.socket | None:
        try:
            caller, _ = self._listener.accept()
        except OSError:
            return None  # it has hung up
        try:
            peer = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            if _PEER.unpack(peer)[1] == os.geteuid():
                if not self._alone:
                    caller.send(b'{"busy": true}')
                else:
                    said = json.dumps({"hello": HELLO, **hello}).encode() + b"\n" + self._unread
                    socket.send_fds(caller, [said], [_OUTPUT])
                    return self._handed_over(caller)
        except OSError:
            pass  # it has hung up
        caller.close()
        return None

    def _handed_over(self, caller: socket.socket) -> socket.socket:
        # From the moment it holds the descriptor every byte is its own.
        self._alone = False
        self._unread = b""
        if not self._ended:
            self._poll.unregister(_OUTPUT)
        return caller
