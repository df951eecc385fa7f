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
from warmd.supervisor.model import Managed
from warmd.supervisor.ports import Build, Known, Rules, Scan
from warmd.supervisor.presence import Presence, Standing
from warmd.supervisor.shelf import Held
from warmd.supervisor.snapshot import Outlook
from warmd.supervisor.standing import spared, standings
from warmd.supervisor.terms import FileTerms, SleepPolicy, Terms
from warmd.supervisor.timetable import calendar_status
from warmd.supervisor.wards import Examination, as_numbered

__all__ = [
    "Build",
    "CardRules",
    "Cards",
    "Clock",
    "EngineFailure",
    "Events",
    "Examination",
    "FileTerms",
    "Held",
    "Known",
    "Look",
    "Managed",
    "Mismatch",
    "Operation",
    "Outlook",
    "Presence",
    "Quarantine",
    "Rules",
    "RungChange",
    "Scan",
    "SleepPolicy",
    "Standing",
    "Supervisor",
    "Terms",
    "as_numbered",
    "calendar_status",
    "spared",
    "standings",
]
