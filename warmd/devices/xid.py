"""What the NVIDIA driver has told the kernel's log of each GPU: Xid errors since the boot.

NVML tells them only to who keeps it open and waits for them. The log is read from /dev/kmsg, which
never waits; where `kernel.dmesg_restrict` is set that takes CAP_SYSLOG.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

KERNEL_LOG = Path("/dev/kmsg")

Address = tuple[int, int, int]
"""PCI domain, bus and device."""

_RECORD_BYTES = 8192  # the kernel's own bound, see Documentation/ABI/testing/dev-kmsg
_RECORDS = 200_000
_SAID = 200
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
    """One error of a GPU: its number, when (Unix seconds), and the driver's own words."""

    address: Address
    number: int
    at: float
    said: str

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


def xids(log: Path = KERNEL_LOG) -> tuple[Xid, ...] | None:
    """Return all that the kernel's log still holds, oldest first; None where it can't be read."""
    try:
        reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    booted = time.time() - time.monotonic()
    found: list[Xid] = []
    try:
        for _ in range(_RECORDS):
            try:
                record = os.read(reader, _RECORD_BYTES)
            except BrokenPipeError:
                continue  # overwritten while we read: the next call goes on at the oldest
            if not record:
                break
            if (xid := parse_record(record, booted)) is not None:
                found.append(xid)
    except BlockingIOError:
        pass  # that was the last one
    except OSError:
        return None
    finally:
        os.close(reader)
    return tuple(found)


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
    return Xid(address, int(match["number"]), booted + int(match["us"]) / 1e6, said)
