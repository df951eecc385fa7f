"""Which of several ready replicas gets a request.

The fewest requests go before all; among equals the one that got the last, whose KV cache is warm.
With a prefix, requests that begin alike go to the same replica as long as that isn't markedly
busier than others: rendezvous hashing, so that one replica more or less moves only its own share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

AHEAD = 4
AHEAD_SHARE = 0.5
"""A replica is markedly busier that has more requests than the one with the fewest has, and beyond
these the larger of: so many, and such a share of them."""


class Serving(NamedTuple):
    """A replica that may get a request. Plain numbers: one is made for each request.

    `load`: the requests that count as its own; `turn`: higher where it got its last one later;
    `nth`: which one of its model's replicas it is.
    """

    load: int
    turn: int
    nth: int


def pick(serving: Sequence[Serving], prefix: int | None = None) -> int:
    """Return the position of who gets a request whose prompt begins with `prefix` (a hash).

    There must be one at least.
    """
    if prefix is None:
        chosen = min(serving, key=_fewest)
    else:
        fewest = min(serving).load
        most = fewest + max(AHEAD, AHEAD_SHARE * fewest)
        free = [each for each in serving if each.load <= most]
        chosen = max(free, key=lambda each: _weight(prefix, each.nth))
    return serving.index(chosen)


def _fewest(each: Serving) -> tuple[int, int]:
    return each.load, -each.turn


def _weight(prefix: int, nth: int) -> int:
    """Mix both well, the same in each process (splitmix64 by Steele, Lea and Flood, 2014)."""
    mixed = (prefix + (nth + 1) * 0x9E3779B97F4A7C15) & _64_BITS
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _64_BITS
    return mixed ^ mixed >> 31


_64_BITS = (1 << 64) - 1
