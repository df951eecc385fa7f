"""What a published folder holds copies of: by this a later keeper, and an engine's start, know it.

A part of the staging program: see `program.py`.
"""

from __future__ import annotations

import json
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MANIFEST = ".staged.json"
DRAFT = ".draft-"
"""How the name of a folder begins whose copies aren't whole yet, or no longer."""


def identity(name: str, source: str, status: os.stat_result) -> dict[str, Any]:
    """Return what tells the file `source`, copied as `name`, from one that came in its place."""
    return {
        "name": name,
        "source": source,
        "dev": status.st_dev,
        "ino": status.st_ino,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }


def write_manifest(folder: str, root: str | None, files: list[dict[str, Any]]) -> None:
    """Write down what `folder` holds copies of."""
    with open(os.path.join(folder, MANIFEST), "w", encoding="utf-8") as manifest:
        json.dump({"root": root, "files": files}, manifest)


def is_published(folder: str) -> bool:
    """Whether `folder` was published by a keeper: whatever else has its name is somebody's own."""
    return not os.path.islink(folder) and os.path.lexists(os.path.join(folder, MANIFEST))


def are_copies(folder: str, root: str | None, files: list[dict[str, Any]]) -> bool:
    """Whether `folder` holds copies of these very files."""
    facts = _read(folder)
    if facts is None or facts["root"] != root or facts["files"] != files:
        return False
    copies = [(os.path.join(folder, each["name"]), each["size"]) for each in files]
    return all(os.path.isfile(path) and os.path.getsize(path) == size for path, size in copies)


def holds_copies_of(folder: str, root: str) -> bool:
    """Whether the files below `root` are what `folder` was copied from, unchanged since."""
    facts = _read(folder)
    if facts is None or facts["root"] != root or not facts["files"]:
        return False
    try:
        now = [identity(f["name"], f["source"], os.stat(f["source"])) for f in facts["files"]]
    except (OSError, KeyError, TypeError):
        return False
    return are_copies(folder, root, now)


def has_copies(mount: str) -> bool:
    """Whether copies are in `mount`, whole or not."""
    try:
        return any(
            name.startswith(DRAFT) or os.path.lexists(os.path.join(mount, name, MANIFEST))
            for name in os.listdir(mount)
        )
    except OSError:
        return False


def is_safe(path: str) -> bool:
    """Whether nobody but this user and root can take away or replace what is in `path`."""
    status = os.stat(path)
    ours = status.st_uid in (os.geteuid(), 0)
    return ours and (not status.st_mode & 0o022 or bool(status.st_mode & stat.S_ISVTX))


def _read(folder: str) -> dict[str, Any] | None:
    try:
        if os.lstat(folder).st_uid not in (os.geteuid(), 0):
            return None  # in /dev/shm anybody may put one there
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as manifest:
            facts = json.load(manifest)
    except (OSError, ValueError):
        return None
    sound = isinstance(facts, dict) and isinstance(facts.get("files"), list) and "root" in facts
    return facts if sound else None
