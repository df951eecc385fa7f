"""Reads files in the ways that staging is compared with: `python -I -S reader.py WAY FILE...`.

WAY is `direct:DEPTH:BYTES`, O_DIRECT in the order of the files with DEPTH blocks of BYTES in flight
as fio reads sequentially, or `prefetch`, which is vLLM 0.32's `--safetensors-load-strategy
prefetch`: 8 threads with a file each, buffered reads of 16 MiB.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections.abc import Callable, Sequence

_THREADS = 8
_BLOCK = 16 << 20


class Blocks:
    """The blocks of some files in their order, for several threads."""

    def __init__(self, files: Sequence[str], size: int) -> None:
        self._lock = threading.Lock()
        self._blocks = iter(
            [
                (number, at)
                for number, file in enumerate(files)
                for at in range(0, os.path.getsize(file), size)  # noqa: PTH202 - starts sooner
            ]
        )

    def next(self) -> tuple[int, int] | None:
        """Return the next one: its file's number and its offset; None when all are taken."""
        with self._lock:
            return next(self._blocks, None)


def direct(files: Sequence[str], depth: int, size: int) -> Callable[[], None]:
    """Return what each of `depth` threads does."""
    descriptors = [os.open(file, os.O_RDONLY | os.O_DIRECT) for file in files]
    blocks = Blocks(files, size)

    def work() -> None:
        buffer = mmap.mmap(-1, size)  # aligned to pages, as O_DIRECT wants it
        while (block := blocks.next()) is not None:
            number, at = block
            os.preadv(descriptors[number], [buffer], at)

    return work


def prefetch(files: Sequence[str]) -> Callable[[], None]:
    """Return what each of 8 threads does."""
    lock, left = threading.Lock(), iter(files)

    def work() -> None:
        while True:
            with lock:
                file = next(left, None)
            if file is None:
                return
            with open(file, "rb") as opened:  # noqa: PTH123 - as vLLM does
                while opened.read(_BLOCK):
                    pass

    return work


def main(way: str, files: Sequence[str]) -> int:
    """Read all; 1 where a read failed."""
    kind, *numbers = way.split(":")
    depth, size = (int(number) for number in numbers) if numbers else (_THREADS, _BLOCK)
    work = direct(files, depth, size) if kind == "direct" else prefetch(files)
    failed: list[Exception] = []

    def guarded() -> None:
        try:
            work()
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(depth)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in failed[:1]:
        print(error, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
