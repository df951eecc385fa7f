"""What a handler of the admin API is, and what each may ask of the owner of the models."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from aiohttp import web

from warmd.status import Status

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.Response]]

Resolve: TypeAlias = Callable[[str], str]
"""Turns a name or alias into a model's own name; raises what the API answers."""


class Observed(Protocol):
    """Who knows how everything stands."""

    def snapshot(self) -> Status:
        """Everything that is so at this moment."""


def trouble(observed: Observed) -> dict[str, str | None]:
    """Return what stands in each answer that rests on the history, or changes it."""
    return {"history_trouble": observed.snapshot().history_trouble}
