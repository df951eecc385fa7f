"""The program that learns which program files an engine's start needs, from one that is up.

Runs alone (`python -I -S learn.py`), with the standard library only, at the lowest priority, and
ends. A start needs what its processes have mapped: the interpreter and shared objects. Modules and
data files are read and closed again; `reading.py` says how that is known. They count only in
packages of which a file is mapped or a compiled module was read. A source that stands beside its
compiled module is read by no import: installers have read all of them.

In: one JSON line on stdin, `{"python": path, "pids": [...], "apart": [folder, ...], "folder": path,
"cap": bytes}`. What it finds is written below `folder`, in one step.
Out: one JSON line, `{"files": n, "total": bytes, "by": [way, ...], "trouble": sentence or null}`,
or `{"gone": true}` where no process was left to learn from, or `{"error": sentence}` with status 1.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

if __name__ == "__main__":
    # The neighbours as a package of their own: `warmd.staging` would load the daemon's half.
    __package__ = "holder"
    sys.modules["holder"] = ModuleType("holder")
    sys.modules["holder"].__path__ = [str(Path(__file__).parent)]

from .environment import Environment
from .kept import keep
from .mapping import libc
from .maps import Maps, tree
from .reading import Reading

PR_SET_PDEATHSIG = 1
_READ = frozenset({".pyc", ".py", ".pth", ".json", ".txt", ".yaml", ".toml", ".jinja"})
_METADATA = frozenset({"METADATA", "entry_points.txt"})  # asked for by whatever has plugins
_ABOUT = (".dist-info", ".egg-info")
_INSTALLERS = frozenset({"pip", "setuptools", "wheel"})
_SITES = frozenset({"site-packages", "dist-packages"})
_SHORT_LIVED = ("/tmp/", "/var/tmp/", "/run/")  # noqa: S108 - nothing is put there


@dataclass(frozen=True)
class Found:
    """A file that a start needs. `rank`: whether it is needed first, second or third."""

    path: str
    size: int
    inode: tuple[int, int]
    rank: int


class Learning:
    """One look at the processes and the environment of an engine."""

    def __init__(self, python: Path, pids: Sequence[int], apart: Sequence[str]) -> None:
        self.environment = Environment(python)
        self.name = self.environment.name()
        self._stdlib = tuple(_below(str(f.resolve())) for f in self.environment.stdlib)
        self._sites = tuple(_below(str(f.resolve())) for f in self.environment.sites)
        self._compiled = tuple(f".{tag}" for tag in self.environment.cache_tags)
        self._apart = tuple(_below(os.path.realpath(folder)) for folder in apart)
        processes = tree(pids)
        self._maps = Maps(processes)
        own = [path for path in self._maps.files if path.startswith(self._stdlib + self._sites)]
        self._reading = Reading(processes, own or [str(self.environment.interpreter)])

    @property
    def by(self) -> list[str]:
        """How it was told what was read."""
        return sorted(self._reading.ways)

    @property
    def is_gone(self) -> bool:
        """Whether no process is left to learn from."""
        return not self._maps.seen and self._maps.refused is None

    def trouble(self) -> str | None:
        """Say in a sentence what makes the result worse than it could be."""
        if (refused := self._maps.refused) is not None:
            return f"{refused}, so shared objects were told by {' and '.join(self.by)} too"
        return None

    def files(self, cap: int) -> list[Found]:
        """Return the files in the order in which a start needs them, no more than `cap` bytes."""
        files = {**self._maps.files, str(self.environment.interpreter): True}
        mapped = [each for path, runs in files.items() if (each := self._of(path, runs))]
        read = [*self._modules_of_stdlib(), *self._modules_of_sites(mapped)]
        chosen: dict[tuple[int, int], Found] = {}
        mapped.sort(key=lambda each: -each.size)
        for each in (*mapped, *sorted(read, key=lambda each: (each.rank, each.path))):
            if each.inode not in chosen and each.size <= cap:
                cap -= each.size
                chosen[each.inode] = each
        return sorted(chosen.values(), key=lambda each: (each.rank, each.path))

    def _of(self, path: str, runs: bool) -> Found | None:
        """Judge a file that is mapped."""
        is_stdlib = path.startswith(self._stdlib) and not path.startswith(self._sites)
        is_own = is_stdlib or path.startswith(self._sites)
        if path.startswith(self._apart) or not (is_own or runs):
            return None
        if path.startswith(_SHORT_LIVED) and not is_own:
            return None
        is_first = is_stdlib or path == str(self.environment.interpreter)
        return self._at(path, 0 if is_first else 1, is_mapped=True)

    def _at(self, path: str, rank: int, *, is_mapped: bool = False) -> Found | None:
        """Return the file, None where it wasn't read or is no file with something in it."""
        try:
            status = os.stat(path)  # noqa: PTH116 - 50,000 names are asked about
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return None
        if not is_mapped and not self._reading.was_read(path, status):
            return None
        return Found(path, status.st_size, (status.st_dev, status.st_ino), rank)

    def _modules_of_stdlib(self) -> Iterator[Found]:
        for folder in self.environment.stdlib:
            yield from self._read_below(str(folder), 0)

    def _modules_of_sites(self, mapped: Sequence[Found]) -> Iterator[Found]:
        for site in self.environment.sites:
            real = _below(str(site.resolve()))
            used = {
                each.path[len(real) :].partition("/")[0]
                for each in mapped
                if each.path.startswith(real)
            }
            with contextlib.suppress(OSError), os.scandir(site) as entries:
                for entry in entries:
                    if entry.name in _INSTALLERS:
                        continue
                    if not entry.is_dir():
                        if self._is_wanted(entry) and (one := self._at(entry.path, 2)):
                            yield one
                        continue
                    found = list(self._read_below(entry.path, 2))
                    if (
                        entry.name in used
                        or entry.name.endswith(_ABOUT)
                        or any(each.path.endswith(".pyc") for each in found)
                    ):
                        yield from found

    def _read_below(self, folder: str, rank: int) -> Iterator[Found]:
        """Find what was read of a folder, but not what belongs to others."""
        if _below(os.path.realpath(folder)).startswith(self._apart):
            return
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _SITES:
                        yield from self._read_below(entry.path, rank)
                elif self._is_wanted(entry) and (one := self._at(entry.path, rank)):
                    yield one

    def _is_wanted(self, entry: os.DirEntry[str]) -> bool:
        name = entry.name
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 - as above
        folder = entry.path[: -len(name) - 1]
        if name in _METADATA or folder.endswith(_ABOUT):
            return name in _METADATA
        if suffix == ".py":
            compiled = (f"{folder}/__pycache__/{stem}{tag}.pyc" for tag in self._compiled)
            return not any(map(os.path.exists, compiled))
        if suffix == ".pyc" and folder.endswith("/__pycache__"):
            return stem.partition(".opt-")[0].endswith(self._compiled)
        # Shared objects are known by who maps them, where that can be seen.
        is_blind = self._maps.refused is not None
        return suffix in _READ or (is_blind and (suffix == ".so" or ".so." in name))


def _below(folder: str) -> str:
    return folder.rstrip("/") + "/"


def main() -> int:
    """Learn, write it down, say how much it is."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Idle for the CPU and, as no I/O class is set, for the disk too: ioprio_set(2).
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    request = json.loads(sys.stdin.readline())
    try:
        learning = Learning(Path(request["python"]), request["pids"], request["apart"])
        if learning.is_gone:
            print(json.dumps({"gone": True}))  # noqa: T201 - to the daemon
            return 0
        found = learning.files(request["cap"])
        keep(Path(request["folder"]), learning.name, [each.path for each in found])
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        print(json.dumps({"error": f"{what}{error.strerror}"}))  # noqa: T201 - to the daemon
        return 1
    answer = {
        "files": len(found),
        "total": sum(each.size for each in found),
        "by": learning.by,
        "trouble": learning.trouble(),
    }
    print(json.dumps(answer))  # noqa: T201 - as above
    return 0


if __name__ == "__main__":
    sys.exit(main())
