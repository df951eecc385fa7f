"""The stream: a request to an engine, its answer back to the client, byte for byte as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from warmd.gateway.connection import Connection
from warmd.gateway.errors import Dialect, RefusedError
from warmd.gateway.headers import response_headers
from warmd.gateway.naming import Body
from warmd.gateway.paths import Endpoint

_AUTOMATIC = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""What the HTTP library would add where the client sent none."""

# An answer may take as long as it takes; only the connect to a socket of this host is bounded.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10.0)

_LOST = (aiohttp.ClientError, OSError)

_SLICE = 1 << 18


class EngineLostError(Exception):
    """An engine broke off before the first byte of its answer: nothing has reached the client."""


@dataclass(frozen=True)
class Answer:
    """An engine's answer from its head on; `first` is empty where it has no body."""

    response: aiohttp.ClientResponse
    first: bytes


async def ask(
    session: aiohttp.ClientSession, path: str, headers: Mapping[str, str], body: Body
) -> Answer:
    """Send a request and wait for the first byte of the answer's body.

    Waiting for the body, not for the head alone, keeps the whole time in the engine's queue and
    prefill within reach of a second try. Raises `EngineLostError`. The caller closes the response.
    """
    if session.closed:
        raise EngineLostError
    try:
        response = await session.post(
            path,
            data=body if len(body) <= _SLICE else _SlicedPayload(body),
            headers=headers,
            skip_auto_headers=_AUTOMATIC,
            allow_redirects=False,
            auto_decompress=False,
            timeout=_TIMEOUT,
        )
    except _LOST as error:
        raise EngineLostError from error
    try:
        return Answer(response, await response.content.readany())
    except _LOST as error:
        response.close()
        raise EngineLostError from error
    except BaseException:
        response.close()
        raise


async def pass_on(
    request: web.BaseRequest,
    answer: Answer,
    endpoint: Endpoint,
    model: str,
    *,
    last: bool,
    cut_off: Callable[[], RefusedError | None],
) -> tuple[web.StreamResponse, RefusedError | None]:
    """Write `answer` to the client as it comes; `last` says so to the client's connection.

    Returns the response, and None where it is whole. If not, the engine broke off, or this was
    cancelled and `cut_off` says why; the client was told so and its connection is cut. Raises
    `ConnectionError` where the client has gone.
    """
    upstream = answer.response
    response = _OnePacketResponse(
        status=upstream.status,
        reason=upstream.reason,
        headers=response_headers(upstream.headers),
    )
    # Without chunks, the end of an HTTP/1.0 answer is the end of its connection.
    if last or request.version < HttpVersion11:
        response.force_close()
    writer = await response.prepare(request)
    if writer is None:
        raise ConnectionResetError
    read = upstream.content.readany
    write = writer.write
    chunk = answer.first
    try:
        while chunk:
            await write(chunk)
            try:
                chunk = await read()
            except _LOST:
                lost = RefusedError(
                    502,
                    f"The engine of {model} broke off in the middle of its answer: "
                    "send the request again.",
                    code="engine_lost",
                )
                await _cut(request, response, writer, endpoint.dialect, lost)
                return response, lost
    except asyncio.CancelledError:
        if (why := cut_off()) is None:
            raise
        await _cut(request, response, writer, endpoint.dialect, why)
        return response, why
    await response.write_eof()
    return response, None


async def _cut(
    request: web.BaseRequest,
    response: web.StreamResponse,
    writer: AbstractStreamWriter,
    dialect: Dialect,
    why: RefusedError,
) -> None:
    """End the client's connection so that a half answer can't be taken for a whole one."""
    headers = response.headers
    if headers.get("Content-Type", "").startswith("text/event-stream"):
        await writer.write(dialect.event(why))
    elif request.version < HttpVersion11 and "Content-Length" not in headers:
        # Here the connection's end is the answer's end, and only a reset tells the difference.
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.reset()
    request.protocol.force_close()


class _OnePacketResponse(web.StreamResponse):
    """Its head goes out with the first chunk: one packet, one system call."""

    _send_headers_immediately = False


class _SlicedPayload(aiohttp.Payload):
    """A large body, written in slices as the engine takes them, and not copied."""

    _value: Body
    _autoclose = True

    def __init__(self, value: Body) -> None:
        super().__init__(value)
        self._size = len(value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        view = memoryview(self._value)
        for at in range(0, len(view), _SLICE):
            await writer.write(view[at : at + _SLICE])
