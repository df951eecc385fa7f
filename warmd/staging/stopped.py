"""Whether a process was stopped: it answers nobody then, and no disk is to blame."""

from __future__ import annotations

from pathlib import Path

_STOPPED = frozenset({b"T", b"t"})  # by a signal, or by a debugger: proc_pid_stat(5)


def is_stopped(pid: int) -> bool:
    """Whether `pid` is a process that runs no more until it gets SIGCONT."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    # The name stands in parentheses and may hold anything, parentheses too.
    return line.rpartition(b") ")[2][:1] in _STOPPED
