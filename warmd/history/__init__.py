"""What happened, kept: starts, sleeps, decisions, requests in SQLite; log lines in the journal."""

from warmd.history.journal import (
    JournalHandler,
    TerminalFormatter,
    journal_handler,
    terminal_format,
)
from warmd.history.openings import KeptOpening
from warmd.history.overrides import StoredOverride
from warmd.history.past import Asked, Failed, Occupied, Past, Took, Waited, read_past
from warmd.history.report import HistoryError, ModelReport, Report, Start
from warmd.history.rises import Rises, read_rises
from warmd.history.sizes import read_sizes
from warmd.history.store import HISTORY_FILE, History
from warmd.history.synthetic import Probed, SyntheticCounts

__all__ = [
    "HISTORY_FILE",
    "Asked",
    "Failed",
    "History",
    "HistoryError",
    "JournalHandler",
    "KeptOpening",
    "ModelReport",
    "Occupied",
    "Past",
    "Probed",
    "Report",
    "Rises",
    "Start",
    "StoredOverride",
    "SyntheticCounts",
    "TerminalFormatter",
    "Took",
    "Waited",
    "journal_handler",
    "read_past",
    "read_rises",
    "read_sizes",
    "terminal_format",
]
