"""Engines that say, as their first act, what time it is."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from pathlib import Path

from bench_rig import BenchError, popen

_PATIENCE_S = 10.0
# bash 5 tells the time by itself, so that no second program has to start.
_SCRIPT = """#!{bash}
printf '%s\\n' "$EPOCHREALTIME" >'{fifo}'
{rest}
"""


class FirstLines:
    """A script that stands in for an engine's Python, and the pipe in which it says the time."""

    def __init__(self, folder: Path, rest: str) -> None:
        """`rest`: what the script does then."""
        bash = shutil.which("bash")
        if bash is None:
            raise BenchError("there is no bash, which the stand-in engine is written in")
        fifo = folder / "first-lines"
        os.mkfifo(fifo)
        self._reader = os.open(fifo, os.O_RDWR | os.O_CLOEXEC)  # O_RDWR: never at its end
        self.script = folder / "engine"
        self.script.write_text(_SCRIPT.format(bash=bash, fifo=fifo, rest=rest))
        self.script.chmod(0o755)

    def next(self) -> float:
        """Wait for a start's first line and return it, in Unix seconds."""
        if not select.select([self._reader], [], [], _PATIENCE_S)[0]:
            raise BenchError(f"no engine began within {_PATIENCE_S:g} s")
        said = os.read(self._reader, 4096).decode()
        # The decimal sign is the locale's. An older bash leaves the line empty.
        if said.count("\n") != 1 or not said.strip():
            raise BenchError(f"one engine with bash 5 was to say the time, and this came: {said!r}")
        return float(said.replace(",", "."))

    def bare_spawn(self) -> float:
        """Start the script from here; return the seconds until its first line."""
        began = time.time()
        with popen([str(self.script)], stdin=subprocess.DEVNULL) as process:
            try:
                return self.next() - began
            finally:
                process.kill()

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._reader)
