"""When a quiet engine is asked, and how `auto` chooses by what idle times cost."""

from __future__ import annotations

import math
import re

import pytest

from warmd.policy import FirstDelay, Quiet, Synthetic, Witness, choose, due, first_delay

MINUTE = 60.0
NEVER = math.inf


@pytest.mark.parametrize(
    ("answered", "tried", "every", "fired", "kind"),
    [
        (100, NEVER, None, None, None),
        (99, NEVER, 100, None, None),  # real traffic has just succeeded
        (100, NEVER, 100, None, Synthetic.KEEPALIVE),
        (500, 99, 100, None, None),  # the last one failed: the next is its turn, no sooner
        (500, 100, 100, None, Synthetic.KEEPALIVE),
        (10, NEVER, None, 20, None),  # the cron entry fired, and somebody was answered since
        (30, NEVER, None, 20, Synthetic.WARMUP),
        (NEVER, NEVER, None, 9 * 3600, Synthetic.WARMUP),  # it fired while nobody was awake
        (30, 5, None, 20, None),  # tried since it fired, and failed
        (90, 60, None, 80, Synthetic.WARMUP),  # and a minute later again
        (30, 25, None, 20, Synthetic.WARMUP),  # that try was an earlier firing's
        (120, 120, 100, 110, Synthetic.WARMUP),
    ],
)
def test_what_is_due(
    answered: float, tried: float, every: float | None, fired: float | None, kind: Synthetic | None
) -> None:
    assert due(Quiet(answered, tried, busy=False), every, fired) is kind
    assert due(Quiet(answered, tried, busy=True), every, fired) is None  # users go first


@pytest.mark.parametrize(
    ("first", "usual", "slow"),
    [
        (0.200, 0.100, True),
        (0.149, 0.100, False),  # not by half as much again
        (0.140, 0.090, False),  # a person doesn't notice 50 ms
        (3.100, 3.000, False),
        (0.020, 0.001, False),
    ],
)
def test_what_makes_a_difference(first: float, usual: float, slow: bool) -> None:
    assert FirstDelay(900, first, usual).is_slow is slow


def delay(minutes: float, *, slow: bool) -> FirstDelay:
    return first_delay(minutes * MINUTE, 0.9 if slow else 0.05, [0.04, 0.05, 9.0])


@pytest.mark.parametrize(
    ("known", "every", "measures", "why"),
    [
        ([], None, 15, "measures the first request after 15 min"),
        ([delay(15, slow=False)], None, 30, "measures"),
        ([delay(15, slow=False), delay(31, slow=False)], None, 60, "measures"),
        (
            [delay(15, slow=True)],
            10,
            None,
            "every 10 min: after 15 min .* 900 ms, and 50 ms is",
        ),
        ([delay(15, slow=False), delay(30, slow=True)], 15, None, "every 15 min"),
        ([delay(15, slow=False), delay(30, slow=False), delay(60, slow=True)], 30, None, "every"),
        ([delay(61, slow=False)], None, None, "dropped, it makes no difference: after 1 h 1 min"),
        ([delay(15, slow=True), delay(15, slow=False)], None, 30, "measures"),  # the last holds
        ([delay(14, slow=True)], None, 15, "measures"),
    ],
)
def test_auto_chooses(
    known: list[FirstDelay], every: float | None, measures: float | None, why: str
) -> None:
    choice = choose(known)
    assert choice.every == (None if every is None else every * MINUTE)
    assert choice.measures == (None if measures is None else measures * MINUTE)
    assert re.match(why, choice.why), choice.why


def test_real_traffic_is_a_witness() -> None:
    witness = Witness(900.0)
    assert witness.see(10.0, 0.05, 0.0) is None  # it was not idle
    assert witness.see(1000.0, 0.8, 1000.0) is None
    shown = [witness.see(1.0, 0.05, 1000.0 + n) for n in range(10)]
    assert shown == [None] * 9 + [FirstDelay(1000.0, 0.8, 0.05)]
    assert witness.see(1.0, 0.05, 1020.0) is None  # told once

    # Few that came late show what they can, fewer nothing.
    witness.see(2000.0, 0.8, 5000.0)
    assert [witness.see(1.0, 0.1, at) for at in (5001.0, 5002.0, 5300.0)][-1] is not None
    witness.see(2000.0, 0.8, 9000.0)
    assert [witness.see(1.0, 0.1, at) for at in (9001.0, 9300.0, 9301.0, 9302.0)] == [None] * 4
    assert witness.see(2000.0, None, 9999.0) is None  # nobody was answered
