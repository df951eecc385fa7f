"""The shim: one small process above each engine, which ends the engine's tree to the last process.

It is forked by the forkserver and never exec's. It adopts every orphan of its engine, so that
`waitpid` saying ECHILD proves that nothing is left. It speaks JSON packets on a SOCK_SEQPACKET
socket with the daemon:

    daemon:  {"stop": SECONDS}                   SIGTERM to the main process, later SIGKILL to all
    shim:    {"started": PID, "identity": ID, "at": SECONDS}  exec has happened, CLOCK_MONOTONIC
             {"refused": ERRNO, "stage": WORD}   it has not: fork, setup, cwd or exec
             {"status": N, "signal": N, "asked": BOOL}  the main process has ended
             {"gone": true}                      nothing of the tree is left

End of file on the socket means that the daemon is gone: the whole tree is killed at once, unless it
was started to outlive the daemon: then the shim waits for the next one, see handover.py.
Standard library only, see forkserver.py.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import struct
import sys
import time

TYPE_CHECKING = False  # spares the import of typing
if TYPE_CHECKING:
    from typing import NoReturn, TypedDict

    from warmd.launch import tree
    from warmd.launch.handover import Handover

    class Spec(TypedDict):
        """What the daemon asks for."""

        argv: list[str]
        env: dict[str, str]
        cwd: str

else:
    import tree
    from handover import Handover

MOMENT_S = 0.5
"""The rest of a tree has this long after its main process: resource trackers tidy /dev/shm."""
_FIRST_ROUND_S = 0.02
_LONGEST_ROUND_S = 0.5
_LONGEST_WAIT_S = 3600.0  # poll(2) counts milliseconds in an int
_OUR_BUG = 70  # EX_SOFTWARE, sysexits(3)
_TO_EXEC = -1
_RECORD = struct.Struct("=iid")  # what the child says: stage or _TO_EXEC, errno, seconds
_STAGES = ("setup", "cwd", "exec")


def run(spec_fd: int, control_fd: int, log_fd: int, handover: list[int]) -> NoReturn:
    """Be the shim of one engine until nothing of it is left. Exit status 0: all was said.

    `handover`: nothing, or the two descriptors of `Handover`.
    """
    status = _OUR_BUG
    try:
        os.setsid()
        _close_all_but({0, 1, 2, spec_fd, control_fd, log_fd, *handover})
        tree.adopt_orphans()
        tree.name_process("warmd-shim")
        shim = _Shim(socket.socket(fileno=control_fd), tree.wake_on_child_exit(), handover)
        shim.live(spec_fd, log_fd)
        status = 0
    except BaseException:  # noqa: BLE001  the forkserver's stack below must never run on in here
        sys.excepthook(*sys.exc_info())
    os._exit(status)


class _Shim:
    def __init__(self, control: socket.socket, child_ended: int, handover: list[int]) -> None:
        self._control = control
        self._child_ended = child_ended
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(child_ended, select.POLLIN)
        self._handover = Handover(self._poll, *handover) if handover else None
        self._main = 0
        self._known: dict[str, object] = {}
        self._asked = False
        self._kill_at = float("inf")
        self._segments: set[str] = set()

    def live(self, spec_fd: int, log_fd: int) -> None:
        with os.fdopen(spec_fd, "rb") as file:
            spec: Spec = json.load(file)
        if self._hung_up():
            return  # nobody would ever know of the engine
        try:
            self._main, exec_at = _start(spec, log_fd)
        except _RefusedError as refused:
            self._say(refused=refused.number, stage=refused.stage)
            return
        finally:
            os.close(log_fd)
        identity = tree.identity(self._main)
        self._known = {"pid": self._main, "identity": identity, "at": exec_at, "ended": None}
        self._say(started=self._main, identity=identity, at=exec_at)
        self._until_nothing_is_left()
        tree.unlink_all(self._segments)
        self._say(gone=True)

    def _until_nothing_is_left(self) -> None:
        round_s = _FIRST_ROUND_S
        while self._reap():
            now = time.monotonic()
            if now >= self._kill_at:
                doomed = tree.descendants(os.getpid())
                # First: whoever is killed now, we too, nobody could tell any more what was mapped.
                tree.unlink_all(self._segments | tree.shared_memory(doomed))
                tree.send_signal(doomed, signal.SIGKILL)
                wait_s, round_s = round_s, min(2 * round_s, _LONGEST_ROUND_S)
            else:
                wait_s = self._kill_at - now
            readable = dict(self._poll.poll(min(wait_s, _LONGEST_WAIT_S) * 1000))
            if self._child_ended in readable:
                tree.drain(self._child_ended)
            if self._control.fileno() in readable:
                # An exit that came first is taken first: then nobody had asked for it.
                self._reap()
                self._take_command()
            if self._handover is not None:
                daemon = self._handover.serve(readable, self._known)
                if daemon is not None:
                    self._control = daemon
                    self._poll.register(daemon, select.POLLIN)

    def _reap(self) -> bool:
        ended, any_left = tree.reap()
        for pid, status in ended:
            if pid == self._main:
                self._main_ended(os.waitstatus_to_exitcode(status))
        return any_left

    def _main_ended(self, code: int) -> None:
        self._main = 0
        self._known["ended"] = ended = {
            "status": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "asked": self._asked,
        }
        self._say(**ended)
        self._kill_at = min(self._kill_at, time.monotonic() + MOMENT_S)
        here = os.getpid()
        self._segments |= tree.shared_memory(tree.descendants(here))
        # Only the top of each orphaned branch: it knows best how to end its own workers.
        orphans = [pid for pid, parent in tree.parents().items() if parent == here]
        tree.send_signal(orphans, signal.SIGTERM)

    def _take_command(self) -> None:
        try:
            packet = self._control.recv(4096)
        except ConnectionError:
            packet = b""
        if not packet:
            self._poll.unregister(self._control)
            if self._handover is None:
                self._kill_at = 0.0
            else:
                self._control.close()
                tree.be_silent()
                self._handover.begin()
            return
        self._kill_at = min(self._kill_at, time.monotonic() + float(json.loads(packet)["stop"]))
        if self._main and not self._asked:
            self._asked = True
            # Now: once a process has ended nobody can tell any more what it had mapped.
            self._segments |= tree.shared_memory(tree.descendants(os.getpid()))
            os.kill(self._main, signal.SIGTERM)

    def _hung_up(self) -> bool:
        try:
            return not self._control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    def _say(self, **packet: object) -> None:
        try:
            self._control.send(json.dumps(packet).encode())
        except OSError:
            return  # nobody listens any more; the loop learns it from the end of file


class _RefusedError(Exception):
    def __init__(self, stage: str, number: int) -> None:
        super().__init__(stage, number)
        self.stage = stage
        self.number = number


def _start(spec: Spec, log_fd: int) -> tuple[int, float]:
    """Fork and exec; return the process and when exec was called."""
    reader, writer = os.pipe()
    shim = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        raise _RefusedError("fork", error.errno or errno.EAGAIN) from None
    if pid == 0:
        _become_engine(spec, log_fd, writer, shim)
    os.close(writer)
    # A successful exec closes the pipe: the last record tells.
    with os.fdopen(reader, "rb") as records:
        said = list(_RECORD.iter_unpack(records.read()))
    stage, number, at = said[-1] if said else (0, errno.ECHILD, 0.0)
    if stage == _TO_EXEC:
        return pid, at
    os.waitpid(pid, 0)
    raise _RefusedError(_STAGES[stage], number)


def _become_engine(spec: Spec, log_fd: int, writer: int, shim: int) -> NoReturn:
    stage = 0
    try:
        tree.die_with_parent()
        if os.getppid() != shim:
            os._exit(_OUR_BUG)  # the shim died before we had asked for its fate
        os.setsid()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)  # what is ignored stays ignored across exec
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        stage = 1
        os.chdir(spec["cwd"])
        stage = 2
        os.write(writer, _RECORD.pack(_TO_EXEC, 0, time.monotonic()))
        # Every descriptor above 2 is close-on-exec: ours by PEP 446, those received by request.
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606  no shell is meant
    except OSError as error:
        os.write(writer, _RECORD.pack(stage, error.errno or 0, 0.0))
    except ValueError:  # a NUL byte inside a string
        os.write(writer, _RECORD.pack(stage, errno.EINVAL, 0.0))
    os._exit(127)


def _close_all_but(kept: set[int]) -> None:
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208  no pathlib in a shim
        if int(entry) not in kept:
            try:
                os.close(int(entry))
            except OSError:
                continue  # the descriptor that listed them
