"""The daemon's own folders: there or to be made, open to it, with room."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from warmd.doctor.finding import Finding, note, ok, problem, warning
from warmd.doctor.user import Kind, Obstacle, Right, User, obstacle
from warmd.spoken import size

_SUBJECT = "folders"
_IN_RAM = frozenset({"tmpfs", "ramfs"})
_FULL = 16 << 20
_WANTED = {"run_dir": 64 << 20, "state_dir": 256 << 20, "cache_dir": 5 << 30}
_FILLED_BY = {
    "run_dir": "logs of engines go there",
    "state_dir": "the history goes there",
    "cache_dir": "compiled kernels go there",
}
_RUN = Path("/run")


@dataclass(frozen=True)
class Folder:
    """A folder of [host]. `exists` False: `obstacle` is about the one that it will be made in."""

    key: str
    path: Path
    exists: bool
    obstacle: Obstacle | None
    free: int
    kind: str  # of the file system, "" where that isn't known
    kind_of_run: str = "tmpfs"  # the same of /run


def look_at_folders(folders: Mapping[str, Path], user: User) -> tuple[Folder, ...]:
    """Look at each folder, by its key under [host]."""
    return tuple(_look(key, path, user) for key, path in folders.items())


def _look(key: str, path: Path, user: User) -> Folder:
    at = path
    while not os.path.lexists(at) and at != at.parent:
        at = at.parent
    stopped = obstacle(at, user, Right.WRITE | Right.EXECUTE)
    if (stopped is None or stopped.path == at) and at.exists() and not at.is_dir():
        stopped = Obstacle(at, Kind.BROKEN, "is no folder", "move it away, or set another path")
    if stopped is not None and stopped.kind is Kind.CLOSED:
        make = "chown" if at == path else "install -d -o"
        remedy = f"sudo {make} {user.name} {path}, or set host.{key} to another folder"
        stopped = replace(stopped, remedy=remedy)
    try:
        free = shutil.disk_usage(at).free
    except OSError:
        free = 0
    return Folder(key, path, at == path, stopped, free, _kind(at), _kind(_RUN))


def _kind(path: Path) -> str:
    """Return the kind of the file system that holds `path`, from /proc/self/mountinfo."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    real = Path(os.path.realpath(path))
    best, kind = -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), left.split()[4]))
        # A later mount on the same point hides the earlier.
        if real.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split()[0]
    return kind


def judge_folders(folders: tuple[Folder, ...]) -> Iterator[Finding]:
    """Judge each folder."""
    fine = []
    for folder in folders:
        found = list(_judge(folder))
        yield from found
        if not found:
            fine.append(f"{folder.key} {size(folder.free)} free")
    if fine:
        yield ok(_SUBJECT, ", ".join(fine))


def _judge(folder: Folder) -> Iterator[Finding]:
    name = f"host.{folder.key} {folder.path}"
    if (stopped := folder.obstacle) is not None:
        what = "can't be used" if folder.exists else "isn't there and can't be made"
        yield stopped.finding(_SUBJECT, f"{name} {what}: {stopped}")
        return
    if folder.free < _FULL:
        yield problem(
            _SUBJECT,
            f"{name} is nearly full: {size(folder.free)} free"
            if folder.free
            else f"{name} is full",
            f"make room on its disk (df {folder.path}); {_FILLED_BY[folder.key]}",
        )
    elif folder.free < _WANTED[folder.key]:
        yield warning(
            _SUBJECT,
            f"{name} has {size(folder.free)} free, and {_FILLED_BY[folder.key]}",
            f"make room on its disk, or set host.{folder.key} to a larger one",
        )
    if folder.key == "run_dir" and folder.kind and folder.kind not in _IN_RAM:
        run_is_in_ram = folder.kind_of_run in _IN_RAM
        so_is_run = "" if run_is_in_ram else f", for {_RUN} of this host is no tmpfs"
        mount = f"mount a tmpfs on {folder.path} (in /etc/fstab; in a container: --tmpfs)"
        yield note(
            _SUBJECT,
            f"{name} is on {folder.kind}{so_is_run}: what it holds outlives a reboot that it "
            "should not",
            f"set host.run_dir to a folder below {_RUN}"
            if run_is_in_ram and not folder.path.is_relative_to(_RUN)
            else mount,
        )
