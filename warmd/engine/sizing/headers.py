"""The headers of safetensors files: which tensors they hold, without reading any.

The format: 8 bytes of length (little-endian), JSON of that length, then the tensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from warmd.engine.errors import SizingError
from warmd.regular_file import open_regular

HEADER_MAX = 100_000_000
"""The safetensors library takes no longer header either."""

_LENGTH = 8


@dataclass(frozen=True)
class Tensor:
    """One tensor as it is stored: `dtype` as safetensors writes it (BF16, F8_E4M3), its bytes."""

    name: str
    dtype: str
    dimensions: int
    size: int


def read_header(path: Path) -> tuple[Tensor, ...]:
    """Return the tensors of one file. Raises `SizingError` where it is damaged or unreadable."""
    try:
        with open_regular(path) as file:
            total = os.fstat(file.fileno()).st_size
            start = file.read(_LENGTH)
            length = int.from_bytes(start, "little")
            if len(start) < _LENGTH or length > min(HEADER_MAX, total - _LENGTH):
                raise _damaged(path, "it is too short for its header")
            header = file.read(length)
    except OSError as error:
        raise SizingError(
            f"{path}: can't be read ({error.strerror}); let warmd's user read it"
        ) from error
    return tuple(_tensors(path, header, total - _LENGTH - length))


def _tensors(path: Path, header: bytes, data: int) -> Iterator[Tensor]:
    """`data`: bytes that follow the header."""
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        raise _damaged(path, "its header is no JSON object")
    end = 0
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        match entry:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [first, last]} if (
                type(first) is type(last) is int and 0 <= first <= last
            ):
                end = max(end, last)
                yield Tensor(name, dtype, len(shape), last - first)
            case _:
                raise _damaged(path, f"its header says nothing sound of {name[:80]!r}")
    if end != data:
        raise _damaged(path, f"its tensors take {end} bytes and {data} are there")


def _damaged(path: Path, why: str) -> SizingError:
    return SizingError(f"{path}: is damaged or cut short ({why}); download it again")
