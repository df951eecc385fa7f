"""What happened, kept: starts, sleeps, decisions, requests in SQLite; log lines in the journal."""

from warmd.history.journal import (
    JournalHandler,
    TerminalFormatter,
    journal_handler,
    terminal_format,
)
from warmd.history.report import HistoryError, ModelReport, Report, Start
from warmd.history.rises import Rises, read_rises
from warmd.history.sizes import read_sizes
from warmd.history.store import HISTORY_FILE, History, StoredOverride

__all__ = [
    "HISTORY_FILE",
    "History",
    "HistoryError",
    "JournalHandler",
    "ModelReport",
    "Report",
    "Rises",
    "Start",
    "StoredOverride",
    "TerminalFormatter",
    "journal_handler",
    "read_rises",
    "read_sizes",
    "terminal_format",
]
