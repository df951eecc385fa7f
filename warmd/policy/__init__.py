"""What is wanted: pure functions of config, clock, demand and overrides."""

from warmd.policy.backoff import BackOff, GiveUp, RetryIn
from warmd.policy.estimate import Progress, ready_in, why_not_ready
from warmd.policy.liveness import Counters, Hung, Pulse, feel
from warmd.policy.target import Demand, Override, Target, Wish, decide_target

__all__ = [
    "BackOff",
    "Counters",
    "Demand",
    "GiveUp",
    "Hung",
    "Override",
    "Progress",
    "Pulse",
    "RetryIn",
    "Target",
    "Wish",
    "decide_target",
    "feel",
    "ready_in",
    "why_not_ready",
]
