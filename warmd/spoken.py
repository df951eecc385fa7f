"""Quantities as an operator says them, for the sentences that explain what happens."""

from __future__ import annotations

_MINUTE, _HOUR = 60.0, 3600.0


def duration(seconds: float) -> str:
    """Say a duration in seconds: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(whole // 60, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def count(number: int, noun: str) -> str:
    """Say a number of things: `1 request`, `3 requests`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def standing(rung: str, replicas: int | None) -> str:
    """Say where a model stands, and with how many where that is said: `hot, 2 replicas`."""
    return rung if replicas is None else f"{rung}, {count(replicas, 'replica')}"


def size(in_bytes: int) -> str:
    """Say a size as the config writes it: `812 bytes`, `13.4 GiB`."""
    if in_bytes < 1024:
        return f"{in_bytes} bytes"
    value, unit = in_bytes / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value < 1023.95:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}"
