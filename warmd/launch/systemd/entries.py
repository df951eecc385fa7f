"""What journalctl says of engines, as JSON -> the lines that they have printed. Pure.

See https://systemd.io/JOURNAL_EXPORT_FORMATS/ and systemd.journal-fields(7).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from warmd.launch.lines import LONGEST_LINE

FIELDS = (
    "MESSAGE",
    "MESSAGE_ID",
    "INVOCATION_ID",
    "_LINE_BREAK",
    "_PID",
    "_SYSTEMD_INVOCATION_ID",
)
"""What is asked for; what begins with two underscores comes by itself."""

UNIT_ENDED = ("7ad2d189f7e94e70a38c781354912448", "d9b373ed55a64feb8242e02dbe79a49c")
"""What systemd says once nothing of a unit is left: that all was well, or that it failed."""

_LINE_END = re.compile(r"[\r\n]+")  # a progress bar ends its lines with a bare \r


@dataclass(frozen=True)
class Entry:
    """One entry of the journal. `at` is in seconds of `time.monotonic()`."""

    invocation: str
    at: float
    lines: tuple[str, ...]
    goes_on: bool = False
    """Whether the journal has cut the line here, as it was too long."""
    is_end: bool = False
    """Whether systemd says that the unit has ended."""


def read_entry(line: bytes) -> tuple[str, Entry | None]:
    """Return the cursor behind a line of `journalctl --output=json`, and what the line tells.

    None where it is nothing of an engine. Raises `ValueError`.
    """
    told = json.loads(line)
    if not isinstance(told, dict):
        raise ValueError("no entry")
    cursor, at = str(told["__CURSOR"]), int(told["__MONOTONIC_TIMESTAMP"]) / 1e6
    if told.get("_PID") == "1":
        if told.get("MESSAGE_ID") not in UNIT_ENDED or "INVOCATION_ID" not in told:
            return cursor, None
        return cursor, Entry(str(told["INVOCATION_ID"]), at, (), is_end=True)
    invocation = told.get("_SYSTEMD_INVOCATION_ID")
    if not isinstance(invocation, str):
        return cursor, None
    lines = (_cut(each) for each in _LINE_END.split(_text(told.get("MESSAGE"))) if each)
    goes_on = told.get("_LINE_BREAK") == "line-max"
    return cursor, Entry(invocation, at, tuple(lines), goes_on)


def _text(message: object) -> str:
    match message:
        case str():
            return message
        case [*several] if several and isinstance(several[0], int):
            # What is no printable UTF-8 comes as bytes.
            return bytes(n for n in several if isinstance(n, int)).decode("utf-8", "replace")
        case [*several]:  # an engine may speak to the journal by itself, and say anything
            return "\n".join(map(_text, several))
        case _:
            return ""


def _cut(line: str) -> str:
    if len(line) <= LONGEST_LINE // 4:
        return line
    return line.encode("utf-8", "replace")[:LONGEST_LINE].decode("utf-8", "ignore")
