"""The supervisor: owns the replicas and their lanes; every decision is carried out here."""

from warmd.supervisor.events import Clock, EngineFailure, Events, Operation, RungChange
from warmd.supervisor.loop import Build, Known, Rules, Supervisor
from warmd.supervisor.model import Managed, SleepPolicy, Terms
from warmd.supervisor.snapshot import Outlook

__all__ = [
    "Build",
    "Clock",
    "EngineFailure",
    "Events",
    "Known",
    "Managed",
    "Operation",
    "Outlook",
    "Rules",
    "RungChange",
    "SleepPolicy",
    "Supervisor",
    "Terms",
]
