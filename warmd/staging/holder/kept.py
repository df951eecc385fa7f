"""What was learnt of an engine's environment, as it is kept on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

_VERSION = 2  # with the first, sources were kept that no import reads


def file_of(folder: Path, name: str) -> Path:
    """Name the file that keeps what is known of the environment `name`."""
    return folder / f"{name}.json"


def keep(folder: Path, name: str, files: Sequence[str]) -> None:
    """Write it in one step, and forget what was learnt before the environment changed.

    Raises `OSError`.
    """
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    file = file_of(folder, name)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps({"version": _VERSION, "files": files}))
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)  # of a full disk
    python = name.partition("-")[0]
    for old in folder.glob(f"{python}-*.json"):
        if old != file:
            old.unlink(missing_ok=True)


def kept(folder: Path, name: str) -> list[Path] | None:
    """Return the files that were learnt; None where there is nothing, or nothing sound."""
    try:
        facts = json.loads(file_of(folder, name).read_bytes())
        if facts["version"] != _VERSION:
            return None
        if any(b"\0" in os.fsencode(path) for path in facts["files"]):
            return None  # no path, on any disk
        return [Path(path) for path in facts["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
