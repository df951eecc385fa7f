"""The copy of a model's files in a tmpfs, as an engine's start asks for it."""

from __future__ import annotations

import os
from pathlib import Path

from warmd.staging.holder.manifest import holds_copies_of


def published_copy(folder: Path, source: Path) -> Path | None:
    """Return `folder` where it holds copies of the files below `source`, unchanged since.

    None where it doesn't, as after a reboot. Touches the file system.
    """
    return folder if holds_copies_of(os.fspath(folder), os.fspath(source.absolute())) else None
