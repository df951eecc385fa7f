"""What the engine room raises."""

from __future__ import annotations


class EngineError(Exception):
    """Something of an engine can't be prepared. The text is one sentence: what, why, what to do."""


class WarmupError(EngineError):
    """The first real request was not answered rightly."""
