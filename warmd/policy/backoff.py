"""When to try again after a failure, and when to stop trying."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RetryIn:
    """Try again after `seconds`."""

    seconds: float


@dataclass(frozen=True)
class GiveUp:
    """It is a crash loop: only an operator's word starts it again."""

    failures: int


@dataclass(frozen=True)
class BackOff:
    """0, 1, 2, 4 … `max_delay` seconds; a crash loop after `give_up_after` failures in a row.

    A run that stayed ready for `stable_after` seconds was a success: failures count from 0 again.
    """

    give_up_after: int
    max_delay: float
    stable_after: float

    def failures_after(self, failures: int, ready_for: float | None) -> int:
        """Count one more failure; `ready_for` is how long the engine had been ready, in seconds."""
        survived = ready_for is not None and ready_for >= self.stable_after
        return 1 if survived else failures + 1

    def next_try(self, failures: int) -> RetryIn | GiveUp:
        """Decide what follows the `failures`-th failure in a row (1 for the first)."""
        if failures >= self.give_up_after:
            return GiveUp(failures)
        if failures <= 1:
            return RetryIn(0.0)
        return RetryIn(min(self.max_delay, 2.0 ** min(failures - 2, 60)))
