"""The daemon's handle on the forkserver."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import subprocess
import sys
import termios
from pathlib import Path

from warmd.launch.launcher import LaunchError

_PROGRAM = Path(__file__).with_name("forkserver.py")
_READY_WITHIN_S = 30.0
_END_WITHIN_S = 10.0


class ForkserverProcess:
    """One forkserver that runs; start another where it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], requests: socket.socket) -> None:
        self._process = process
        self._requests = requests

    @classmethod
    async def started(cls) -> ForkserverProcess:
        """Start one and wait until it listens; raises `LaunchError`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        # Its own environment is no engine's; a Python that needs LD_LIBRARY_PATH still needs it.
        env = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  returns as soon as it has exec'ed
                [sys.executable, "-I", "-S", str(_PROGRAM), str(theirs.fileno())],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a Ctrl-C at the terminal is for the daemon
            )
        except OSError as error:
            ours.close()
            raise LaunchError(
                f"no engine can be started: {sys.executable} could not be run ({error.strerror})"
            ) from None
        finally:
            theirs.close()
        server = cls(process, ours)
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                hello = await asyncio.get_running_loop().sock_recv(ours, 16)
        except (OSError, TimeoutError):
            hello = b""
        except asyncio.CancelledError:
            await server.end()
            raise
        if hello != b"ready":
            server.kill()
            await server.end()
            raise LaunchError(
                f"no engine can be started: {_PROGRAM} ended with status {process.returncode} "
                "before it was ready; its error stands above in the log"
            )
        return server

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it listens. Its socket tells it sooner than `waitpid` does."""
        try:
            return bool(self._requests.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    @property
    def is_stuck(self) -> bool:
        """Whether it leaves what was asked of it unread (SIOCOUTQ, unix(7)): it stands still."""
        unread = struct.unpack("i", fcntl.ioctl(self._requests, termios.TIOCOUTQ, bytes(4)))[0]
        return bool(unread)

    async def request(self, *descriptors: int) -> None:
        """Ask for a shim that takes these, see forkserver.py; raises ConnectionError."""
        while True:
            try:
                socket.send_fds(self._requests, [b"launch"], descriptors)
            except BlockingIOError:
                await asyncio.sleep(0.01)  # many requests wait before this one
            else:
                return

    def kill(self) -> None:
        """SIGKILL it, where it no longer answers. Engines that run are not touched."""
        self._process.kill()

    def leave(self) -> None:
        """Hang up, and leave it to the engines that need it still."""
        self._requests.close()
        self._process.returncode = 0  # nobody waits for it: it is going to outlive us

    async def end(self) -> None:
        """Hang up: it ends once its last shim has gone. Waits for that, but not forever."""
        self._requests.close()
        try:
            await asyncio.to_thread(self._process.wait, _END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
