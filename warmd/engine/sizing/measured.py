"""What an engine's start says of its memory, line by line. Pure.

Written against the log lines of vLLM 0.11 to 0.33. A part that several workers tell of is the
largest one's, as each GPU must have room for it; of the KV cache the smallest one's counts, for
vLLM gives no worker more.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from warmd.ladder import MeasuredParts

_GIB = 2**30
_N = r"(-?\d+(?:\.\d+)?)"
_VERSION = re.compile(r"Initializing a V1 LLM engine \(v(\S+?)\)")
_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")
_FIELDS: tuple[tuple[str, Callable[[int, int], int], re.Pattern[str]], ...] = (
    ("weights", max, re.compile(rf"Model loading took {_N} GiB")),
    ("kv_cache", min, re.compile(rf"Available KV cache memory: {_N} GiB")),
    ("kv_cache", min, re.compile(rf"reserved {_N} GiB memory for KV Cache as specified")),
    ("kv_cache", min, re.compile(rf"(?:Explicitly|Auto) set \({_N}/[\d.]+\) GiB for KV cache")),
    ("graphs", max, re.compile(rf"Graph capturing finished in .*, took {_N} GiB")),
    ("planned", max, re.compile(rf"Estimated CUDA graph memory: {_N} GiB total")),
    ("planned", max, re.compile(rf"CUDA graph pool memory: .*, {_N} GiB \(estimated\)")),
    ("weights", max, re.compile(rf"Actual usage is {_N} GiB for weight,")),
    ("consumed", max, re.compile(rf"Actual usage is {_N} GiB for consumed memory")),
    ("peak", max, re.compile(rf"Actual usage is .* {_N} GiB for peak activation")),
    ("other", max, re.compile(rf"Actual usage is .* {_N} GiB for non-torch memory")),
)
_UNPLANNED = "CUDA graph memory profiling is disabled"
_ANY = re.compile(rf"GiB|KV cache size: |V1 LLM engine|{_UNPLANNED}")


class PartsTracker:
    """Follows one start."""

    def __init__(self) -> None:
        self._found: dict[str, int] = {}
        self._tokens: int | None = None
        self._version: str | None = None
        self._unplanned = False

    def line(self, text: str) -> None:
        """Take one line of the engine's output; a line that says nothing is fine."""
        if _ANY.search(text) is None:
            return
        for field, choose, pattern in _FIELDS:
            if (match := pattern.search(text)) is not None:
                size = round(float(match[1]) * _GIB)
                self._found[field] = choose(self._found.get(field, size), size)
        self._unplanned = self._unplanned or _UNPLANNED in text
        if (match := _TOKENS.search(text)) is not None:
            self._tokens = int(match[1].replace(",", "") or 0) or None
        if (match := _VERSION.search(text)) is not None:
            self._version = match[1]

    @property
    def parts(self) -> MeasuredParts | None:
        """What was told so far; None where nothing of a size was."""
        if not self._found:
            return None
        weights, other = self._found.get("weights"), self._found.get("other")
        consumed, peak = self._found.get("consumed"), self._found.get("peak")
        if consumed is not None and weights is not None:
            other = consumed - weights
        if peak is not None and consumed is not None and not self._unplanned:
            # This wording's peak has the graphs in it that vLLM foresaw.
            peak = max(0, peak - self._found.get("planned", 0))
        return MeasuredParts(
            version=self._version or "",
            weights=weights,
            kv_cache=self._found.get("kv_cache"),
            kv_tokens=self._tokens,
            activation=peak,
            graphs=self._at_least_0("graphs"),
            other=None if other is None else max(0, other),  # below 0 with a sleeper's allocator
        )

    def _at_least_0(self, field: str) -> int | None:
        found = self._found.get(field)
        return None if found is None else max(0, found)
