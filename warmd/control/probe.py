"""/probe: begin to measure first requests, look how far that is, and end it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from aiohttp import web

from warmd.control.asked import read_asked, read_word
from warmd.control.handler import Handler, Resolve
from warmd.control.refusal import RefusedError
from warmd.history import Probed
from warmd.policy import first_delay

_LONGEST_S = 86400.0
_MOST = 12


@dataclass(frozen=True)
class ProbeStatus:
    """A probe: what it does, what it has measured, and why it has ended, where it has."""

    id: int
    model: str
    idle: tuple[float, ...]
    doing: str
    steps: tuple[Probed, ...] = ()
    ended: str | None = None
    failed: bool = False


class Probing(Protocol):
    """Who measures first requests."""

    def begin_probe(self, model: str, idle: tuple[float, ...]) -> ProbeStatus:
        """Measure `model` (its own name) after so many idle seconds each.

        Raises `ValueError` with a sentence.
        """

    def probe(self, number: int) -> ProbeStatus:
        """Return how far it is; raises `LookupError`."""

    def end_probe(self, number: int) -> ProbeStatus:
        """End it; raises `LookupError`."""


def probe_handlers(probing: Probing, resolve: Resolve) -> tuple[Handler, Handler, Handler]:
    """Make the handlers that begin, show and end."""

    async def begin(request: web.Request) -> web.Response:
        asked = read_asked(await request.read(), ("model", "idle"))
        model = resolve(read_word(asked, "model"))
        try:
            return web.json_response(_told(probing.begin_probe(model, _idles(asked.get("idle")))))
        except ValueError as refused:
            raise RefusedError(409, str(refused)) from None

    async def show(request: web.Request) -> web.Response:
        number = request.query.get("id", "")
        return _answer(probing.probe, number if number.isdecimal() else None)

    async def end(request: web.Request) -> web.Response:
        number = read_asked(await request.read(), ("id",)).get("id")
        return _answer(probing.end_probe, number if isinstance(number, int) else None)

    return begin, show, end


def _answer(ask: Callable[[int], ProbeStatus], number: str | int | None) -> web.Response:
    if number is None:
        raise RefusedError(400, '"id" must be the number of a probe')
    try:
        return web.json_response(_told(ask(int(number))))
    except LookupError as unknown:
        raise RefusedError(404, str(unknown)) from None


def _idles(value: object) -> tuple[float, ...]:
    idles = value if isinstance(value, list) else []
    sound = [
        float(each)
        for each in idles
        if isinstance(each, int | float) and not isinstance(each, bool) and 0 <= each <= _LONGEST_S
    ]
    if not 0 < len(sound) == len(idles) <= _MOST:
        raise RefusedError(400, f'"idle" must be 1 to {_MOST} times in seconds, each at most a day')
    return tuple(sorted(set(sound)))


def _told(status: ProbeStatus) -> dict[str, Any]:
    return asdict(status) | {"steps": [_step(each) for each in status.steps]}


def _step(probed: Probed) -> dict[str, Any]:
    tokens = [token for token, *_ in probed.next]
    found = first_delay(probed.idle_s, probed.first_token_s, tokens)
    return asdict(probed) | {"usual_s": found.usual_s, "slow": found.is_slow}
