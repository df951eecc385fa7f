"""What the admin API refuses, and how it says so: one sentence, with an HTTP status."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager

from aiohttp import web

from warmd.config import ConfigError


class RefusedError(Exception):
    """The admin API says no, with an HTTP status. The text is one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class UnknownModelError(LookupError):
    """No model has this name or alias. The text names the nearest one, or all."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        if near:
            hint = f"did you mean {near[0]}?"
        else:
            hint = f"there are {', '.join(names)}" if names else "none is configured"
        super().__init__(f"no model is named {name}: {hint}")


@contextmanager
def refusals(of_a_config: str) -> Iterator[None]:
    """Answer what a config, or the daemon's state, refuses; `of_a_config` is said before faults."""
    try:
        yield
    except ConfigError as error:
        raise RefusedError(422, f"{of_a_config}:\n{error}") from None
    except ValueError as refused:
        raise RefusedError(409, str(refused)) from None


@web.middleware
async def errors_in_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer every refusal in JSON, aiohttp's own too."""
    try:
        return await handler(request)
    except RefusedError as refused:
        return web.json_response({"error": str(refused)}, status=refused.status)
    except UnknownModelError as unknown:
        return web.json_response({"error": str(unknown)}, status=404)
    except web.HTTPException as error:
        sentence = f"{request.method} {request.path}: {error.reason.lower()}"
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return web.json_response({"error": sentence}, status=error.status, headers=allow)
