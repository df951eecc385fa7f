"""How long a client is willing to wait for its model, by its own word."""

from __future__ import annotations

import re

from warmd.gateway.errors import RefusedError
from warmd.gateway.paths import clip

HEADER = "X-Warmd-Max-Wait"

_SECONDS = re.compile(r"\d{1,6}(?:\.\d{1,6})?", re.ASCII)


def max_wait_of(header: str | None) -> float | None:
    """Return the seconds that the header says; None where the request has none.

    0 is to be told at once where the model isn't ready. Raises `RefusedError` with 400 where it is
    no number.
    """
    if header is None:
        return None
    text = header.strip(" \t")
    if _SECONDS.fullmatch(text) is None:
        raise RefusedError(
            400,
            f"{HEADER} must be a number of seconds, such as 30 or 2.5 (got {clip(text)}).",
            param=HEADER,
            code="bad_max_wait",
        )
    return float(text)
