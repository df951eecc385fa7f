"""What is wanted: pure functions of config, clock, demand and overrides."""

from warmd.policy.backoff import BackOff, GiveUp, RetryIn
from warmd.policy.balance import Serving, pick
from warmd.policy.calendar import (
    NO_CALENDAR,
    SILENT,
    Calendar,
    Stretch,
    Transition,
    Window,
)
from warmd.policy.estimate import Progress, measured_ready_in, ready_in, soonest, why_not_ready
from warmd.policy.fairness import Fairness, Holder, Stays, Yields, eviction_order, judge
from warmd.policy.first_delay import NEXT, FirstDelay, Witness, first_delay
from warmd.policy.hygiene import Hygiene, worn
from warmd.policy.keepalive import Choice, Quiet, Synthetic, choose, due
from warmd.policy.liveness import Counters, Hung, Pulse, feel
from warmd.policy.quarantine import Ailment, Health, diagnose, give_back
from warmd.policy.scale import Load, Scale, Scaling, rescale
from warmd.policy.target import (
    Coming,
    Demand,
    Override,
    Rank,
    Target,
    Wish,
    decide_target,
    held_hot,
)

__all__ = [
    "NEXT",
    "NO_CALENDAR",
    "SILENT",
    "Ailment",
    "BackOff",
    "Calendar",
    "Choice",
    "Coming",
    "Counters",
    "Demand",
    "Fairness",
    "FirstDelay",
    "GiveUp",
    "Health",
    "Holder",
    "Hung",
    "Hygiene",
    "Load",
    "Override",
    "Progress",
    "Pulse",
    "Quiet",
    "Rank",
    "RetryIn",
    "Scale",
    "Scaling",
    "Serving",
    "Stays",
    "Stretch",
    "Synthetic",
    "Target",
    "Transition",
    "Window",
    "Wish",
    "Witness",
    "Yields",
    "choose",
    "decide_target",
    "diagnose",
    "due",
    "eviction_order",
    "feel",
    "first_delay",
    "give_back",
    "held_hot",
    "judge",
    "measured_ready_in",
    "pick",
    "ready_in",
    "rescale",
    "soonest",
    "why_not_ready",
    "worn",
]
