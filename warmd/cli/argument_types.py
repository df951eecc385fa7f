"""How the words of a command line are read; each raises argparse's own error, one sentence."""

from __future__ import annotations

import argparse

RUNGS = ("hot", "asleep", "staged", "cold", "auto")

_MOST_TIMES, _LONGEST_S = 12, 86400.0
"""What one probe may ask; the daemon refuses more."""


def rung(word: str) -> str:
    """Return a rung's name, or `auto`."""
    if word not in RUNGS:
        raise argparse.ArgumentTypeError(f"no rung is named {word}: choose {', '.join(RUNGS)}")
    return word


def duration(text: str) -> float:
    """Return a time such as `8h` in seconds."""
    # Brings the whole config room and pydantic along, which most calls don't need.
    from warmd.config.units import parse_duration  # noqa: PLC0415

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error} (got {text!r})") from error
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"must be more than 0 (got {text!r})")
    return seconds


def durations(text: str) -> list[float]:
    """Return times such as `0,15m` in seconds."""
    times = [0.0 if each.strip() == "0" else duration(each.strip()) for each in text.split(",")]
    if len(times) > _MOST_TIMES or max(times) > _LONGEST_S:
        what = f'must be at most {_MOST_TIMES} times, each at most "1d"'
        raise argparse.ArgumentTypeError(f"{what} (got {text!r})")
    return times


def count(text: str) -> int:
    """Return a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0 (got {text!r})")
    return int(text)
