"""Back-off and crash loop."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warmd.policy import BackOff, GiveUp, RetryIn

POLICY = BackOff(give_up_after=12, max_delay=300.0, stable_after=60.0)


def test_delays_double_from_zero_to_the_bound() -> None:
    delays = [POLICY.next_try(n) for n in range(1, 12)]
    seconds = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0]
    assert delays == [RetryIn(s) for s in seconds]


def test_a_crash_loop_is_given_up() -> None:
    assert POLICY.next_try(12) == GiveUp(12)


def test_only_a_run_that_lasted_counts_as_success() -> None:
    assert POLICY.failures_after(5, ready_for=None) == 6
    assert POLICY.failures_after(5, ready_for=59.9) == 6, "a crash right after ready is a loop too"
    assert POLICY.failures_after(5, ready_for=60.0) == 1


@given(st.integers(1, 10**6))
def test_no_count_of_failures_overflows(failures: int) -> None:
    patient = BackOff(give_up_after=10**7, max_delay=300.0, stable_after=60.0)
    match patient.next_try(failures):
        case RetryIn(seconds):
            assert 0.0 <= seconds <= 300.0
        case GiveUp():
            raise AssertionError("gave up too early")
