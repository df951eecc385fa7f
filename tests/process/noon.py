"""A time zone in which it is about noon: windows of today stay away from midnight."""

from __future__ import annotations

import time
from datetime import datetime
from zoneinfo import ZoneInfo

# POSIX turns the sign around: Etc/GMT+5 is five hours behind UTC.
ZONE = f"Etc/GMT{time.gmtime().tm_hour - 12:+d}"
HOST = f'timezone = "{ZONE}"'


def clock(at: float) -> str:
    """Return the time of day, as configs have it."""
    return f"{datetime.fromtimestamp(at, ZoneInfo(ZONE)):%H:%M}"
