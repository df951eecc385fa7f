"""Where an engine keeps the code that it has compiled, from the lines that its start prints. Pure.

Written against the log lines of vLLM 0.26 to 0.33.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from warmd.engine.traces import clean

_MOST = 256
_TOLD = re.compile(
    r"Using cache directory: (?P<used>/.+) for vLLM's torch\.compile"
    r"|saved AOT compiled function to (?P<saved>/.+)"
    r"|Directly load AOT compilation from path (?P<loaded>/.+)"
)
_SHARED = ("inductor_cache", "triton_cache")
_RANK = re.compile(r"rank_\d+_\d+")


class CompiledTracker:
    """Follows one start."""

    def __init__(self) -> None:
        self._folders: dict[PurePosixPath, None] = {}

    def line(self, text: str) -> None:
        """Take one line of the engine's output; a line that says nothing is fine."""
        told = _TOLD.search(text)
        if told is None or told.lastgroup is None or len(self._folders) >= _MOST:
            return
        path = PurePosixPath(clean(told[told.lastgroup]).text)
        for folder in path.parents if told.lastgroup != "used" else (path, *path.parents):
            if _RANK.fullmatch(folder.name):
                # Each rank has a folder of its own beside those that all share.
                shared = (folder.parent / name for name in _SHARED)
                self._folders |= dict.fromkeys((folder, *shared))

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that it named, and those beside them that it doesn't name."""
        return tuple(map(str, self._folders))
