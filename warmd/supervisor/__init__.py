"""The supervisor: owns the replicas and their lanes; every decision is carried out here."""

from warmd.supervisor.events import Clock, EngineFailure, Events, RungChange
from warmd.supervisor.loop import Supervisor
from warmd.supervisor.model import Managed

__all__ = ["Clock", "EngineFailure", "Events", "Managed", "RungChange", "Supervisor"]
