"""POST /reload and /plan: read the config again, or say what that or the calendars would move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from aiohttp import web

from warmd.control.asked import read_ahead, read_asked, read_file
from warmd.control.handler import Handler
from warmd.control.refusal import refusals
from warmd.foresight import Foresight
from warmd.timeline import Agenda


class Reloads(Protocol):
    """Who reads the config, and knows what it would move."""

    async def reload(self) -> Sequence[str]:
        """Read the config again; return what changes.

        Raises `ConfigError`, and `ValueError` with a sentence where it is refused.
        """

    async def plan(self, config: Path | None) -> Foresight:
        """What a reload of `config`, None: of its own config, would do.

        Raises `ConfigError`, and `ValueError` with a sentence where it is refused.
        """

    async def agenda(self, next_s: float, config: Path | None) -> Agenda:
        """What calendars move in the next `next_s` seconds, also under `config`.

        Raises as `plan` does.
        """


def reload_handler(owner: Reloads) -> Handler:
    """Make the handler of /reload."""

    async def handle(_: web.Request) -> web.Response:
        with refusals("the running config stays in force"):
            return web.json_response({"changes": list(await owner.reload())})

    return handle


def plan_handler(owner: Reloads) -> Handler:
    """Make the handler of /plan."""

    async def handle(request: web.Request) -> web.Response:
        asked = read_asked(await request.read(), ("config", "next"))
        config, ahead = read_file(asked.get("config")), read_ahead(asked.get("next"))
        with refusals("a reload would be refused, and the running config would stay in force"):
            soon = None if ahead is None else await owner.agenda(ahead, config)
            told = soon or await owner.plan(config)
            return web.json_response(asdict(told))

    return handle
