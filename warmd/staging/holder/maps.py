"""Which files processes have mapped, from /proc/PID/maps."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_NO_FILES = (b"/dev/", b"/proc/", b"/sys/", b"/memfd:", b"/SYSV")


def mapped_files(lines: Iterable[bytes]) -> dict[str, bool]:
    """Return the files that the lines of a maps file name, and whether any of it may be run.

    See proc_pid_maps(5): a file that was removed or replaced since is marked as deleted.
    """
    found: dict[str, bool] = {}
    for line in lines:
        fields = line.rstrip(b"\n").split(None, 5)
        if len(fields) < 6 or not fields[5].startswith(b"/") or fields[4] == b"0":
            continue
        if fields[5].endswith(b" (deleted)") or fields[5].startswith(_NO_FILES):
            continue
        path = os.fsdecode(fields[5].replace(rb"\012", b"\n"))
        found[path] = found.get(path, False) or b"x" in fields[1]
    return found


def tree(roots: Iterable[int]) -> list[int]:
    """List `roots` and all processes below them."""
    below: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "stat").read_bytes()
        except OSError:
            continue  # it ended while we looked
        # The name stands in parentheses and may hold anything, parentheses too.
        parent = int(line[line.rindex(b")") + 2 :].split(None, 2)[1])
        below.setdefault(parent, []).append(int(process.name))
    found: list[int] = []
    level = list(roots)
    while level:
        found += level
        level = [pid for up in level for pid in below.get(up, ())]
    return list(dict.fromkeys(found))


class Maps:
    """What processes have mapped, as far as this user may know."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.files: dict[str, bool] = {}
        self.refused: str | None = None  # why some can't be read
        self.seen = 0
        for pid in pids:
            try:
                found = mapped_files(Path(f"/proc/{pid}/maps").read_bytes().splitlines())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            except OSError as error:
                self.refused = f"what process {pid} has mapped can't be read ({error.strerror})"
                continue
            self.seen += 1
            for path, runs in found.items():
                self.files[path] = self.files.get(path, False) or runs
