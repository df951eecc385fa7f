"""The daemon's side of a shim's listening socket: make it, and be heard by the shim behind it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from warmd.launch.handover import HELLO
from warmd.launch.launcher import EngineExit, LaunchError

_ANSWER_WITHIN_S = 5.0
_BUSY_ROUND_S = 0.02
_BACKLOG = 16
_MOST = 64 * 1024
_PEER = struct.Struct("3i")  # SO_PEERCRED, unix(7): pid, uid, gid


@dataclass(frozen=True)
class Answer:
    """What a shim has said to us: its engine is ours now, with both descriptors."""

    control: socket.socket
    output: int
    unread: bytes
    pid: int
    identity: str
    exec_at: float
    exit: EngineExit | None

    def refuse(self) -> None:
        """Give the engine back: the shim waits for another daemon."""
        self.control.close()
        os.close(self.output)


class _No(Enum):
    NOBODY = "nobody answers"
    BUSY = "it has a daemon"


def listen(path: Path) -> socket.socket:
    """Return a listening socket at `path`, in place of a dead one; raises OSError."""
    if is_held(path):
        raise OSError(errno.EADDRINUSE, "an engine of this name is still there", str(path))
    path.unlink(missing_ok=True)
    listener = _socket()
    try:
        # Linux takes the file's mode from the socket's own, so no umask is touched (unix(7)).
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    return listener


def is_held(path: Path) -> bool:
    """Whether a shim listens at `path`, or a forkserver that still ends what a shim has left."""
    with _socket() as probe:
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its backlog is full
        except OSError:
            return False
    return True


async def call(path: Path) -> Answer | None:
    """Ask the shim behind `path` for its engine; None where none answers in time.

    Raises `LaunchError` where another daemon has the engine, and keeps it.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + _ANSWER_WITHIN_S
    while True:
        answer = await _call_once(path)
        if answer is _No.NOBODY:
            return None
        if isinstance(answer, Answer):
            return answer
        # A daemon that was just killed: the kernel closes its descriptors one after the other.
        if loop.time() >= give_up_at:
            raise LaunchError(
                f"the engine behind {path} belongs to another warmd that lives; stop that one first"
            )
        await asyncio.sleep(_BUSY_ROUND_S)


async def _call_once(path: Path) -> Answer | _No:
    with ExitStack() as opened:
        control = opened.enter_context(_socket())
        try:
            control.connect(str(path))  # at once or not at all, see unix(7)
            peer = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            if _PEER.unpack(peer)[1] != os.geteuid():
                return _No.NOBODY
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                await _readable(control)
            packet, received, _, _ = socket.recv_fds(control, _MOST, 1)
        except (OSError, TimeoutError):
            return _No.NOBODY
        for descriptor in received:
            opened.callback(os.close, descriptor)
            os.set_inheritable(descriptor, False)  # recv_fds ignores flags, see gh-107898
        head, _, unread = packet.partition(b"\n")
        match json.loads(head or b"null"), received:
            case {"busy": True}, []:
                return _No.BUSY
            case {
                "hello": hello,
                "pid": int(pid),
                "identity": str(identity),
                "at": float(at),
                "ended": ended,
            }, [output] if hello == HELLO:
                answer = Answer(control, output, unread, pid, identity, at, exit_of(ended))
                opened.pop_all()
                return answer
    return _No.NOBODY


def exit_of(ended: object) -> EngineExit | None:
    """Read a shim's packet about the end of the main process; None where it says nothing of it."""
    match ended:
        case {"status": int() | None as status, "signal": int() | None as number, "asked": asked}:
            return EngineExit(status, number, asked_for=bool(asked))
        case _:
            return None


async def _readable(control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(control.fileno(), tell)
    try:
        await ready
    finally:
        loop.remove_reader(control.fileno())


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
