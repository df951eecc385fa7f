"""A replica: the n-th engine of a model, and its whole life."""

from warmd.replica.life import Replica, ReplicaLease
from warmd.replica.ports import EngineConnection, EngineMake, Fit, ReplicaListener
from warmd.replica.state import Limits, ReplicaState

__all__ = [
    "EngineConnection",
    "EngineMake",
    "Fit",
    "Limits",
    "Replica",
    "ReplicaLease",
    "ReplicaListener",
    "ReplicaState",
]
