"""Whether a file was read by a start, long after it was closed. A part of `learn.py`.

Page cache that nobody maps may have melted away before anybody looks, so what counts first is when
a file was last read. A file that relatime, mount(8)'s default, has had read within a day keeps the
older time: whatever the start read was read within a day before it, or later. Where no access times
are kept (noatime, many a container's file system), what is in RAM must do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from .mapping import HeldFile, HoldError
from .residency import Measure, mincore

_DAY_S = 86400
_SLACK_S = 2  # of clocks that tick apart


def age_of(pids: Iterable[int]) -> float:
    """Return for how many seconds the oldest of these processes has run; 0 where all are gone."""
    with open("/proc/uptime") as uptime:  # noqa: PTH123 - a file of its own kind
        up = float(uptime.read().split()[0])
    oldest = 0.0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - as above
                ticks = int(stat.read().rpartition(b")")[2].split()[19])
        except OSError:
            continue
        oldest = max(oldest, up - ticks / os.sysconf("SC_CLK_TCK"))
    return oldest


def resident(path: str) -> int | None:
    """Return how many bytes of a file are in RAM; None where this user can't be told."""
    file = HeldFile(path)
    if not file.is_ours():
        return None
    fd = file.reopen()
    try:
        found = 0
        for segment in file.segments:
            found += mincore(segment.map(fd), segment.length) or 0
            segment.unmap()
        return found
    finally:
        os.close(fd)


class Reading:
    """Tells which files were read. `probes` were, for sure: they show where times are kept."""

    def __init__(self, pids: Iterable[int], probes: Iterable[str]) -> None:
        self._started = (time.time() - age_of(pids) - _SLACK_S) * 1e9
        self._since = self._started - _DAY_S * 1e9
        self._mincore_works = Measure().mincore_works
        kept: dict[int, bool] = {}
        for path in probes:
            try:
                status = os.stat(path)  # noqa: PTH116 - by the ten thousand below
            except OSError:
                continue
            kept[status.st_dev] = kept.get(status.st_dev, True) and self._is_recent(status)
        self._dated = {device for device, is_kept in kept.items() if is_kept}
        self.ways: set[str] = set()

    def was_read(self, path: str, status: os.stat_result) -> bool:
        """Whether the start has read the file, as far as anybody can tell."""
        if status.st_dev in self._dated:
            self.ways.add("access times")
            # A module that the start itself compiled is written now and read the next time.
            is_used = status.st_atime_ns > status.st_mtime_ns or status.st_mtime_ns > self._started
            return is_used and self._is_recent(status)
        try:
            found = resident(path) if self._mincore_works else None
            if found is not None:
                self.ways.add("residency")
                return found > 0
            # Of a file of somebody else the kernel tells no more than whether a read would wait,
            # and begins to read it.
            self.ways.add("first pages")
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
            finally:
                os.close(fd)
        except (OSError, HoldError):
            return False

    def _is_recent(self, status: os.stat_result) -> bool:
        return status.st_atime_ns >= self._since
