"""JSON lines over descriptors that never block."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CHUNK = 65536
_LONGEST = 64 << 20  # a set of a million paths; more is no word of ours
_DROPS_AT = 256 << 10  # a reader that is so far behind misses progress and looks, nothing else


class Hearer:
    """Takes lines apart. What is no JSON object is kept in `rest`, for who wants to know it."""

    def __init__(self) -> None:
        self._line = bytearray()
        self.rest = ""

    def read(self, fd: int) -> list[dict[str, Any]] | None:
        """Read what is there; None at the end of file. Raises `OSError`, BlockingIOError too."""
        chunk = os.read(fd, _CHUNK)
        if not chunk:
            return None
        self._line += chunk
        if len(self._line) > _LONGEST:
            return None
        if b"\n" not in chunk:
            return []
        *lines, rest = self._line.split(b"\n")
        self._line = rest
        return [word for word in map(self._parsed, lines) if word is not None]

    def _parsed(self, line: bytearray) -> dict[str, Any] | None:
        try:
            word = json.loads(line)
        except ValueError:
            word = None
        if isinstance(word, dict):
            return word
        if line.strip():
            self.rest = line.decode(errors="replace")[-_CHUNK:]
        return None


class Speaker:
    """Keeps what can't be written yet."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def add(self, word: dict[str, object]) -> None:
        """Have `word` written with the next write."""
        if len(self._waiting) < _DROPS_AT or not ("progress" in word or "look" in word):
            self._waiting += json.dumps(word).encode() + b"\n"

    def write(self, fd: int) -> bool:
        """Write what goes; whether there is more. Raises `OSError` where nobody reads any more."""
        try:
            while self._waiting:
                del self._waiting[: os.write(fd, self._waiting[:_CHUNK])]
        except BlockingIOError:
            pass
        return bool(self._waiting)
