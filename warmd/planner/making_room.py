"""How long it takes to make room in a pool for what its calendar wants: pure arithmetic.

A calendar moves only what rests there (`planner/room`), one engine after the other, before its own
rise begins. Lengths of time are seconds, sizes bytes on each card.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from warmd.ladder import share_a_card


@dataclass(frozen=True)
class Lodger:
    """Who has, or will have, `vram` of a pool. `cards`: none where it may be any.

    `aside_s`: seconds that it takes to be put aside; None: it stays.
    """

    replica: str
    vram: int
    cards: frozenset[str]
    aside_s: float | None = None


def room_after(pool: int, newcomer: Lodger, others: Iterable[Lodger]) -> float:
    """Return after how many seconds at most there is room for `newcomer`; 0 where there is.

    It is not said who goes first, which nobody knows ahead: as many as may have to, the slowest.
    """
    there = [
        each
        for each in others
        if each.replica != newcomer.replica and share_a_card(each.cards, newcomer.cards)
    ]
    slowest: dict[str, float] = {}
    for card in newcomer.cards or {""}:
        here = [each for each in there if not (each.cards and card) or card in each.cards]
        missing = sum(each.vram for each in here) + newcomer.vram - pool
        slowest |= _slowest(missing, here)
    return sum(slowest.values())


def _slowest(missing: int, here: Collection[Lodger]) -> dict[str, float]:
    """Return the slowest of one card's lodgers, as many as go until `missing` bytes are free."""
    if missing <= 0:
        return {}
    going = [(each.aside_s, each) for each in here if each.aside_s is not None and each.vram]
    going.sort(key=lambda each: (-each[0], each[1].replica))
    many = _most_steps(missing, sorted(each.vram for _, each in going))
    return {each.replica: seconds for seconds, each in going[:many]}


def _most_steps(missing: int, sizes: Sequence[int]) -> int:
    """Return how many go at most: one alone as soon as one is enough, else the smallest first."""
    if not sizes:
        return 0
    gone = [0, *accumulate(sizes)]
    steps = (n + 1 for n, freed in enumerate(gone[:-1]) if freed + sizes[-1] >= missing)
    return next(steps, len(sizes))
