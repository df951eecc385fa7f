"""The paths that clients may use: a table, and nothing beside it.

An engine has control paths beside its API (`/sleep`, `/collective_rpc`). So a request is passed on
under the path that stands here, letter by letter, never under the string that the client sent, and
without its query: no path of the table takes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from urllib.parse import parse_qs, unquote

from warmd.gateway.errors import Dialect, RefusedError

MODELS = "/v1/models"
HEALTHZ = "/healthz"
READYZ = "/readyz"


class ModelIn(Enum):
    """Where a request says which model it is for."""

    JSON = "json"
    FORM = "form"


@dataclass(frozen=True)
class Endpoint:
    """A path that engines answer."""

    path: str
    model_in: ModelIn = ModelIn.JSON
    dialect: Dialect = Dialect.OPENAI


@dataclass(frozen=True)
class ModelList:
    """A path that the gateway answers itself: every model, or the one that `name` says."""

    name: str | None = None


@dataclass(frozen=True)
class Health:
    """Whether the daemon lives. No key is asked for: load balancers in front have none."""


@dataclass(frozen=True)
class Readiness:
    """Whether a request for `model` would be answered at once; None: whether the box is of use.

    `every`: each model that should be hot must be, not one of them. No key is asked for.
    """

    model: str | None = None
    every: bool = False


Target = Endpoint | ModelList | Health | Readiness
"""What a request may ask for."""

ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/chat/completions"),
        Endpoint("/v1/completions"),
        Endpoint("/v1/responses"),
        Endpoint("/v1/embeddings"),
        Endpoint("/v1/messages", dialect=Dialect.ANTHROPIC),
        Endpoint("/v1/messages/count_tokens", dialect=Dialect.ANTHROPIC),
        Endpoint("/tokenize"),
        Endpoint("/detokenize"),
        Endpoint("/v1/rerank"),
        Endpoint("/rerank"),
        Endpoint("/v2/rerank"),
        Endpoint("/v1/score"),
        Endpoint("/score"),
        Endpoint("/pooling"),
        Endpoint("/classify"),
        Endpoint("/v1/audio/transcriptions", model_in=ModelIn.FORM),
        Endpoint("/v1/audio/translations", model_in=ModelIn.FORM),
    )
}


def dialect_of(target: str) -> Dialect:
    """Return the error shape for a request target, allowed or not."""
    endpoint = ENDPOINTS.get(target.partition("?")[0])
    return Dialect.OPENAI if endpoint is None else endpoint.dialect


def route(method: str, target: str) -> Target:
    """Find what `target`, the raw string of the request line, asks for.

    Raises `RefusedError` with 404 for whatever is not in the table, and with 405.
    """
    path, _, query = target.partition("?")
    endpoint = ENDPOINTS.get(path)
    if endpoint is not None:
        if method != "POST":
            raise _wrong_method(method, path, "POST")
        return endpoint
    if path == MODELS or path.startswith(f"{MODELS}/"):
        if method != "GET":
            raise _wrong_method(method, MODELS, "GET")
        # The name may hold an encoded slash; it is looked up and goes nowhere else.
        return ModelList(unquote(path[len(MODELS) + 1 :]) or None)
    if path in (HEALTHZ, READYZ):
        if method not in ("GET", "HEAD"):
            raise _wrong_method(method, path, "GET, HEAD")
        return Health() if path == HEALTHZ else _readiness(query)
    raise RefusedError(404, f"There is no {clip(method)} {clip(path)} here.", code="not_found")


def _readiness(query: str) -> Readiness:
    try:
        asked = parse_qs(query, keep_blank_values=True, max_num_fields=10)
    except ValueError:
        asked = {}
    model = asked.get("model", [""])[0]
    return Readiness(model or None, "all" in asked)


def clip(text: str, limit: int = 100) -> str:
    """Shorten a client's words before they are said back, and make them printable."""
    safe = text.encode("ascii", "backslashreplace").decode()
    return safe if len(safe) <= limit else f"{safe[:limit]}..."


def _wrong_method(method: str, path: str, allow: str) -> RefusedError:
    return RefusedError(
        405,
        f"{path} takes {allow}, not {clip(method)}.",
        code="method_not_allowed",
        allow=allow,
    )
