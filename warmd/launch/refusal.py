"""Why the kernel refused to start a program, in a sentence for the operator."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from warmd.launch.launcher import LaunchSpec

_TOO_FEW = {errno.EAGAIN, errno.ENOMEM}


def refusal(spec: LaunchSpec, stage: str, number: int) -> str:
    """Explain errno `number` at `stage` (fork, setup, cwd, exec); looks at the file named."""
    return f"{spec.name} was not started: {_why(spec, stage, number)}"


def _why(spec: LaunchSpec, stage: str, number: int) -> str:
    program = spec.argv[0]
    said = os.strerror(number)
    if number in _TOO_FEW:
        return f"no room for one more process ({said}); look at TasksMax, ulimit -u and free memory"
    if stage == "cwd":
        return f"its working folder {spec.cwd} can't be entered ({said}); create it or correct it"
    if stage != "exec":
        return f"its process could not be set up ({said}); look at the limits of the service"
    match number:
        case errno.ENOENT if interpreter := _interpreter(program):
            return f"{program} needs {interpreter}, which is not there; install it"
        case errno.ENOENT:
            return f"{program} does not exist; correct the path in the configuration"
        case errno.EACCES if Path(program).is_dir():
            return f"{program} is a folder, not a program; correct the path in the configuration"
        case errno.EACCES:
            return f"{program} may not be executed; give it the x bit, or look at noexec mounts"
        case errno.ENOEXEC:
            return f"{program} is no program for this machine ({said}); correct the path"
        case errno.E2BIG:
            return "its arguments and environment are too long for the kernel; shorten them"
        case errno.EINVAL:
            return "an argument or a variable of its environment holds a NUL byte; take it out"
        case _:
            return f"{program} could not be executed ({said}); try it by hand as the same user"


def _interpreter(program: str) -> str | None:
    """Name what an existing script or binary needs and the kernel did not find."""
    try:
        with Path(program).open("rb") as file:
            first = file.readline(256)
    except OSError:
        return None
    if first.startswith(b"#!") and (words := first[2:].split()):
        return f"the interpreter {os.fsdecode(words[0])}"
    return "a program loader"
