"""An engine that keeps every byte it is sent, and has h11 judge what requests these bytes are."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import h11

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@dataclass(frozen=True)
class Judged:
    """One request as h11, which shares no line with the gateway's parser, understands it."""

    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def field(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]


@dataclass
class _Heard:
    """What came in on one connection."""

    raw: bytearray = field(default_factory=bytearray)
    requests: list[Judged] = field(default_factory=list)
    wrong: str | None = None


class ListeningPost:
    """An engine on a unix socket. `requests`: what came, in order; `wrong`: what wasn't HTTP."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._heard: list[_Heard] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def requests(self) -> list[Judged]:
        return [each for heard in self._heard for each in heard.requests]

    @property
    def wrong(self) -> list[str]:
        return [f"{heard.wrong}: {bytes(heard.raw)!r}" for heard in self._heard if heard.wrong]

    def forget(self) -> None:
        for heard in self._heard:
            heard.raw.clear()
            heard.requests.clear()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        heard = _Heard()
        self._heard.append(heard)
        try:
            with contextlib.suppress(ConnectionError):
                await self._answer(heard, reader, writer)
        finally:
            writer.close()
            self._writers.discard(writer)

    async def _answer(
        self, heard: _Heard, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        judge = h11.Connection(h11.SERVER)
        request: h11.Request | None = None
        body = bytearray()
        while True:
            try:
                event = judge.next_event()
            except h11.RemoteProtocolError as error:
                heard.wrong = str(error)
                return
            match event:
                case h11.NEED_DATA:
                    data = await reader.read(65536)
                    heard.raw += data
                    if not data and request is None:
                        return
                    judge.receive_data(data)
                case h11.Request():
                    request, body = event, bytearray()
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage():
                    assert request is not None
                    fields = tuple((bytes(n), bytes(v)) for n, v in request.headers)
                    heard.requests.append(
                        Judged(request.method, request.target, fields, bytes(body))
                    )
                    request = None
                    judge.send(h11.Response(status_code=200, headers=[("Content-Length", "2")]))
                    judge.send(h11.Data(data=b"{}"))
                    judge.send(h11.EndOfMessage())
                    writer.write(ANSWER)
                    await writer.drain()
                    judge.start_next_cycle()
                case _:
                    return
