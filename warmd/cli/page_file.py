"""Writes a page to a file that is whole or isn't there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from warmd.cli.client import RefusedError


def write_page(file: Path, text: str) -> str:
    """Write `text` to `file`, in one step; return a sentence.

    Raises `RefusedError` where the name is taken by what is no file, or the system says no.
    """
    try:
        file = file.resolve()  # a symlink goes on leading to it
        if file.exists() and not file.is_file():
            raise RefusedError(f"{file} is no file: name another one for the page")
        mode = file.stat().st_mode & 0o777 if file.exists() else 0o666 & ~_umask()
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as draft:
                draft.write(text)
                os.fchmod(draft.fileno(), mode)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RefusedError(f"can't write {file}: {error.strerror or error}") from error
    return f"{file} is written"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
