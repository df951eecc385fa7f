"""How to get there: pure functions from targets and facts to the next actions, or why none."""

from warmd.planner.plan import (
    Action,
    ModelFacts,
    Plan,
    ReleaseWeights,
    ReplicaFacts,
    StageWeights,
    StagingFacts,
    StartEngine,
    StopEngine,
    make_plan,
)

__all__ = [
    "Action",
    "ModelFacts",
    "Plan",
    "ReleaseWeights",
    "ReplicaFacts",
    "StageWeights",
    "StagingFacts",
    "StartEngine",
    "StopEngine",
    "make_plan",
]
