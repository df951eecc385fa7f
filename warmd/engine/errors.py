"""What the engine room raises."""

from __future__ import annotations


class EngineError(Exception):
    """Something of an engine can't be prepared. The text is one sentence: what, why, what to do."""


class WarmupError(EngineError):
    """A real request of warmd's own was not answered rightly."""


class SleepError(EngineError):
    """An engine did not fall asleep, or did not wake up, as it was told."""


class UnprovenError(EngineError):
    """Its weights don't count as verified: that comes first, and no engine is at fault."""


class SizingError(EngineError):
    """A model's files don't say what it will take of a device."""
