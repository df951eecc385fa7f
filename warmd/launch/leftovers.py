"""Find and end what an earlier life of the daemon has left running."""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from warmd.config.run_files import ENGINES
from warmd.launch import tree
from warmd.launch.launcher import LaunchError
from warmd.launch.output import SUFFIX

ENGINE_MARK = "WARMD_ENGINE"
RUN_DIR_MARK = "WARMD_RUN_DIR"
_ROUND_S = 0.1


@dataclass(frozen=True, order=True)
class Leftover:
    """A process that was killed: its number and the engine it belonged to."""

    pid: int
    name: str


def marks(run_dir: Path, name: str) -> dict[str, str]:
    """Return the variables that mark each process of an engine as ours."""
    return {RUN_DIR_MARK: os.path.realpath(run_dir), ENGINE_MARK: name}


def sweep(
    run_dir: Path, *, name: str | None = None, within_s: float = 10.0
) -> tuple[Leftover, ...]:
    """SIGKILL each process of this user that bears the marks of `run_dir`, until none is left.

    A process is ours where its environment holds both marks, or where its stdout or stderr is the
    output pipe of an engine. Blocks. Call it while no other daemon uses `run_dir` and before the
    first engine is started, or with the `name` of one engine. Returns what was killed; raises
    `LaunchError` where something still lives after `within_s` seconds.
    """
    real = os.path.realpath(run_dir)
    give_up_at = time.monotonic() + within_s
    ours = _our_own_line()
    killed: set[Leftover] = set()
    while found := _kill_marked(real, name, ours):
        killed |= found
        if time.monotonic() >= give_up_at:
            names = ", ".join(f"{each.pid} ({each.name})" for each in sorted(found))
            raise LaunchError(
                f"processes of an earlier engine outlive SIGKILL for {within_s:g} s: {names}; "
                "a driver may hold them: look at their state in ps and at the kernel's log"
            )
    return tuple(sorted(killed))


def _kill_marked(real: str, name: str | None, ours: frozenset[int]) -> set[Leftover]:
    """Kill all that can be seen at once; wait a moment for their end; return what was found."""
    found: set[Leftover] = set()
    poll = select.poll()
    handles: list[int] = []
    try:
        for pid in tree.parents().keys() - ours:
            try:
                # First the handle, then the look: so the number can't have changed hands.
                handle = os.pidfd_open(pid)
            except OSError:
                continue
            handles.append(handle)
            engine = _engine_of(pid, real)
            if engine is None or name not in (None, engine):
                os.close(handles.pop())
                continue
            try:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            except ProcessLookupError:
                continue
            found.add(Leftover(pid, engine))
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
