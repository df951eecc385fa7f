"""What happened, kept: starts, decisions and overrides in SQLite; log lines in the journal."""

from warmd.history.journal import (
    JournalHandler,
    TerminalFormatter,
    journal_handler,
    terminal_format,
)
from warmd.history.store import History, StoredOverride

__all__ = [
    "History",
    "JournalHandler",
    "StoredOverride",
    "TerminalFormatter",
    "journal_handler",
    "terminal_format",
]
