"""Who runs the daemon, and what stands between that user and a file."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass, field
from enum import Enum, IntFlag, auto
from pathlib import Path

from warmd.doctor.finding import Finding, Level


class Right(IntFlag):
    """What one may want to do with a file, by the bits of its mode."""

    READ = 4
    WRITE = 2
    EXECUTE = 1  # on a folder: to pass through it


_WORDS = {Right.READ: "read", Right.WRITE: "written to", Right.EXECUTE: "executed"}


@dataclass(frozen=True)
class User:
    """A user by number, with all groups; `gid`: the one of them that its processes have."""

    uid: int
    groups: frozenset[int]
    gid: int | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The account's name, or its number where it has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    def __str__(self) -> str:
        return f"user {self.name}"


class Kind(Enum):
    """What kind of obstacle it is."""

    MISSING = auto()
    CLOSED = auto()
    UNSEEN = auto()  # the one who looks may not look there, so nothing is known
    BROKEN = auto()


@dataclass(frozen=True)
class Obstacle:
    """The first place on the way to a file that stops a user, and why, with a remedy."""

    path: Path
    kind: Kind
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path} {self.why}"

    def finding(self, subject: str, sentence: str) -> Finding:
        """Say `sentence` about it: a problem, or a note where nothing is known."""
        level = Level.NOTE if self.kind is Kind.UNSEEN else Level.PROBLEM
        return Finding(level, subject, sentence, self.remedy)


def unseen(path: Path) -> Obstacle:
    """Say of `path` that the one who looks may not look there."""
    why = "can't be looked at by the user who runs this"
    return Obstacle(path, Kind.UNSEEN, why, "run this as root, by sudo")


def this_user() -> User:
    """Return who asks."""
    return User(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}), os.getegid())


def owner_of(path: Path) -> User | None:
    """Return who owns a file, with the groups of that account; None where that isn't known."""
    try:
        found = pwd.getpwuid(path.stat().st_uid)
    except (OSError, KeyError):
        return None
    return _of(found)


def account(name: str) -> User | None:
    """Return the user of that name, with the groups of the account; None where there is none."""
    try:
        return _of(pwd.getpwnam(name))
    except KeyError:
        return None


def _of(found: pwd.struct_passwd) -> User:
    groups = os.getgrouplist(found.pw_name, found.pw_gid)
    return User(found.pw_uid, frozenset(groups), found.pw_gid)


def user_of(pid: int) -> User | None:
    """Return who runs a process, from /proc/PID/status; None where that can't be seen."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        fields = dict(line.split(":", 1) for line in lines.splitlines() if ":" in line)
        uid = int(fields["Uid"].split()[1])
        gid = int(fields["Gid"].split()[1])
        groups = {gid, *map(int, fields["Groups"].split())}
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return User(uid, frozenset(groups), gid)


def allows(status: os.stat_result, user: User, rights: Right) -> bool:
    """Whether a file's owner, group and mode give `user` these rights (path_resolution(7))."""
    mode = status.st_mode
    if user.uid == 0:
        executes = stat.S_ISDIR(mode) or bool(mode & 0o111)
        return executes or not rights & Right.EXECUTE
    if user.uid == status.st_uid:
        given = mode >> 6
    elif status.st_gid in user.groups:
        given = mode >> 3
    else:
        given = mode
    return given & rights == rights


def may(path: Path, user: User, rights: Right) -> bool:
    """Whether `user` has these rights on what is at `path`. Raises `OSError`.

    Of the user who asks the kernel tells exactly; of others, access lists and capabilities are
    left out.
    """
    status = path.stat()
    if user.uid == os.geteuid():
        return os.access(path, int(rights), effective_ids=True)
    return allows(status, user, rights)


def obstacle(path: Path, user: User, rights: Right) -> Obstacle | None:
    """Return what keeps `user` from `path`: a folder on the way, a dead link, its own mode.

    Both the path as it is written and the one that its links lead to are walked.
    """
    absolute = path.absolute()
    real = Path(os.path.realpath(absolute))
    for folder in reversed(absolute.parents):
        if (found := _obstacle_at(folder, user, Right.EXECUTE)) is not None:
            return found
    for folder in reversed(real.parents):
        if (found := _obstacle_at(folder, user, Right.EXECUTE)) is not None:
            return _dead_link(absolute, real) if found.kind is Kind.MISSING else found
    found = _obstacle_at(absolute, user, rights)
    if found is not None and found.kind is Kind.MISSING and real != absolute:
        return _dead_link(absolute, real)
    return found


def _dead_link(path: Path, real: Path) -> Obstacle:
    return Obstacle(path, Kind.MISSING, f"leads to {real}, which isn't there", f"put {real} back")


def _obstacle_at(path: Path, user: User, rights: Right) -> Obstacle | None:
    try:
        if may(path, user, rights):
            return None
        is_folder = path.is_dir()
    except FileNotFoundError:
        return Obstacle(path, Kind.MISSING, "isn't there", "correct the path in the config")
    except PermissionError:
        return unseen(path)
    except OSError as error:
        why = f"can't be reached ({error.strerror})"
        return Obstacle(path, Kind.BROKEN, why, "look at its mount, and at links in a circle")
    letters = "".join(letter for right, letter in zip(Right, "rwx", strict=True) if right & rights)
    remedy = f"chmod o+{letters} {path}"
    if is_folder and rights is Right.EXECUTE:
        remedy += ", or put what is below it elsewhere"
        return Obstacle(path, Kind.CLOSED, f"may not be entered by {user}", remedy)
    shown = rights & ~Right.EXECUTE if is_folder else rights
    forbidden = " and ".join(word for right, word in _WORDS.items() if right & shown)
    return Obstacle(path, Kind.CLOSED, f"may not be {forbidden} by {user}", remedy)
