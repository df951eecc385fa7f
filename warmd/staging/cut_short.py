"""Whether a safetensors file is shorter than its own header says, as a broken download leaves it.

The format: 8 bytes of length (little-endian), JSON of that length with where each tensor begins and
ends, then the tensors.
"""

from __future__ import annotations

import os
import re

from warmd import spoken

HEADER_MAX = 100_000_000
"""The safetensors library takes no longer header either."""

_LENGTH = 8
_ENDS = re.compile(rb'"data_offsets"\s*:\s*\[\s*\d+\s*,\s*(\d+)\s*\]')
_REMEMBERED = 4096  # files; a header of 100,000 tensors takes a while to look through
_MISSING: dict[tuple[int, int, int, int], int] = {}
"""By device, inode, size and mtime of a file: a memo, which changes no answer."""


def why_cut_short(descriptor: int, status: os.stat_result) -> str | None:
    """Say how much of a safetensors file is missing; None where nothing is.

    A header that is none is not judged here: the engine says what is wrong with it. Reads the
    header once for each state of a file. Raises `OSError`.
    """
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if (missing := _MISSING.get(state)) is None:
        if len(_MISSING) >= _REMEMBERED:
            _MISSING.clear()
        missing = _MISSING[state] = _missing(descriptor, status.st_size)
    if not missing:
        return None
    return f"{spoken.size(missing)} are missing of what its header says"


def _missing(descriptor: int, size: int) -> int:
    """Return how many bytes are missing at its end, 0 where none are."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead behind the header
    start = os.pread(descriptor, _LENGTH, 0)
    length = int.from_bytes(start, "little")
    if len(start) < _LENGTH or length > HEADER_MAX:
        return 0
    if length > size - _LENGTH:
        return length - (size - _LENGTH)
    header = os.pread(descriptor, length, _LENGTH)
    if not header.startswith(b"{"):
        return 0
    end = max((int(found[1]) for found in _ENDS.finditer(header)), default=0)
    return max(0, _LENGTH + length + end - size)
