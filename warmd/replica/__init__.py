"""A replica: the n-th engine of a model, and its whole life."""

from warmd.replica.ports import (
    EngineConnection,
    EngineMake,
    Fit,
    Measure,
    ReplicaListener,
    SleepTerms,
)
from warmd.replica.record import EngineRecord
from warmd.replica.replica import Replica, ReplicaLease
from warmd.replica.state import Limits, Nap, ReplicaState

__all__ = [
    "EngineConnection",
    "EngineMake",
    "EngineRecord",
    "Fit",
    "Limits",
    "Measure",
    "Nap",
    "Replica",
    "ReplicaLease",
    "ReplicaListener",
    "ReplicaState",
    "SleepTerms",
]
