"""A replica: the n-th engine of a model, and its whole life."""

from warmd.replica.ports import (
    EngineConnection,
    EngineMake,
    Fit,
    GivesBack,
    Measure,
    ReplicaListener,
    SleepTerms,
)
from warmd.replica.record import EngineRecord
from warmd.replica.replica import Replica, ReplicaLease
from warmd.replica.state import FREED_S, Limits, Nap, ReplicaState

__all__ = [
    "FREED_S",
    "EngineConnection",
    "EngineMake",
    "EngineRecord",
    "Fit",
    "GivesBack",
    "Limits",
    "Measure",
    "Nap",
    "Replica",
    "ReplicaLease",
    "ReplicaListener",
    "ReplicaState",
    "SleepTerms",
]
