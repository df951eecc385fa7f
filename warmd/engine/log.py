"""What an engine prints: the last lines in memory, everything in a file of bounded size."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

KEPT_LINES = 400
LAST_MOMENTS_LINES = 60  # a traceback of EngineCore and its echo in the API server
FILE_BYTES = 8 << 20
_LINE_CHARS = 4096  # vLLM prints its whole config as one line


class EngineLog:
    """The log of one replica, across its starts.

    The file goes on from start to start, with a header before each, and turns over to `.1` at
    `file_bytes`. Writing it never fails: a full disk ends it until the next start, and `trouble`
    says so for the owner to report.
    """

    def __init__(self, path: Path | None, file_bytes: int = FILE_BYTES) -> None:
        """`path` None: somebody else keeps the file."""
        self._path = path
        self._file_bytes = file_bytes
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._fd: int | None = None
        self._size = 0
        self.trouble: str | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """The last lines of this start, oldest first."""
        return tuple(self._lines)

    def begin(self, header: str) -> None:
        """Begin a new start: forget the lines in memory and write `header` to the file."""
        self.close()
        self._lines = deque(maxlen=KEPT_LINES)
        self.trouble = None
        self._open()
        self._write(f"--- {header} ---")

    def line(self, text: str) -> None:
        """Take one line of output."""
        text = text[:_LINE_CHARS]
        self._lines.append(text)
        self._write(text)

    def forget(self) -> None:
        """Forget the lines in memory, and keep only few from now on.

        While it serves, an engine logs the errors of single requests: an hour later they explain
        nothing. What it says in its last moments does.
        """
        self._lines = deque(maxlen=LAST_MOMENTS_LINES)

    def close(self) -> None:
        """Close the file; the lines stay."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> None:
        if self._path is None:
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(self._path, flags, 0o600)
            self._size = os.fstat(self._fd).st_size
        except OSError as error:
            self._give_up(error)

    def _write(self, text: str) -> None:
        if self._fd is None or self._path is None:
            return
        try:
            self._size += os.write(self._fd, f"{text}\n".encode("utf-8", "replace"))
            if self._size >= self._file_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                self.close()
                self._open()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.close()
        self.trouble = (
            f"the engine's log {self._path} can't be written: {error.strerror or error};"
            " the last lines of this start are kept in memory only"
        )
