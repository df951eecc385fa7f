"""What is written down beside an engine's files, for a daemon that comes later."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path


def write_note(file: Path, facts: Mapping[str, object]) -> None:
    """Write `facts` in one step: no reader finds half of them. Raises `OSError`."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    # Nobody else's, whatever the umask: a later daemon believes it, and an engine may not write it.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o600), "w") as written:
        written.write(json.dumps(facts))
    draft.replace(file)


def read_note(file: Path) -> Mapping[str, object] | None:
    """Return what was written; None where there is nothing, or nothing that can be read."""
    try:
        facts = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
