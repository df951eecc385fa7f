"""What is wanted: pure functions of config, clock, demand and overrides."""

from warmd.policy.backoff import BackOff, GiveUp, RetryIn
from warmd.policy.calendar import (
    NO_CALENDAR,
    SILENT,
    Calendar,
    Stretch,
    Transition,
    Window,
)
from warmd.policy.estimate import Progress, ready_in, why_not_ready
from warmd.policy.fairness import Fairness, Holder, Stays, Yields, eviction_order, judge
from warmd.policy.hygiene import Hygiene, worn
from warmd.policy.liveness import Counters, Hung, Pulse, feel
from warmd.policy.quarantine import Ailment, Health, diagnose, give_back
from warmd.policy.target import Coming, Demand, Override, Rank, Target, Wish, decide_target

__all__ = [
    "NO_CALENDAR",
    "SILENT",
    "Ailment",
    "BackOff",
    "Calendar",
    "Coming",
    "Counters",
    "Demand",
    "Fairness",
    "GiveUp",
    "Health",
    "Holder",
    "Hung",
    "Hygiene",
    "Override",
    "Progress",
    "Pulse",
    "Rank",
    "RetryIn",
    "Stays",
    "Stretch",
    "Target",
    "Transition",
    "Window",
    "Wish",
    "Yields",
    "decide_target",
    "diagnose",
    "eviction_order",
    "feel",
    "give_back",
    "judge",
    "ready_in",
    "why_not_ready",
    "worn",
]
