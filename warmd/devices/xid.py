"""What the NVIDIA driver has told the kernel's log of each GPU: Xid errors since it was loaded.

NVML tells them only to who keeps it open and waits for them. The log is read from /dev/kmsg, which
never waits; where `kernel.dmesg_restrict` is set that takes CAP_SYSLOG. Who may not is told by the
journal.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmd.devices.kernel_journal import KernelJournal

KERNEL_LOG = Path("/dev/kmsg")

Address = tuple[int, int, int]
"""PCI domain, bus and device."""

_RECORD_BYTES = 8192  # the kernel's own bound, see Documentation/ABI/testing/dev-kmsg
_RECORDS = 200_000
_SAID = 200
_DRIVER = b"NVRM: "
_JOURNAL = KernelJournal(_DRIVER)
_LOADED = re.compile(rb"(?P<level>\d+),\d+,(?P<us>\d+),[^;]*;NVRM: loading NVIDIA UNIX ")
_RECORD = re.compile(
    rb"(?P<level>\d+),\d+,(?P<us>\d+),[^;]*;"
    rb"NVRM: Xid \(PCI:(?P<pci>[0-9a-fA-F:.]+)[^)]*\): (?P<number>\d+),? ?(?P<said>[^\n]*)"
)
_OF_PROGRAMS = frozenset({13, 31, 43, 45, 68, 109})
"""Most often a program's own fault; NVIDIA's device plugin for Kubernetes leaves them alone too."""
_TOLD_ELSEWHERE = frozenset({63, 154})
"""A row was remapped; the recovery action has changed: NVML tells both as they are now."""


@dataclass(frozen=True)
class Xid:
    """One error of a GPU: its number, when (Unix seconds), and the driver's own words.

    `stamp`: when, in seconds by the kernel's log: unlike `at` it never changes, whatever the clock.
    """

    address: Address
    number: int
    at: float
    said: str
    stamp: float = 0.0

    @property
    def is_grave(self) -> bool:
        """Whether the GPU may be at fault, and not only the program that used it."""
        return self.number not in _OF_PROGRAMS | _TOLD_ELSEWHERE


def address_of(text: str | bytes) -> Address:
    """Read a PCI address as NVML (`00000000:65:00.0`) and the driver (`0000:65:00`) write it.

    Raises `ValueError`.
    """
    plain = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    domain, bus, device = plain.partition(".")[0].split(":")
    return int(domain, 16), int(bus, 16), int(device, 16)


@dataclass(frozen=True)
class DriverLog:
    """What the kernel's log holds of the driver since it was loaded, the oldest first.

    `loaded`: when that was, in seconds by that log; minus infinity where it doesn't tell any more.
    """

    xids: tuple[Xid, ...]
    loaded: float = -math.inf


def xids() -> tuple[Xid, ...] | None:
    """Return all Xid errors that the kernel's log still holds; None where it can't be read."""
    log = driver_log()
    return None if log is None else log.xids


def driver_log(log: Path | None = None) -> DriverLog | None:
    """Read the kernel's log, by default whichever can be read; None where none can. Blocks."""
    records = _read(log or KERNEL_LOG)
    if records is None and log is None:
        records = _JOURNAL.records()
    return None if records is None else _told_by(records)


def _read(log: Path) -> Sequence[bytes] | None:
    try:
        reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    records = []
    try:
        for _ in range(_RECORDS):
            try:
                record = os.read(reader, _RECORD_BYTES)
            except BrokenPipeError:
                continue  # overwritten while we read: the next call goes on at the oldest
            if not record:
                break
            if _DRIVER in record:
                records.append(record)
    except BlockingIOError:
        pass  # that was the last one
    except OSError:
        return None
    finally:
        os.close(reader)
    return records


def _told_by(records: Iterable[bytes]) -> DriverLog:
    booted = time.time() - time.monotonic()
    found: list[Xid] = []
    loaded = -math.inf
    for record in records:
        if (xid := parse_record(record, booted)) is not None:
            found.append(xid)
        elif (match := _LOADED.match(record)) is not None and not int(match["level"]) >> 3:
            found.clear()  # what was before has gone with it
            loaded = int(match["us"]) / 1e6
    return DriverLog(tuple(found), loaded)


def parse_record(record: bytes, booted: float) -> Xid | None:
    """Read one record of /dev/kmsg; None where it is no Xid. `booted` is Unix seconds."""
    match = _RECORD.match(record)
    if match is None or int(match["level"]) >> 3:  # not the kernel's: programs may write there too
        return None
    try:
        address = address_of(match["pci"])
    except ValueError:
        return None
    said = match["said"].decode("ascii", "backslashreplace").strip()[:_SAID]
    stamp = int(match["us"]) / 1e6
    return Xid(address, int(match["number"]), booted + stamp, said, stamp)
