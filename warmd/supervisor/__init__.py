"""The supervisor: owns the replicas and their lanes; every decision is carried out here."""

from warmd.supervisor.events import Clock, EngineFailure, Events, RungChange
from warmd.supervisor.loop import Build, Supervisor
from warmd.supervisor.model import Managed, Terms

__all__ = [
    "Build",
    "Clock",
    "EngineFailure",
    "Events",
    "Managed",
    "RungChange",
    "Supervisor",
    "Terms",
]
