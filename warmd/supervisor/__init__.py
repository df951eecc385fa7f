"""The supervisor: owns the replicas and their lanes; every decision is carried out here."""

from warmd.supervisor.cards import CardRules, Cards, Look
from warmd.supervisor.events import Clock, EngineFailure, Events, Mismatch, Operation, RungChange
from warmd.supervisor.loop import Supervisor
from warmd.supervisor.model import Managed, SleepPolicy, Terms
from warmd.supervisor.ports import Build, Known, Rules
from warmd.supervisor.snapshot import Outlook

__all__ = [
    "Build",
    "CardRules",
    "Cards",
    "Clock",
    "EngineFailure",
    "Events",
    "Known",
    "Look",
    "Managed",
    "Mismatch",
    "Operation",
    "Outlook",
    "Rules",
    "RungChange",
    "SleepPolicy",
    "Supervisor",
    "Terms",
]
