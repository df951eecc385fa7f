"""When an engine has slept often enough, or keeps too much, to be put to sleep once more.

Engines have leaked a little with each sleep, and one gave garbage after the fourth (vllm#21336).
"""

from __future__ import annotations

from dataclasses import dataclass

from warmd.spoken import size


@dataclass(frozen=True)
class Hygiene:
    """`cycles`: how often one engine may sleep; `growth`: bytes that a sleeper may keep more."""

    cycles: int
    growth: int


def worn(hygiene: Hygiene, cycles: int, first_kept: int, last_kept: int) -> str | None:
    """Say why an engine that slept `cycles` times is to be made anew; None where it is sound.

    `first_kept`, `last_kept`: the bytes of RAM and VRAM that it held in its first and last sleep.
    """
    if cycles >= hygiene.cycles:
        return f"it has slept {cycles} times and is made anew"
    grown = last_kept - first_kept
    if grown > hygiene.growth:
        return f"asleep it holds {size(grown)} more than at first, and is made anew"
    return None
