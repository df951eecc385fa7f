"""Requests counted by model and minute, in memory: no request costs a write to the disk. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields

from warmd.ladder import Rung

SLOW_S = 5.0
"""A first delay of more than this is counted as slow: about here a person stops waiting calmly."""

IN_VAIN_S = 1.0
"""Who got no first byte within this time was refused at once; after it, waited in vain."""


@dataclass(slots=True)
class MinuteCount:
    """The requests for one model that ended within one minute. Sums and maxima are seconds.

    First delays are those of requests that met the model not in use; `first_bytes` counts all
    others that got a first byte, and `ttfb_*` is theirs; `vain`: got none of a model not in use.
    `spared_*`: found the model hot after an idle time only thanks to its calendar, by the rung that
    they would have met without it.
    """

    requests: int = 0
    failed: int = 0  # status 500 or more
    met_hot: int = 0
    met_asleep: int = 0
    met_staged: int = 0
    met_cold: int = 0
    first_delays: int = 0
    slow: int = 0
    first_delay_sum: float = 0.0
    first_delay_max: float = 0.0
    first_bytes: int = 0
    ttfb_sum: float = 0.0
    ttfb_max: float = 0.0
    vain: int = 0
    vain_max: float = 0.0
    spared_asleep: int = 0
    spared_staged: int = 0
    spared_cold: int = 0

    def add(
        self,
        status: int,
        met: Rung,
        first_byte_s: float | None,
        *,
        is_first: bool,
        total_s: float = 0.0,
        spared: Rung | None = None,
    ) -> None:
        """Count one request, which lasted for `total_s` in all; `spared`: what it didn't meet."""
        self.requests += 1
        self.spared_asleep += spared is Rung.ASLEEP
        self.spared_staged += spared is Rung.STAGED
        self.spared_cold += spared is Rung.COLD
        if status >= 500:
            self.failed += 1
        if met is Rung.HOT:
            self.met_hot += 1
        elif met is Rung.ASLEEP:
            self.met_asleep += 1
        elif met is Rung.STAGED:
            self.met_staged += 1
        else:
            self.met_cold += 1
        if first_byte_s is None:
            if is_first and total_s > IN_VAIN_S:
                self.vain += 1
                self.vain_max = max(self.vain_max, total_s)
            return
        if is_first:
            self.first_delays += 1
            self.slow += first_byte_s > SLOW_S
            self.first_delay_sum += first_byte_s
            self.first_delay_max = max(self.first_delay_max, first_byte_s)
        else:
            self.first_bytes += 1
            self.ttfb_sum += first_byte_s
            self.ttfb_max = max(self.ttfb_max, first_byte_s)


_COUNTS = [field.name for field in fields(MinuteCount)]
ADD_MINUTE = (
    f"INSERT INTO requests (model, minute, {', '.join(_COUNTS)})"  # noqa: S608
    f" VALUES (?, ?{', ?' * len(_COUNTS)}) ON CONFLICT (model, minute) DO UPDATE SET "
    + ", ".join(
        f"{name} = max({name}, excluded.{name})"
        if name.endswith("_max")
        else f"{name} = {name} + excluded.{name}"
        for name in _COUNTS
    )
)


class Minutes:
    """The counts that are not handed over yet."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], MinuteCount] = {}
        self._begun: dict[str, int] = {}

    def begins(self, model: str, minute: int) -> bool:
        """Whether this is the first that is heard of a model in `minute`."""
        begun, self._begun[model] = self._begun.get(model), minute
        return begun != minute

    def at(self, model: str, minute: int) -> MinuteCount:
        """Return the count of a model in a minute (Unix seconds / 60), to be added to."""
        count = self._counts.get((model, minute))
        if count is None:
            count = self._counts[model, minute] = MinuteCount()
        return count

    def take(self, but: int | None = None) -> dict[tuple[str, int], MinuteCount]:
        """Hand over every count, by model and minute, but that of the minute that still runs."""
        counts = self._counts
        self._counts = {key: counts.pop(key) for key in list(counts) if key[1] == but}
        return counts
