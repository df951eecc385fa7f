"""What is written down beside an engine's files, for a daemon that comes later."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path


def write_note(file: Path, facts: Mapping[str, object]) -> None:
    """Write `facts` in one step: no reader finds half of them. Raises `OSError`.

    On a full file system they are written over those that were there, which takes no more room: a
    stale note would have a later daemon stop an engine that is well.
    """
    text = json.dumps(facts).encode()
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        # Nobody else's, whatever the umask: a later daemon believes it, and an engine may not
        # write it.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as written:
            written.write(text)
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not file.exists():
            raise
        with file.open("r+b") as there:
            there.write(text)
            there.truncate()


def read_note(file: Path) -> Mapping[str, object] | None:
    """Return what was written; None where there is nothing, or nothing that can be read."""
    try:
        facts = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
