"""Sets of files on their way into RAM and held there: their state, and what becomes of it."""

from warmd.staged.files import RETRY_S, SHORT_S, StagedFiles, StagedListener
from warmd.staged.ports import Holding, Keeper
from warmd.staged.state import StagedState

__all__ = [
    "RETRY_S",
    "SHORT_S",
    "Holding",
    "Keeper",
    "StagedFiles",
    "StagedListener",
    "StagedState",
]
