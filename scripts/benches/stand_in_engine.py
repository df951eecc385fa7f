"""A STAND-IN for an engine, made for the gateway's benchmark: it computes nothing, and cheaply.

Raw HTTP/1.1 on a unix socket with a protocol of uvloop: just what warmd needs to take it for ready
(/health, a chat in vLLM's shape) and what the benchmark asks: an answer whole, or streamed in
`max_tokens` chunks. `pace_ms` in the request's body is the length of an engine's step: at each step
every stream of that pace gets one chunk, all at the same moment, as vLLM's scheduler does it.
Without it the chunks come in one go.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

_LIFE_S = 7200.0  # the end of a stand-in that everybody forgot

_HEAD = b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
_NO_BODY = _HEAD + b"content-length: 0\r\n\r\n"
_STREAM_HEAD = (
    _HEAD + b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_ID = {"id": "chatcmpl-8f1c2f0d7a6b4a3c9e5d1b2a3c4d5e6f", "created": 1767225600, "model": "m"}


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


_DELTA = {"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}
CHUNK = _framed(_event({**_ID, "object": "chat.completion.chunk", "choices": [_DELTA]}))
_END = _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _whole() -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "ok"},
        "logprobs": None,
        "finish_reason": "length",
    }
    usage = {"prompt_tokens": 9, "total_tokens": 10, "completion_tokens": 1}
    document = {**_ID, "object": "chat.completion", "choices": [choice], "usage": usage}
    body = json.dumps(document, separators=(",", ":")).encode()
    return _HEAD + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


_WHOLE = _whole()


@dataclass
class _Steps:
    """The streams of one pace, and the clock that they share."""

    length_s: float
    at: float = 0.0
    left: dict[asyncio.Transport, int] = field(default_factory=dict)

    def add(self, stream: asyncio.Transport, chunks: int) -> None:
        if not self.left:
            loop = asyncio.get_running_loop()
            self.at = loop.time() + self.length_s
            loop.call_at(self.at, self._step)
        self.left[stream] = chunks

    def _step(self) -> None:
        for stream, chunks in list(self.left.items()):
            if chunks == 1 or stream.is_closing():
                del self.left[stream]
                stream.write(CHUNK + _END)
            else:
                self.left[stream] = chunks - 1
                stream.write(CHUNK)
        if self.left:
            loop = asyncio.get_running_loop()
            self.at = max(self.at + self.length_s, loop.time())
            loop.call_at(self.at, self._step)


_paces: dict[float, _Steps] = {}


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # a stream's always is one

    def data_received(self, data: bytes) -> None:
        data = self._read + data if self._read else data
        head_end = data.find(b"\r\n\r\n")
        length_at = data.lower().find(b"content-length:", 0, head_end) if head_end > 0 else -1
        length = 0
        if length_at > 0:
            length = int(data[length_at + 15 : data.find(b"\r\n", length_at)])
        if head_end < 0 or len(data) < head_end + 4 + length:
            self._read = data
            return
        self._read = b""
        self._answer(data, data[head_end + 4 :])

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /health "):
            self._transport.write(_NO_BODY)
        elif b'"stream"' not in body:
            self._transport.write(_WHOLE)
        else:
            asked = json.loads(body)
            chunks = asked["max_tokens"]
            pace_ms = asked.get("pace_ms")
            if pace_ms and chunks > 1:
                self._transport.write(_STREAM_HEAD + CHUNK)
                steps = _paces.setdefault(pace_ms, _Steps(pace_ms / 1000))
                steps.add(self._transport, chunks - 1)
            else:
                self._transport.write(_STREAM_HEAD + CHUNK * chunks + _END)


async def _serve(socket: str) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.call_later(_LIFE_S, stop.set)
    await loop.create_unix_server(_Connection, socket, backlog=1024)
    print("INFO: stand-in engine of warmd's benchmark", flush=True)
    print("INFO: Application startup complete.", flush=True)
    await stop.wait()


def main() -> None:
    """Serve until SIGTERM, on the command line that warmd gives to vLLM."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--uds", required=True)
    asked, _ = parser.parse_known_args()
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(asked.uds))
