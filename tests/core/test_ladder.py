"""The order of the rungs."""

from __future__ import annotations

from itertools import pairwise

import pytest

from warmd.ladder import Rung

ORDER = [Rung.COLD, Rung.STAGED, Rung.ASLEEP, Rung.HOT]


def test_rungs_are_ordered_by_warmth_not_by_the_alphabet() -> None:
    assert sorted([Rung.HOT, Rung.STAGED, Rung.ASLEEP, Rung.COLD]) == ORDER
    assert [r.height for r in ORDER] == [0, 1, 2, 3], "dashboards rest on these numbers"
    for low, high in pairwise(ORDER):
        assert low < high
        assert low <= high
        assert high > low
        assert high >= low
    assert max(ORDER) is Rung.HOT


def test_a_rung_is_only_compared_with_rungs() -> None:
    with pytest.raises(ValueError, match="lukewarm"):
        assert Rung.HOT > "lukewarm"
