"""The heads of requests and responses: what is checked of them, and what of them goes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from warmd.gateway.errors import RefusedError

Fields = list[tuple[bytes, bytes]]
"""Header fields in their order; names in lower case."""

HEAD_MAX = 64 << 10
"""Bytes of a head, request line included."""
FIELDS_MAX = 256

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110, 7.6.1, and what came before it."""

_NOT_FOR_ENGINES = _HOP_BY_HOP | {
    b"authorization",  # the gateway's keys are not the engines'
    b"x-api-key",
    b"content-length",  # told anew
    b"expect",  # answered by the gateway
    b"host",
    b"http2-settings",
    b"x-request-id",  # told anew
    b"x-warmd-max-wait",
}
_OURS = frozenset({b"x-request-id", b"x-warmd-rung", b"x-warmd-waited", b"x-warmd-replica"})
NOT_FOR_CLIENTS = _HOP_BY_HOP | _OURS

_CHECKED = frozenset({b"content-length", b"transfer-encoding", b"host", b"expect"})
_ID_MAX = 128
_ID_BYTES = frozenset(range(0x21, 0x7F))


class RequestHead(NamedTuple):
    """A request's line and header fields. Its framing is sound: see `request_head`."""

    method: str
    target: str
    is_1_0: bool
    fields: Fields
    first: Mapping[bytes, bytes]  # the first field of each name
    length: int | None  # of the body in bytes; None where it comes in chunks
    expects: bool  # 100-continue
    keeps_alive: bool

    def field(self, name: bytes) -> str:
        """Return the first field of that name as text, empty where there is none."""
        return self.first.get(name, b"").decode("utf-8", "surrogateescape")


def request_head(
    method: bytes, target: bytes, version: str, fields: Fields, *, keeps_alive: bool
) -> RequestHead:
    """Take a head that was parsed for one whose end, and whose body's end, nobody can mistake.

    Raises `RefusedError`: 400, 417, 431. RFC 9112, 3.2, 5 and 6.3; stricter where two servers
    were seen to read the same bytes differently.
    """
    if len(fields) > FIELDS_MAX:
        raise too_long()
    if version not in ("1.1", "1.0"):
        raise bad_http(f"HTTP/{version} is not spoken here")
    is_1_0 = version == "1.0"
    length: int | None = None
    hosts = 0
    is_chunked = expects = False
    for name, value in fields:
        if name not in _CHECKED:
            continue
        match name:
            case b"content-length":
                if length is not None or not value.isdigit() or len(value) > 18:
                    raise bad_http("its Content-Length is no single number")
                length = int(value)
            case b"transfer-encoding":
                if is_chunked or is_1_0 or value.lower() != b"chunked":
                    raise bad_http("its Transfer-Encoding is not `chunked`, once")
                is_chunked = True
            case b"host":
                hosts += 1
            case b"expect":
                if value.lower() != b"100-continue":
                    raise RefusedError(417, "Only `Expect: 100-continue` can be met.")
                expects = not is_1_0
            case _:
                pass
    if is_chunked and length is not None:
        raise bad_http("it has both a Content-Length and a Transfer-Encoding")
    if hosts > 1 or not (hosts or is_1_0):
        raise bad_http("it needs one Host")
    return RequestHead(
        method=method.decode("ascii", "replace"),
        target=target.decode("utf-8", "surrogateescape"),
        is_1_0=is_1_0,
        fields=fields,
        first=dict(reversed(fields)),
        length=None if is_chunked else length or 0,
        expects=expects,
        keeps_alive=keeps_alive,
    )


def request_id(head: RequestHead) -> str | None:
    """Return the client's own id of its request where it is one that can be passed on."""
    value = head.first.get(b"x-request-id", b"")
    fits = 0 < len(value) <= _ID_MAX and _ID_BYTES.issuperset(value)
    return value.decode("ascii") if fits else None


def engine_head(path: str, fields: Fields, length: int, identity: str) -> bytes:
    """Write the head of a request to an engine: its path is the table's, never the client's."""
    dropped = _dropped(fields, _NOT_FOR_ENGINES)
    kept = b"".join([b"%b: %b\r\n" % field for field in fields if field[0] not in dropped])
    return (
        b"POST %b HTTP/1.1\r\nHost: engine\r\nContent-Length: %d\r\nX-Request-Id: %b\r\n%b\r\n"
        % (
            path.encode("ascii"),
            length,
            identity.encode("ascii"),
            kept,
        )
    )


def _dropped(fields: Sequence[tuple[bytes, bytes]], always: frozenset[bytes]) -> frozenset[bytes]:
    """Add what `Connection` names to what never goes through."""
    named: set[bytes] = set()
    for name, value in fields:
        if name == b"connection" and value != b"keep-alive":
            named.update(token.strip() for token in value.lower().split(b","))
    return always | named if named else always


def bad_http(why: str = "") -> RefusedError:
    """Refuse bytes that are no request, or could be more than one."""
    because = f": {why}" if why else ""
    return RefusedError(400, f"This is not a valid HTTP/1.1 request{because}.", code="bad_http")


def too_long() -> RefusedError:
    """Refuse a head of too many bytes or fields."""
    return RefusedError(431, "The request's head is too long.", code="head_too_long")
