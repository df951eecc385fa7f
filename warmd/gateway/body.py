"""Reading a request's body whole, within bounds."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from aiohttp import web

from warmd.gateway.errors import RefusedError
from warmd.gateway.limits import GatewayLimits
from warmd.gateway.naming import Body


class BodyBudget:
    """The sum of all bodies that are held at one time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def take(self, size: int) -> None:
        """Count `size` more bytes; raises `RefusedError` with 503 where they are too many."""
        if self.held + size > self._limit:
            raise RefusedError(
                503,
                f"The gateway holds {self.held:,} bytes of waiting requests and takes no more "
                "until some are passed on: try again in a second.",
                code="gateway_full",
                retry_after_s=1,
            )
        self.held += size


class HeldBody:
    """One request's body, counted in the budget until it is dropped, as leaving `with` does."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._counted = 0
        self.data: Body = b""

    def add(self, chunk: bytes) -> None:
        """Take in more of the body; raises `RefusedError`."""
        self._budget.take(len(chunk))
        self._counted += len(chunk)
        if not self.data:
            self.data = chunk  # mostly it comes in one piece, which is not copied
            return
        if isinstance(self.data, bytes):
            self.data = bytearray(self.data)
        self.data += chunk

    def drop(self) -> None:
        """Let go of the body; doing it again does nothing."""
        self._budget.held -= self._counted
        self._counted = 0
        self.data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drop()


async def read_body(request: web.BaseRequest, limits: GatewayLimits, body: HeldBody) -> None:
    """Read the whole body, as it comes, into `body`.

    Raises `RefusedError`: 413 before a byte is read where Content-Length says too much, 415 for a
    compressed body (vLLM takes none, and a small one may unfold to gigabytes), 408, 400, 503.
    """
    declared = request.content_length
    if declared is not None and declared > limits.max_body:
        raise _too_large(limits.max_body)
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise RefusedError(
            415,
            "Compressed request bodies are not accepted: send it without Content-Encoding.",
            code="unsupported_encoding",
        )
    _answer_expectation(request)
    try:
        async with asyncio.timeout(limits.body_timeout):
            await _read(request, limits.max_body, body)
    except TimeoutError:
        raise RefusedError(
            408,
            f"The body did not come within {limits.body_timeout:g} seconds.",
            code="body_timeout",
        ) from None
    except web.RequestPayloadError:
        raise RefusedError(400, "The body's framing is broken.", code="bad_framing") from None


async def _read(request: web.BaseRequest, max_body: int, body: HeldBody) -> None:
    content = request.content
    while chunk := await content.readany():
        if len(body.data) + len(chunk) > max_body:
            raise _too_large(max_body)
        body.add(chunk)


def _answer_expectation(request: web.BaseRequest) -> None:
    """Tell a client that asks first (RFC 9110, 10.1.1) to go on: all other checks are passed."""
    expectation = request.headers.get("Expect")
    if expectation is None:
        return
    if expectation.lower() != "100-continue":
        raise RefusedError(417, "Only `Expect: 100-continue` can be met.")
    transport = request.transport
    if transport is not None and not request.content.is_eof():
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _too_large(max_body: int) -> RefusedError:
    return RefusedError(413, f"The body is larger than {max_body:,} bytes.", code="body_too_large")
