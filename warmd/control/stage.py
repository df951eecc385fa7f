"""POST /stage: bring a model's files into RAM now, where nothing is loaded already."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from warmd.control.asked import read_asked, read_seconds, read_word
from warmd.control.handler import Handler, Resolve, trouble
from warmd.control.refusal import RefusedError
from warmd.control.setting import Settles
from warmd.ladder import Rung


class Stages(Settles, Protocol):
    """Who brings files into RAM."""

    def keep_staged(self, model: str, for_s: float | None) -> str:
        """Keep `model` at least staged; return a sentence. Raises `ValueError`."""

    def try_files_again(self, model: str) -> None:
        """Look at once at files of `model` that couldn't be staged."""


def stage_handler(models: Stages, resolve: Resolve) -> Handler:
    """Make the handler."""

    async def handle(request: web.Request) -> web.Response:
        asked = read_asked(await request.read(), ("model", "for"))
        model = resolve(read_word(asked, "model"))
        try:
            said, stages = stage(models, model, read_seconds(asked.get("for"), Rung.STAGED))
        except ValueError as refused:
            raise RefusedError(409, str(refused)) from refused
        await models.settle()
        told: dict[str, object] = {"model": model, "sentence": said, "stages": stages}
        return web.json_response(told | trouble(models))

    return handle


def stage(models: Stages, name: str, for_s: float | None) -> tuple[str, bool]:
    """Keep `name` (its own name) at least staged where it is or shall be less; say what follows.

    What rests staged and isn't goes before others then, and is tried at once.

    Also returns whether its files come into RAM, or stay there: not where an engine has loaded
    them. Raises `ValueError` where it is refused.
    """
    model = models.snapshot().models[name]
    if model.rung >= Rung.ASLEEP:
        return (
            f"{name} is {model.rung}: its engine has loaded its files, nothing is to be done",
            False,
        )
    there_or_rising = model.rung is Rung.STAGED or model.target > Rung.STAGED
    if model.target >= Rung.STAGED and there_or_rising and not model.retired:
        models.try_files_again(name)
        return f"{name} is to be {model.target} anyway: {model.reason}", True
    return models.keep_staged(name, for_s), True
