"""The clock that the calendar and the history go by."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from warmd.doctor.finding import Finding, note, ok, warning

_SUBJECT = "clock"
_STA_UNSYNC = 0x0040
_TIMEX_WORDS = 26  # struct timex of 64-bit Linux: 208 bytes
_STATUS_AT = 40  # modes, offset, freq, maxerror, esterror, then status (adjtimex(2))


@dataclass(frozen=True)
class ClockFacts:
    """`synchronised` None: the kernel doesn't tell."""

    synchronised: bool | None
    zone_known: bool


def look_at_clock() -> ClockFacts:
    """Ask the kernel, and systemd-timesyncd's stamp."""
    stamp = Path("/run/systemd/timesync/synchronized").exists()
    zone = bool(os.environ.get("TZ")) or Path("/etc/localtime").exists()
    return ClockFacts(stamp or _kernel_synchronised(), zone)


def _kernel_synchronised() -> bool | None:
    timex = (ctypes.c_uint64 * _TIMEX_WORDS)()  # modes 0: only read
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(ctypes.byref(timex)) < 0:
        return None
    status = ctypes.c_int.from_buffer(timex, _STATUS_AT).value
    return not status & _STA_UNSYNC


def judge_clock(facts: ClockFacts) -> Iterator[Finding]:
    """Judge it: times in the history, and the calendar, are only as good as the clock."""
    if facts.synchronised is False:
        yield warning(
            _SUBJECT,
            "the clock is not synchronised: the calendar, history and logs go wrong",
            "sudo timedatectl set-ntp true, or start chrony; timedatectl shows what is missing",
        )
    else:
        told = "synchronised" if facts.synchronised else "whether it is synchronised isn't known"
        yield ok(_SUBJECT, told)
    if not facts.zone_known:
        yield note(
            _SUBJECT,
            "this host has no time zone set: all times are UTC",
            "sudo timedatectl set-timezone Europe/Berlin, or where the host stands",
        )
