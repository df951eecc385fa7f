"""The compile caches of one model: which files they are, learnt from what its engine has told.

All models share one root of vLLM's caches, and nothing on disk says which of its folders is whose:
their names are hashes of the whole configuration. A root for each would cost everybody a compile,
so what counts is what the log of the model's last start named.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from warmd.staging.file_set import FileSet

_UNFINISHED = (".tmp", ".lock", ".part", ".incomplete")
_LINKED = ".o"
"""Objects that were linked into a library: no start reads them again."""


def remember_caches(state_dir: Path, model: str, folders: Iterable[Path]) -> None:
    """Keep where the compiled code of `model` is; replaces what was known. Raises `OSError`."""
    file = _file(state_dir, model)
    text = json.dumps({"folders": sorted(str(folder) for folder in set(folders))})
    try:
        if file.read_text() == text:
            return
    except (OSError, ValueError):
        pass
    file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_text(text)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)  # of a full disk


def cache_files(state_dir: Path, model: str) -> FileSet | None:
    """Return the files of a model's compile caches; None where no start has told of any.

    Touches all of them, so call it in a thread.
    """
    try:
        names = json.loads(_file(state_dir, model).read_bytes())["folders"]
        if any(b"\0" in os.fsencode(name) for name in names):
            return None  # no path, on any disk
        folders = [Path(name) for name in names]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return FileSet.of(sorted(file for folder in folders for file in _below(folder)))


def _below(folder: Path) -> Iterable[Path]:
    """List what is finished; what is being written has a name of its own until it is."""
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_unfinished(name)]
        yield from (Path(here, name) for name in names if not _is_unfinished(name))


def _is_unfinished(name: str) -> bool:
    return name.startswith((".", "tmp")) or name.endswith((*_UNFINISHED, _LINKED))


def _file(state_dir: Path, model: str) -> Path:
    return state_dir / "caches" / f"{model}.json"
