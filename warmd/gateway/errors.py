"""What the gateway says when it can't pass a request on, in the client's own dialect."""

from __future__ import annotations

import json
from enum import Enum


class GatewayError(Exception):
    """The gateway can't do its work. The text is one sentence: what, why, what to do."""


class RefusedError(Exception):
    """A request ends here, with `status` and one sentence for the person who sent it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.allow = allow


_OPENAI_TYPES = {429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Dialect(Enum):
    """The error shapes that the official clients understand."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"

    def body(self, refused: RefusedError) -> bytes:
        """Return the JSON body of an error answer."""
        return json.dumps(self._document(refused)).encode()

    def event(self, refused: RefusedError) -> bytes:
        """Return a server-sent event that tells of an error inside a stream.

        The blank line in front ends an event that the engine left half said.
        """
        return self.event_of(json.dumps(self._document(refused)).encode())

    def event_of(self, error: bytes) -> bytes:
        """Return the event for an error that is JSON in this shape already.

        What is none, as an engine's proxy may say it, is put into one.
        """
        try:
            data = json.dumps(json.loads(error)).encode()
        except ValueError:
            return self.event(RefusedError(502, error.decode("utf-8", "replace")[:500]))
        match self:
            case Dialect.OPENAI:
                return b"\n\ndata: " + data + b"\n\n"
            case Dialect.ANTHROPIC:
                return b"\n\nevent: error\ndata: " + data + b"\n\n"

    def _document(self, refused: RefusedError) -> dict[str, object]:
        ours = refused.status >= 500
        match self:
            case Dialect.OPENAI:
                default = "server_error" if ours else "invalid_request_error"
                error = {
                    "message": refused.message,
                    "type": _OPENAI_TYPES.get(refused.status, default),
                    "param": refused.param,
                    "code": refused.code,
                }
                return {"error": error}
            case Dialect.ANTHROPIC:
                default = "api_error" if ours else "invalid_request_error"
                kind = _ANTHROPIC_TYPES.get(refused.status, default)
                return {"type": "error", "error": {"type": kind, "message": refused.message}}
