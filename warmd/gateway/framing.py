"""How an answer goes to the client: its head as it is passed on, and where its body ends."""

from __future__ import annotations

from enum import Enum

from warmd.gateway.answer import AnswerHead
from warmd.gateway.reply import connection_line
from warmd.gateway.request import Request
from warmd.gateway.visit import Visit

LAST_CHUNK = b"0\r\n\r\n"


class Framing(Enum):
    """How the client learns where the body ends."""

    LENGTH = "length"  # the engine's own Content-Length says it
    CHUNKS = "chunks"
    CLOSE = "close"  # by the connection's end, as HTTP/1.0 knows no chunks

    @staticmethod
    def of(length: int | None, *, is_1_0: bool) -> Framing:
        """Choose for a body of that many bytes; None: nobody knows yet."""
        if length is not None:
            return Framing.LENGTH
        return Framing.CLOSE if is_1_0 else Framing.CHUNKS

    def framed(self, piece: bytes) -> bytes:
        """Return a piece as it goes to the client."""
        match self:
            case Framing.CHUNKS:
                return b"%x\r\n%b\r\n" % (len(piece), piece)
            case Framing.LENGTH | Framing.CLOSE:
                return piece

    @property
    def line(self) -> bytes:
        """The field that says so, where it isn't one of the engine's."""
        return b"Transfer-Encoding: chunked\r\n" if self is Framing.CHUNKS else b""


def passed_on(
    head: AnswerHead, framing: Framing, request: Request, visit: Visit, *, keeps: bool
) -> bytes:
    """Write an engine's head as the client gets it."""
    return b"".join(
        (
            head.passed_on,
            framing.line,
            _told(request, visit),
            connection_line(keeps=keeps, is_1_0=request.is_1_0),
            b"\r\n",
        )
    )


def before_the_engine(framing: Framing, request: Request, visit: Visit, *, keeps: bool) -> bytes:
    """Write the head of a stream that begins with words of ours, before any engine has spoken."""
    return b"".join(
        (
            b"HTTP/1.1 200 OK\r\nServer: warmd\r\n",
            b"Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n",
            framing.line,
            _told(request, visit),
            connection_line(keeps=keeps, is_1_0=request.is_1_0),
            b"\r\n",
        )
    )


def _told(request: Request, visit: Visit) -> bytes:
    """Write what warmd tells of its own; a replica and a wait only where they are known."""
    told = b"X-Request-Id: %b\r\nX-Warmd-Rung: %b\r\n" % (
        request.identity.encode(),
        visit.met.value.encode(),
    )
    if visit.waited_s is None or visit.replica is None:
        return told
    return told + b"X-Warmd-Waited: %.3f\r\nX-Warmd-Replica: %b\r\n" % (
        visit.waited_s,
        visit.replica.encode(),
    )
