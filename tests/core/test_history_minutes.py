"""Requests are counted by model and minute before any of it is written."""

from __future__ import annotations

from warmd.history.minutes import MinuteCount, Minutes
from warmd.ladder import Rung


def test_what_a_request_counts_as() -> None:
    count = MinuteCount()
    count.add(200, Rung.HOT, 0.25, is_first=False)
    count.add(200, Rung.HOT, 0.75, is_first=False)
    count.add(200, Rung.HOT, 1.0, is_first=True, spared=Rung.ASLEEP)
    count.add(200, Rung.STAGED, 41.0, is_first=True)
    count.add(200, Rung.ASLEEP, 5.0, is_first=True)
    count.add(503, Rung.COLD, None, is_first=True, total_s=0.5)
    count.add(499, Rung.COLD, None, is_first=True, total_s=180.0)
    count.add(503, Rung.HOT, None, is_first=False, total_s=9.0)
    assert count == MinuteCount(
        requests=8,
        failed=2,
        met_hot=4,
        met_asleep=1,
        met_staged=1,
        met_cold=2,
        first_delays=3,
        slow=1,
        first_delay_sum=47.0,
        first_delay_max=41.0,
        first_bytes=2,
        ttfb_sum=1.0,
        ttfb_max=0.75,
        vain=1,
        vain_max=180.0,
        spared_asleep=1,
    )


def test_a_minute_is_handed_over_once_and_the_running_one_stays() -> None:
    minutes = Minutes()
    for model, minute in (("a", 7), ("a", 8), ("b", 7), ("a", 8)):
        minutes.at(model, minute).add(200, Rung.HOT, 0.1, is_first=False)
    over = minutes.take(but=8)
    assert {key: count.requests for key, count in over.items()} == {("a", 7): 1, ("b", 7): 1}
    assert minutes.take(but=8) == {}
    minutes.at("a", 8).add(200, Rung.HOT, 0.1, is_first=False)
    assert [count.requests for count in minutes.take().values()] == [3]
    assert minutes.take() == {}


def test_a_clock_that_jumps_backward_loses_nothing() -> None:
    minutes = Minutes()
    minutes.at("a", 9000).add(200, Rung.HOT, 0.1, is_first=False)
    minutes.at("a", 8).add(200, Rung.HOT, 0.1, is_first=False)
    assert list(minutes.take(but=8)) == [("a", 9000)]
    assert list(minutes.take(but=9)) == [("a", 8)]
