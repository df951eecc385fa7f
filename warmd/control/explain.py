"""GET /explain: where a model stands, what its calendar says, and what moved it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Protocol

from aiohttp import web

from warmd.control.handler import Handler, Observed, Resolve, trouble
from warmd.history import Start
from warmd.status import CalendarStatus, Decision, WarmupCron


class Explains(Observed, Protocol):
    """Who knows what moved a model."""

    async def decisions(self, model: str) -> Sequence[Decision]:
        """The last changes of rung of `model` (its own name), newest first."""

    def calendar(self, model: str) -> CalendarStatus | None:
        """What the calendar of `model` (its own name) says, None where it has none."""

    def warmup_crons(self, model: str) -> Sequence[WarmupCron]:
        """The cron entries that ask `model` (its own name) for a warm-up request or a probe."""

    async def last_starts(self, model: str) -> Sequence[Start]:
        """The last starts of `model` (its own name) that got ready, newest first."""


def explain_handler(models: Explains, resolve: Resolve) -> Handler:
    """Make the handler."""

    async def handle(request: web.Request) -> web.Response:
        model = resolve(request.query.get("model", ""))
        status = models.snapshot()
        decisions = [asdict(each) for each in await models.decisions(model)]
        facts = asdict(status.models[model])
        starts = [asdict(each) for each in await models.last_starts(model)]
        told = {"time": status.time, "model": facts, "starts": starts, "decisions": decisions}
        if (calendar := models.calendar(model)) is not None:
            told["calendar"] = asdict(calendar)
        if crons := models.warmup_crons(model):
            told["warmup_crons"] = [asdict(each) for each in crons]
        return web.json_response(told | trouble(models))

    return handle
