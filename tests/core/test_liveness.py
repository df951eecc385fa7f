"""Alive means that something moves: neither an answer nor a missed one decides alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warmd.policy import Hung, Pulse, feel

STILL = (5.0, 100.0)


def test_tokens_that_advance_are_life_however_long_a_request_takes() -> None:
    pulse: Pulse | Hung = Pulse(0.0)
    for look in range(1, 100):
        assert isinstance(pulse, Pulse)
        pulse = feel(pulse, (1.0, float(look)), in_flight=1, now=look * 50.0, hang_after=60.0)
    assert pulse == Pulse(4950.0, (1.0, 99.0))


def test_requests_without_one_token_are_a_hang_though_it_answers() -> None:
    """`/health` and `/metrics` can stay 200 while the engine is wedged (vllm#39863)."""
    assert feel(Pulse(0.0, STILL), STILL, 2, now=59.0, hang_after=60.0) == Pulse(0.0, STILL)
    hung = feel(Pulse(0.0, STILL), STILL, 2, now=60.0, hang_after=60.0)
    assert hung == Hung("it has hung: 2 requests in flight and not one token for 1 min")


def test_an_idle_engine_stands_still_in_good_health() -> None:
    assert feel(Pulse(0.0, STILL), STILL, 0, now=9e9, hang_after=60.0) == Pulse(9e9, STILL)


def test_one_missed_answer_is_no_death_and_a_long_silence_is() -> None:
    assert feel(Pulse(0.0, STILL), None, 9, now=59.0, hang_after=60.0) == Pulse(0.0, STILL)
    hung = feel(Pulse(0.0, STILL), None, 0, now=61.0, hang_after=60.0)
    assert hung == Hung("it has hung: it answered nothing for 1 min 1 s")


def test_an_engine_without_statistics_is_only_judged_by_its_answers() -> None:
    assert feel(Pulse(0.0), (), 3, now=500.0, hang_after=60.0) == Pulse(500.0)


@given(st.lists(st.tuples(st.none() | st.just(STILL) | st.just((6.0, 1.0)), st.floats(0, 59.9))))
def test_whatever_moves_within_the_time_is_never_called_hung(
    looks: list[tuple[tuple[float, ...] | None, float]],
) -> None:
    now, tokens = 0.0, 0.0
    pulse = Pulse(0.0)
    for counters, wait in looks:
        now, tokens = now + wait, tokens + 1
        for told in ((tokens,), counters):
            felt = feel(pulse, told, 1, now, 60.0)
            assert isinstance(felt, Pulse)
            pulse = felt
