"""Which header fields go through the gateway."""

from __future__ import annotations

from multidict import CIMultiDict, MultiMapping

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""RFC 9110, 7.6.1, and what came before it."""

_NOT_FOR_ENGINES = _HOP_BY_HOP | {
    "authorization",  # the gateway's keys are not the engines'
    "x-api-key",
    "content-length",  # told anew
    "expect",  # answered by the gateway
    "host",
}


def request_headers(headers: MultiMapping[str]) -> CIMultiDict[str]:
    """Return a client's header fields as an engine gets them."""
    return _without(headers, _NOT_FOR_ENGINES)


def response_headers(headers: MultiMapping[str]) -> CIMultiDict[str]:
    """Return an engine's header fields as the client gets them."""
    kept = _without(headers, _HOP_BY_HOP)
    # Else the HTTP library writes its own name and version.
    kept.setdefault("Server", "warmd")
    return kept


def _without(headers: MultiMapping[str], dropped: frozenset[str]) -> CIMultiDict[str]:
    named = headers.getall("Connection", ())
    if named:
        dropped = dropped | {token.strip().lower() for token in ",".join(named).split(",")}
    kept = [(name, value) for name, value in headers.items() if name.lower() not in dropped]
    return CIMultiDict(kept)
