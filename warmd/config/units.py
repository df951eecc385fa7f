"""Sizes, durations and shares as people write them: `"90GiB"`, `"1h30m"`, `"50%"`.

Every parser raises `ValueError`; its text is the sentence for the operator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

_SIZES = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_SIZE_FACTORS = {unit.lower(): factor for unit, factor in _SIZES.items()}
_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_UNIT_ORDER = tuple(_MILLISECONDS)
_LONGEST_MS = 366 * _MILLISECONDS["d"]

_NUMBER = r"([0-9]{1,18}(?:\.[0-9]{1,6})?)"
_SIZE = re.compile(rf"{_NUMBER} ?([A-Za-z]*)")
_DURATION_PART = re.compile(rf"{_NUMBER}(ms|[dhms])")
_PERCENT = re.compile(rf"{_NUMBER} ?%")


def parse_size(text: str) -> int:
    """Return the bytes in `"90GiB"` (1024s) or `"90GB"` (1000s). Raises `ValueError`."""
    match = _SIZE.fullmatch(text)
    factor = _SIZE_FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(
            'must be a size such as "90GiB" or "512MiB", with one of the units ' + ", ".join(_SIZES)
        )
    return int(Decimal(match[1]) * factor)


def format_size(size: int) -> str:
    """Write bytes with the largest binary unit that loses nothing."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return f"{size}B"


def parse_duration(text: str) -> float:
    """Return the seconds in `"20m"`, `"1h30m"` or `"500ms"`. Raises `ValueError`."""
    parts = _DURATION_PART.findall(text)
    units = [_UNIT_ORDER.index(unit) for _, unit in parts]
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(
            'must be a duration such as "90s", "20m", "1h30m" or "500ms", '
            "with the units d, h, m, s, ms"
        )
    if units != sorted(set(units)):
        raise ValueError('must name each unit once, the largest first, such as "1h30m"')
    total = sum(Decimal(number) * _MILLISECONDS[unit] for number, unit in parts)
    if total != int(total):
        raise ValueError("must not be finer than a millisecond")
    if total > _LONGEST_MS:
        raise ValueError('must be at most "366d"')
    return int(total) / 1000


def format_duration(seconds: float) -> str:
    """Write seconds as `parse_duration` reads them, to the millisecond."""
    rest = round(seconds * 1000)
    text = ""
    for unit, length in _MILLISECONDS.items():
        count, rest = divmod(rest, length)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def parse_percent(text: str) -> float:
    """Return the part of one in `"30%"`. Raises `ValueError`."""
    match = _PERCENT.fullmatch(text)
    if match is None or Decimal(match[1]) > 100:
        raise ValueError('must be a percentage such as "30%", at most "100%"')
    return float(Decimal(match[1]) / 100)


def format_percent(part: float) -> str:
    """Write a part of one as `parse_percent` reads it."""
    return f"{part * 100:.10g}%"


@dataclass(frozen=True)
class Share:
    """A part of something: a percentage of it, or a fixed size in bytes."""

    percent: Decimal | None = None
    size: int | None = None

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read `"50%"` or `"20GiB"`. Raises `ValueError`."""
        if match := _PERCENT.fullmatch(text):
            percent = Decimal(match[1])
            if percent > 100:
                raise ValueError("must be at most 100%")
            return cls(percent=percent)
        try:
            return cls(size=parse_size(text))
        except ValueError:
            raise ValueError('must be a share such as "50%" or a size such as "20GiB"') from None

    def of(self, total: int) -> int:
        """Return this share of `total` bytes, never more than all of it."""
        if self.percent is not None:
            return int(total * self.percent / 100)
        return min(self.size or 0, total)

    def __str__(self) -> str:
        return f"{self.percent}%" if self.percent is not None else format_size(self.size or 0)
