"""The daemon's end of an engine's stdout and stderr.

The pipe is a FIFO below the run folder, unlinked as soon as both ends are open. Unlike an
anonymous pipe it has a path, which `/proc/PID/fd/1` still shows: that is how a leftover of an
earlier daemon is known for ours even after setproctitle(3) has overwritten its environment, as
vLLM's EngineCore and workers do.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from warmd.config.run_files import ENGINES
from warmd.launch.launcher import LogLine
from warmd.launch.lines import LineSplitter

SUFFIX = ".out"
_TURN = 16 * 1024
"""Bytes taken in one turn of the loop: a flood must leave turns for everybody else."""
_MOST_AT_END = 1024 * 1024
"""Bytes taken after the end: more than a pipe holds, unless a stranger goes on writing."""


def open_pipe(run_dir: Path, name: str) -> tuple[int, int]:
    """Make the pipe of the engine `name`; return its reader and its writer; raises OSError."""
    folder = run_dir / ENGINES
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}{SUFFIX}"
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    try:
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return reader, os.open(path, os.O_WRONLY)
        except OSError:
            os.close(reader)
            raise
    finally:
        path.unlink()


class EngineOutput:
    """Reads lines as they come and hands each on with its time of arrival."""

    def __init__(self, reader: int, on_line: LogLine, unread: bytes = b"") -> None:
        """Hand on what was read in between, and read on from `reader`, which is ours from now."""
        self._on_line = on_line
        self._splitter = LineSplitter()
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._reading = True
        self._loop.add_reader(reader, self._read)
        self._hand_on(self._splitter.feed(unread))

    def close(self) -> None:
        """Hand on what is still in the pipe, also an unfinished last line, and close it."""
        try:
            taken = 0
            while self._reading and taken < _MOST_AT_END and (more := self._read()):
                taken += more
            self._hand_on(self._splitter.end())
        finally:
            self._stop_reading()
            os.close(self._reader)

    def _read(self) -> int:
        try:
            chunk = os.read(self._reader, _TURN)
        except BlockingIOError:
            return 0
        if not chunk:
            self._stop_reading()
            return 0
        self._hand_on(self._splitter.feed(chunk))
        return len(chunk)

    def _hand_on(self, lines: list[str]) -> None:
        now = time.monotonic()
        for line in lines:
            self._on_line(now, line)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._reader)
