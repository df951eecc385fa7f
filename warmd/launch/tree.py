"""What the kernel knows about a process tree, and the two promises it makes about orphans.

Standard library only: the forkserver and its shims load this file without the package around it.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_SHM = b"/dev/shm/"
_SEGMENTS = (b"psm_", b"vllm_offload_", b"nccl-")
"""Names of Python's multiprocessing, of vLLM's KV offloading and of NCCL; the rest is random."""
_SEMAPHORES = "sem.mp-"

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: object) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def adopt_orphans() -> None:
    """Become the parent of every orphan below this process (PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def die_with_parent() -> None:
    """Have the kernel SIGKILL this process when its parent dies (PR_SET_PDEATHSIG)."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def name_process(name: str) -> None:
    """Set the name that ps and top show; the kernel keeps 15 bytes (PR_SET_NAME)."""
    _prctl(_PR_SET_NAME, name.encode())


def identity(pid: int) -> str:
    """Name a process as no later one with its number can be named: boot, number, start.

    The start is in clock ticks after the boot, see proc_pid_stat(5). Raises OSError.
    """
    with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123  no pathlib in a shim
        started = stat.read().rpartition(b")")[2].split()[19].decode()
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123  as above
            boot = file.read().strip()
    except OSError:
        boot = "-"  # hidden, as by ProcSubset= of systemd.exec(5)
    return f"{boot}:{pid}:{started}"


def parents() -> dict[int, int]:
    """Map each process that can be seen to its parent, from /proc/PID/stat.

    `/proc/PID/task/*/children` would be quicker, but it needs CONFIG_PROC_CHILDREN and may skip
    children while others exit; see proc_pid_task(5).
    """
    found: dict[int, int] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208  pathlib would double a shim's memory
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as stat:  # noqa: PTH123  no pathlib here either
                line = stat.read()
        except OSError:
            continue  # it ended while we looked
        # The name stands in parentheses and may hold anything, parentheses too.
        found[int(entry)] = int(line[line.rindex(b")") + 2 :].split(None, 2)[1])
    return found


def descendants(root: int, spare: frozenset[int] = frozenset()) -> list[int]:
    """List all processes below `root`, parents first; leave out those in `spare` and below them."""
    below: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        below.setdefault(parent, []).append(pid)
    found: list[int] = []
    level = [root]
    while level:
        level = [pid for up in level for pid in below.get(up, ()) if pid not in spare]
        found += level
    return found


def shared_memory(pids: list[int]) -> set[str]:
    """List the segments that only an engine makes and that `pids` map, from /proc/PID/maps.

    Their makers unlink them in an orderly end; after a SIGKILL they stay in RAM, until every start
    fails for want of it (vllm#54002, llm-d#352). Segments of other names may be shared with others
    on purpose and are not listed.
    """
    found: set[str] = set()
    semaphores: set[tuple[bytes, bytes]] = set()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps", "rb") as maps:  # noqa: PTH123  as above
                lines = maps.readlines()
        except OSError:
            continue  # it ended while we looked
        for line in lines:
            if _SHM not in line:
                continue
            *_, device, inode, path = line.rstrip(b"\n").split(None, 5)
            name = path[len(_SHM) :] if path.startswith(_SHM) else b""
            if name.startswith(b"sem."):
                semaphores.add((device, inode))
            elif name.startswith(_SEGMENTS) and b"/" not in name and b" " not in name:
                found.add(os.fsdecode(path))
    return found | _semaphores_at(semaphores) if semaphores else found


def _semaphores_at(mapped: set[tuple[bytes, bytes]]) -> set[str]:
    """List Python's semaphores among those files, each a device and inode as maps has them.

    Their maker has mapped them by another name, deleted since: sem_open(3) makes a file of its own
    and links it to the name that was asked for.
    """
    found: set[str] = set()
    folder = os.fsdecode(_SHM)
    try:
        names = os.listdir(folder)  # noqa: PTH208  as above
    except OSError:
        return found  # those who map it have another one
    for name in names:
        if not name.startswith(_SEMAPHORES):
            continue
        try:
            status = os.stat(folder + name, follow_symlinks=False)  # noqa: PTH116  as above
        except OSError:
            continue  # its maker was quicker
        device = b"%02x:%02x" % (os.major(status.st_dev), os.minor(status.st_dev))
        if (device, b"%d" % status.st_ino) in mapped:
            found.add(folder + name)
    return found


def unlink_all(paths: set[str]) -> None:
    """Remove each of the files that is still there."""
    for path in paths:
        try:
            os.unlink(path)  # noqa: PTH108  as above
        except OSError:
            continue  # its maker was quicker


def send_signal(pids: list[int], number: int) -> None:
    """Signal each process that is still there.

    A number read a moment ago can't name a stranger: the kernel hands out process numbers in a
    ring and comes back to one only after all others.
    """
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def reap() -> tuple[list[tuple[int, int]], bool]:
    """Take the exit of each child that has ended: (pid, wait status), and whether any is left."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended.append((pid, status))


def wake_on_child_exit() -> int:
    """Return a descriptor that becomes readable when a child ends (SIGCHLD, self-pipe)."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def be_silent() -> None:
    """Close the error output of a daemon that is gone: whoever reads it waits for its end."""
    os.dup2(0, 2, inheritable=False)  # /dev/null


def drain(reader: int) -> None:
    """Empty what woke us up."""
    try:
        while os.read(reader, 512):
            pass
    except BlockingIOError:
        pass


def ignore_signals_for_others() -> None:
    """Stay alive when a signal meant for the daemon or its whole group arrives."""
    for number in (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        signal.signal(number, signal.SIG_IGN)
