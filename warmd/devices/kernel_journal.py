"""The kernel's log as the journal has it, for who may not open /dev/kmsg.

To read it takes the group systemd-journal, and no capability: journalctl(1),
systemd.journal-fields(7).
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Sequence

_WITHIN_S = 20.0
_FIELDS = ("MESSAGE", "PRIORITY", "SYSLOG_FACILITY", "_SOURCE_MONOTONIC_TIMESTAMP")


class KernelJournal:
    """Reads the records of one boot that hold `word`; what it has read it reads once."""

    def __init__(self, word: bytes) -> None:
        self._word = word
        self._cursor: str | None = None
        self._found: list[bytes] = []
        self._one = threading.Lock()

    def records(self) -> Sequence[bytes] | None:
        """Return them all, as /dev/kmsg has them, the oldest first. Blocks.

        None where the journal can't be read, or holds nothing of the kernel.
        """
        with self._one:
            if self._read() or (self._forget() and self._read()):
                return tuple(self._found)
            return None

    def _forget(self) -> bool:
        """Begin anew: what the cursor stood at may be rotated away. False where it is anew."""
        had, self._cursor, self._found = self._cursor, None, []
        return had is not None

    def _read(self) -> bool:
        behind = "--lines=all" if self._cursor is None else f"--after-cursor={self._cursor}"
        try:
            done = subprocess.run(
                [
                    *("journalctl", "--dmesg", "--quiet", "--all", "--output=json"),
                    *(f"--output-fields={','.join(_FIELDS)}", behind),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Not the libraries of the daemon's Python.
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
                timeout=_WITHIN_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        if done.returncode != 0:
            return False
        for line in done.stdout.splitlines():
            try:
                entry = json.loads(line)
                self._cursor = str(entry["__CURSOR"])
                record = _as_kmsg(entry)
            except (ValueError, KeyError, TypeError):
                continue  # cut short, or of a kind that no kernel writes
            if self._word in record:
                self._found.append(record)
        return self._cursor is not None


def _as_kmsg(entry: dict[str, object]) -> bytes:
    """Write an entry as Documentation/ABI/testing/dev-kmsg has it."""
    message = entry["MESSAGE"]
    said = bytes(message) if isinstance(message, list) else str(message).encode()
    # Programs may write to /dev/kmsg, and have a facility other than the kernel's, 0.
    level = int(str(entry["SYSLOG_FACILITY"])) << 3 | int(str(entry["PRIORITY"]))
    microseconds = int(str(entry["_SOURCE_MONOTONIC_TIMESTAMP"]))
    return b"%d,0,%d,-;%s\n" % (level, microseconds, said)
