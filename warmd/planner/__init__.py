"""How to get there: pure functions from targets and facts to the next actions, or why none."""

from warmd.planner.actions import (
    Action,
    LookAtCards,
    LookAtFiles,
    PaceFiles,
    ReleaseFiles,
    SleepEngine,
    StageFiles,
    StartEngine,
    StopEngine,
    WakeEngine,
)
from warmd.planner.bus_order import by_order
from warmd.planner.card_facts import CardFacts, Claim, Stranger
from warmd.planner.facts import (
    NOTHING_TO_STAGE,
    ModelFacts,
    ReplicaFacts,
    Scene,
    StagingFacts,
    claims,
)
from warmd.planner.ledger import RamLedger
from warmd.planner.placement import MisfitError, Placement, crowded, place
from warmd.planner.plan import Plan, make_plan
from warmd.planner.pools import Card, OwnPool, PoolWish, Tenant
from warmd.planner.reservation import Figure, Holding, Reservations
from warmd.planner.room import Room, room_ahead

__all__ = [
    "NOTHING_TO_STAGE",
    "Action",
    "Card",
    "CardFacts",
    "Claim",
    "Figure",
    "Holding",
    "LookAtCards",
    "LookAtFiles",
    "MisfitError",
    "ModelFacts",
    "OwnPool",
    "PaceFiles",
    "Placement",
    "Plan",
    "PoolWish",
    "RamLedger",
    "ReleaseFiles",
    "ReplicaFacts",
    "Reservations",
    "Room",
    "Scene",
    "SleepEngine",
    "StageFiles",
    "StagingFacts",
    "StartEngine",
    "StopEngine",
    "Stranger",
    "Tenant",
    "WakeEngine",
    "by_order",
    "claims",
    "crowded",
    "make_plan",
    "place",
    "room_ahead",
]
