"""Find and end what an earlier life of the daemon has left running."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

from warmd.config.run_files import ENGINES, SHIM_SOCKET_SUFFIX
from warmd.launch import shim_socket, tree
from warmd.launch.launcher import LaunchError, Leftover
from warmd.launch.output import SUFFIX

ENGINE_MARK = "WARMD_ENGINE"
RUN_DIR_MARK = "WARMD_RUN_DIR"
_ROUND_S = 0.1
_HELD_ROUND_S = 0.02


def marks(run_dir: Path, name: str) -> dict[str, str]:
    """Return the variables that mark each process of an engine as ours."""
    return {RUN_DIR_MARK: os.path.realpath(run_dir), ENGINE_MARK: name}


def sweep(
    run_dir: Path,
    *,
    name: str | None = None,
    spare: Collection[str] = (),
    within_s: float = 10.0,
) -> tuple[Leftover, ...]:
    """SIGKILL each process of this user that bears the marks of `run_dir`, until none is left.

    A process is ours where its environment holds both marks, or where its stdout or stderr is the
    output pipe of an engine. Shims that wait for a daemon are killed with their engines, and where
    their forkserver lives its end of the rest is waited for. Blocks. Call it while no other daemon
    uses `run_dir` and before the first engine is started, with the names of the engines to
    `spare`; or with the `name` of one engine. Returns what was killed; raises `LaunchError` where
    something still lives after `within_s` seconds.
    """
    real = os.path.realpath(run_dir)
    give_up_at = time.monotonic() + within_s
    ours = _our_own_line()

    def doomed(engine: str) -> bool:
        return name in (None, engine) and engine not in spare

    killed: set[Leftover] = set()
    while True:
        found = _kill_marked(real, doomed, ours)
        killed |= found
        sockets = [path for engine, path in _shim_sockets(real) if doomed(engine)]
        held = [path for path in sockets if shim_socket.is_held(path)]
        if not found and not held:
            break
        if time.monotonic() >= give_up_at:
            names = [f"{each.pid} ({each.name})" for each in sorted(found)] or map(str, held)
            raise LaunchError(
                f"processes of an earlier engine outlive SIGKILL for {within_s:g} s: "
                f"{', '.join(names)}; "
                "a driver may hold them: look at their state in ps and at the kernel's log"
            )
        if not found:
            time.sleep(_HELD_ROUND_S)
    tree.unlink_all({str(path) for path in sockets})
    return tuple(sorted(killed))


def _shim_sockets(real: str) -> list[tuple[str, Path]]:
    found = Path(real, ENGINES).glob(f"*{SHIM_SOCKET_SUFFIX}")
    return [(path.name.removesuffix(SHIM_SOCKET_SUFFIX), path) for path in found]


def _kill_marked(real: str, doomed: Callable[[str], bool], ours: frozenset[int]) -> set[Leftover]:
    """Kill all that can be seen at once; wait a moment for their end; return what was found.

    Removes the shared memory that they would have removed in an orderly end.
    """
    found: set[Leftover] = set()
    poll = select.poll()
    handles: list[int] = []
    marked: dict[int, Leftover] = {}
    try:
        for pid in tree.parents().keys() - ours:
            try:
                # First the handle, then the look: so the number can't have changed hands.
                handle = os.pidfd_open(pid)
            except OSError:
                continue
            handles.append(handle)
            engine = _engine_of(pid, real)
            if engine is None or not doomed(engine):
                os.close(handles.pop())
                continue
            marked[handle] = Leftover(pid, engine)
        # Before the first is killed: a shim's death takes others with it, and what they had mapped,
        # and where we are killed ourselves nobody could tell any more.
        tree.unlink_all(tree.shared_memory([each.pid for each in marked.values()]))
        for handle, each in marked.items():
            try:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            except ProcessLookupError:
                continue
            found.add(each)
            poll.register(handle, select.POLLIN)
        if found:
            poll.poll(_ROUND_S * 1000)
    finally:
        for handle in handles:
            os.close(handle)
    return found


def _engine_of(pid: int, real: str) -> str | None:
    """Name the engine that a process of this user belongs to; None for strangers and the dead."""
    try:
        if Path(f"/proc/{pid}").stat().st_uid != os.geteuid():
            return None
        block = Path(f"/proc/{pid}/environ").read_bytes()
        outputs = [_link(pid, number) for number in (1, 2)]
    except OSError:
        return None
    environ = dict(entry.partition(b"=")[::2] for entry in block.split(b"\0"))
    if environ.get(RUN_DIR_MARK.encode()) == os.fsencode(real):
        engine = environ.get(ENGINE_MARK.encode())
        if engine:
            return os.fsdecode(engine)
    before, after = f"{real}/{ENGINES}/", f"{SUFFIX} (deleted)"
    for output in outputs:
        if output.startswith(before) and output.endswith(after):
            return output[len(before) : -len(after)]
    return None


def _link(pid: int, number: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/fd/{number}").readlink())
    except FileNotFoundError:
        return ""


def _our_own_line() -> frozenset[int]:
    """Return this process and all above it: whatever they bear, they are no leftovers."""
    above = tree.parents()
    line = {os.getpid()}
    pid = os.getppid()
    while pid and pid not in line:
        line.add(pid)
        pid = above.get(pid, 0)
    return frozenset(line)
