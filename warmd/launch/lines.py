"""Bytes that an engine prints -> lines of text, with bounded memory."""

from __future__ import annotations

import re

LONGEST_LINE = 16 * 1024
"""Bytes of a line that are kept; the rest of it is dropped."""

_LINE_END = re.compile(rb"[\r\n]+")  # a progress bar ends its lines with a bare \r


class LineSplitter:
    """Cuts a stream into lines. Empty lines are left out; undecodable bytes become U+FFFD."""

    def __init__(self) -> None:
        self._unfinished = b""

    def feed(self, chunk: bytes) -> list[str]:
        """Take the next bytes; return the lines that they finish."""
        *finished, last = _LINE_END.split(self._unfinished + chunk)
        # A line's end may be far away; what is past the cap would be cut anyway.
        self._unfinished = last[:LONGEST_LINE]
        return [_text(line) for line in finished if line]

    def end(self) -> list[str]:
        """Return the last line where nothing has finished it."""
        last, self._unfinished = self._unfinished, b""
        return [_text(last)] if last else []


def _text(line: bytes) -> str:
    return line[:LONGEST_LINE].decode("utf-8", "replace")
