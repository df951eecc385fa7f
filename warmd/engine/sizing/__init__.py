"""What one engine of a model takes of each GPU: estimated before a start, measured by one."""

from __future__ import annotations

from warmd.engine.sizing.checkpoint import Checkpoint, read_checkpoint
from warmd.engine.sizing.estimate import Estimate, Part, Wanted, estimate
from warmd.engine.sizing.length import check_length
from warmd.engine.sizing.measured import PartsTracker

__all__ = [
    "Checkpoint",
    "Estimate",
    "Part",
    "PartsTracker",
    "Wanted",
    "check_length",
    "estimate",
    "read_checkpoint",
]
