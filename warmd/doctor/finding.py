"""What the doctor says of one thing: how bad it is, in a sentence, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters, the worst first."""

    PROBLEM = "problem"  # something doesn't work
    WARNING = "warning"  # it works worse than it should, or will fail one day
    NOTE = "note"  # good to know, nothing to mend
    OK = "ok"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `remedy` is empty where there is nothing to do.

    What follows a line's end in it is a command, to be shown on a line of its own.
    """

    level: Level
    subject: str
    sentence: str
    remedy: str = ""


def problem(subject: str, sentence: str, remedy: str) -> Finding:
    """Say what doesn't work."""
    return Finding(Level.PROBLEM, subject, sentence, remedy)


def warning(subject: str, sentence: str, remedy: str) -> Finding:
    """Say what works worse than it should."""
    return Finding(Level.WARNING, subject, sentence, remedy)


def note(subject: str, sentence: str, remedy: str = "") -> Finding:
    """Say what is good to know."""
    return Finding(Level.NOTE, subject, sentence, remedy)


def ok(subject: str, sentence: str) -> Finding:
    """Say what is in order."""
    return Finding(Level.OK, subject, sentence)
