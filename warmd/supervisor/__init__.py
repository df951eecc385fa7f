"""The supervisor: owns the replicas and their lanes; every decision is carried out here."""

from warmd.supervisor.cards import CardRules, Cards, Look
from warmd.supervisor.events import (
    Clock,
    EngineFailure,
    Events,
    Mismatch,
    Operation,
    Quarantine,
    RungChange,
)
from warmd.supervisor.loop import Supervisor
from warmd.supervisor.model import Managed, SleepPolicy, Terms
from warmd.supervisor.ports import Build, Known, Rules
from warmd.supervisor.snapshot import Outlook
from warmd.supervisor.wards import Examination

__all__ = [
    "Build",
    "CardRules",
    "Cards",
    "Clock",
    "EngineFailure",
    "Events",
    "Examination",
    "Known",
    "Look",
    "Managed",
    "Mismatch",
    "Operation",
    "Outlook",
    "Quarantine",
    "Rules",
    "RungChange",
    "SleepPolicy",
    "Supervisor",
    "Terms",
]
