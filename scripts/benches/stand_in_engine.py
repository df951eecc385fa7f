"""A STAND-IN for an engine, made for the benchmarks: it computes nothing, and cheaply.

Raw HTTP/1.1 on a unix socket with a protocol of uvloop: just what warmd needs to take it for ready
(/health, a chat in vLLM's shape, and what is asked of an engine that sleeps or is taken over) and
what a benchmark asks: an answer whole, or streamed in `max_tokens` chunks. `pace_ms` in the
request's body is the length of an engine's step: at each step every stream of that pace gets one
chunk, all at the same moment, as vLLM's scheduler does it. Without it the chunks come in one go.

To fall asleep and to wake take STAND_IN_NAP_MS each (10 where it isn't set). Where STAND_IN_TELLS
names a pipe, each of them, and each completion, is told there in a line of JSON: `what`, and by
this process's clock when it `began` and when it was `done`, in Unix seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import time
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


def _json(document: dict[str, Any]) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode()
    return _HEAD + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def _whole(kind: str, said: dict[str, Any]) -> bytes:
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": "length"}
    usage = {"prompt_tokens": 9, "total_tokens": 10, "completion_tokens": 1}
    return _json({**_ID, "object": kind, "choices": [choice], "usage": usage})


_WHOLE = _whole("chat.completion", {"message": {"role": "assistant", "content": "ok"}})
_COMPLETION = _whole("text_completion", {"text": "ok", "token_ids": [1]})
_VERSION = _json({"version": "0.32.0"})


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
            if stream.is_closing():
                del self.left[stream]
            elif chunks == 1:
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


class _Slumber:
    """Whether it sleeps, and the pipe in which it tells what that took."""

    def __init__(self, nap_s: float, tells: str | None) -> None:
        self._nap_s = nap_s
        self._pipe = None if tells is None else os.open(tells, os.O_WRONLY | os.O_NONBLOCK)
        self.asleep = False

    def turn(self, what: str, *, asleep: bool, answer: asyncio.Transport) -> None:
        """Spend the time, then be `asleep` or awake, tell it, and answer."""
        began = time.time()

        def done() -> None:
            self.asleep = asleep
            answer.write(_NO_BODY)
            self.tell(what, began)

        asyncio.get_running_loop().call_later(self._nap_s, done)

    def tell(self, what: str, began: float) -> None:
        if self._pipe is not None:
            told = {"what": what, "began": began, "done": time.time()}
            os.write(self._pipe, json.dumps(told).encode() + b"\n")


class _Connection(asyncio.Protocol):
    def __init__(self, model: str, slumber: _Slumber) -> None:
        self._model = model
        self._slumber = slumber
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
        path = head[: head.find(b" HTTP/")].partition(b" ")[2].partition(b"?")[0]
        if path != b"/v1/chat/completions":
            self._answer_warmd(path)
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

    def _answer_warmd(self, path: bytes) -> None:
        """Answer what warmd alone asks."""
        write, slumber = self._transport.write, self._slumber
        match path:
            case b"/sleep":
                slumber.turn("sleep", asleep=True, answer=self._transport)
            case b"/wake_up":
                slumber.turn("wake", asleep=False, answer=self._transport)
            case b"/is_sleeping":
                write(_json({"is_sleeping": slumber.asleep}))
            case b"/version":
                write(_VERSION)
            case b"/v1/models":
                write(_json({"object": "list", "data": [{"id": self._model, "object": "model"}]}))
            case b"/v1/completions":
                write(_COMPLETION)
                slumber.tell("completion", time.time())
            case _:  # /health, /metrics
                write(_NO_BODY)


async def _serve(socket: str, model: str) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.call_later(_LIFE_S, stop.set)
    nap_s = float(os.environ.get("STAND_IN_NAP_MS", "10")) / 1000
    slumber = _Slumber(nap_s, os.environ.get("STAND_IN_TELLS"))
    await loop.create_unix_server(lambda: _Connection(model, slumber), socket, backlog=1024)
    print("INFO: stand-in engine of warmd's benchmark", flush=True)
    print("INFO: Application startup complete.", flush=True)
    await stop.wait()


def main() -> None:
    """Serve until SIGTERM, on the command line that warmd gives to vLLM."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--uds", required=True)
    parser.add_argument("--served-model-name", nargs="+", required=True)
    asked, _ = parser.parse_known_args()
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(asked.uds, asked.served_model_name[0]))
