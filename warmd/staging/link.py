"""The daemon's connection to the stage keeper: found where one runs, else started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

from warmd.aside import aside
from warmd.staging.file_set import StagingError
from warmd.staging.holder.protocol import NAME, PROTOCOL
from warmd.staging.holding import KILLED
from warmd.staging.stopped import is_stopped

SOCKET = "stage.sock"
_PROGRAM = Path(__file__).with_name("holder") / "program.py"
_LONGEST_PATH = 107  # unix(7), sun_path
_PEER = struct.Struct("3i")  # SO_PEERCRED, unix(7): pid, uid, gid
_HELLO_S = 30.0  # a Python that starts on a busy host
_ANSWER_S = 10.0  # of one that runs already, on a host that swaps
_END_S = 5.0
_BACKLOG = 8
_WORDS = 4096  # of what it wrote to stderr, so much is read


class Link:
    """One connection to a stage keeper that said hello."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        child: Child | None,
    ) -> None:
        """`child` where this daemon started the keeper."""
        self._reader = reader
        self._writer = writer
        self._child = child
        self.holds: object = None  # what it held as it said hello
        self.pid = _peer_of(writer) if child is None else child.pid

    def send(self, word: dict[str, object]) -> None:
        """Say something; to one that has gone it is said in vain."""
        self.send_line(encoded(word))

    def send_line(self, line: bytes) -> None:
        """Say what was encoded before."""
        if not self._writer.is_closing():
            self._writer.write(line)

    async def hear(self) -> dict[str, object] | None:
        """Return its next word; None when it has gone."""
        try:
            while line := await self._reader.readline():
                word = _parsed(line)
                if word is not None:
                    return word
        except (ConnectionError, ValueError):
            pass  # reset; or a line longer than any of ours
        return None

    async def how_it_ended(self) -> str:
        """Say, of a keeper that has gone, what became of it."""
        self._writer.close()
        if self._child is None:
            return ended(self.pid)
        return await self._child.how_it_ended()

    async def end(self) -> None:
        """Let the keeper go of all and end; return when it is gone, or was killed."""
        self.send({"end": True})
        try:
            async with asyncio.timeout(_END_S):
                while await self.hear() is not None:
                    pass
        except TimeoutError:
            _kill(self.pid)
        await self.how_it_ended()

    def leave(self) -> None:
        """Hang up. What the keeper does then hangs on its `linger`."""
        self._writer.close()
        if self._child is not None:
            self._child.leave()


class Child:
    """A stage keeper that this daemon has started."""

    def __init__(self, process: subprocess.Popen[bytes], words: int) -> None:
        """`words`: the file that takes its stderr."""
        self.pid = process.pid
        self._process = process
        self._words = words

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    async def how_it_ended(self) -> str:
        """Wait for its end, for a moment at most, and say how it was."""
        pid = self._process.pid
        try:
            status = await aside(lambda: self._process.wait(_END_S))
        except subprocess.TimeoutExpired:
            self.leave()
            return f"process {pid}, the stage keeper, has hung up and doesn't end"
        if self._words < 0:
            return f"process {pid}, the stage keeper, has ended"
        size = os.fstat(self._words).st_size
        words = os.pread(self._words, _WORDS, max(0, size - _WORDS)).decode(errors="replace")
        self._forget_words()
        if words.strip():
            return words.strip().splitlines()[-1]
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else "exited"
        how += f" with status {status}" if status >= 0 else ""
        how = KILLED if status == -signal.SIGKILL else how
        return f"process {pid}, the stage keeper, {how}"

    def leave(self) -> None:
        """Never wait for it: it is going to outlive us."""
        self._process.returncode = self._process.returncode or 0
        self._forget_words()

    def _forget_words(self) -> None:
        if self._words >= 0:
            os.close(self._words)
            self._words = -1


def ended(pid: int) -> str:
    """Say that the keeper of a socket made by `pid` has ended: 1 is systemd, not the keeper."""
    return (
        "the stage keeper has ended" if pid == 1 else f"process {pid}, the stage keeper, has ended"
    )


def encoded(word: dict[str, object]) -> bytes:
    """Return `word` as the keeper reads it."""
    return json.dumps(word).encode() + b"\n"


async def find(path: Path, report: Callable[[str], None]) -> Link | None:
    """Connect to the keeper that listens at `path`; None where there is none that can be used.

    One that speaks another protocol, or doesn't answer, is ended; of the latter `report` hears.
    """
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(str(path))
    except (OSError, TimeoutError):  # none, or a dead one's socket file
        return None
    link = Link(reader, writer, None)
    deaf = ""
    try:
        async with asyncio.timeout(_ANSWER_S):
            hello = await link.hear()
    except TimeoutError:
        hello = {}
        why = " (it is stopped)" if is_stopped(link.pid) else ""
        deaf = f"process {link.pid}, the earlier stage keeper, gave no answer for {_ANSWER_S:g} s"
        deaf += why
    except asyncio.CancelledError:
        link.leave()
        raise
    if hello is not None and hello.get("keeper") == PROTOCOL:
        link.holds = hello.get("holds")
        return link
    await link.end()
    if deaf:
        report(f"{deaf} and was ended; the files that it held are brought into RAM anew")
    return None


async def start(path: Path, python: Path | str) -> Link:
    """Start a keeper that listens at `path`, which nobody does; raises `StagingError`."""
    child = await aside(lambda: _launched(path, python))
    hello: dict[str, object] | None = None
    try:
        async with asyncio.timeout(_HELLO_S):
            reader, writer = await asyncio.open_unix_connection(str(path))
            link = Link(reader, writer, child)
            hello = await link.hear()
    except TimeoutError:
        child.kill()
    except OSError:
        pass  # it died at once
    except asyncio.CancelledError:
        child.kill()
        await child.how_it_ended()
        raise
    if hello is None:
        raise StagingError(f"files can't be staged: {await child.how_it_ended()}")
    if hello.get("keeper") != PROTOCOL:
        await link.end()
        raise StagingError(
            "files can't be staged: another version of warmd was installed while this one runs; "
            "restart warmd"
        )
    return link


def _kill(pid: int) -> None:
    """End what listens on our own socket and doesn't answer, where that is a stage keeper."""
    with contextlib.suppress(OSError):
        if Path(f"/proc/{pid}/comm").read_text().strip() == NAME:
            os.kill(pid, signal.SIGKILL)


def checked(path: Path) -> Path:
    """Return a path that a unix socket can have; raises `StagingError`."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise StagingError(
            f"{path} is too long for a unix socket (more than {_LONGEST_PATH} bytes), so nothing "
            "can be staged; give [host] run_dir a shorter path"
        )
    return path


def _listen(path: Path) -> socket.socket:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StagingError(
                f"{path} is no socket: move it away, the stage keeper's belongs there"
            )
        path.unlink()
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Linux takes the file's mode from the socket's own, so no umask is touched (unix(7)).
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _launched(path: Path, python: Path | str) -> Child:
    try:
        listener = _listen(path)
    except OSError as error:
        raise StagingError(
            f"the stage keeper's socket {path} can't be made ({error.strerror or error}); "
            "repair [host] run_dir"
        ) from None
    words = os.memfd_create("stage keeper's last words", os.MFD_CLOEXEC)
    try:
        process = subprocess.Popen(
            [str(python), "-I", "-S", "-X", "utf8", str(_PROGRAM)],
            stdin=listener.fileno(),  # it listens already: nobody waits until the program runs
            stdout=subprocess.DEVNULL,
            stderr=words,
            start_new_session=True,  # Ctrl-C at the terminal is for the daemon to decide on
            env={key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ},
        )
    except OSError as error:
        os.close(words)
        raise StagingError(
            f"the stage keeper can't be started with {python} "
            f"({error.strerror}); repair the Python that runs the daemon"
        ) from None
    finally:
        listener.close()
    return Child(process, words)


def _peer_of(writer: asyncio.StreamWriter) -> int:
    sock = writer.get_extra_info("socket")
    pid, _, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(pid)


def _parsed(line: bytes) -> dict[str, object] | None:
    try:
        word = json.loads(line)
    except ValueError:
        return None
    return word if isinstance(word, dict) else None
