"""From the config's tables to what warmd itself asks of a model, and when."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from warmd.calendars import zone_of
from warmd.config import AUTO, Settings
from warmd.cron import Cron
from warmd.engine import ResponseFormat, WarmupSpec

_PROBED_TOKENS = 16
_IN_A_DRAIN = 0.5
"""An engine that is drained waits for a request of warmd's own: it gets half of that time."""

_BOUND = "engine.drain_timeout, of which a request of warmd's own gets half"


@dataclass(frozen=True)
class Asks:
    """What warmd asks of a model by itself; times in seconds.

    `every`: how often a quiet one is kept warm, None never; `auto`: by what is measured. `nightly`:
    when it is probed, after `idle`.
    """

    warmup: WarmupSpec
    keepalive: WarmupSpec
    probe: WarmupSpec
    every: float | None = None
    auto: bool = False
    crons: tuple[Cron, ...] = ()
    nightly: Cron | None = None
    idle: tuple[float, ...] = ()

    @property
    def anything(self) -> bool:
        """Whether there is anything to be asked without an operator."""
        return bool(self.every or self.auto or self.crons or self.nightly)


def warmup_of(settings: Settings, model: str) -> WarmupSpec:
    """Return the warm-up request of `model`."""
    table = settings.models[model].warmup
    return WarmupSpec(
        model,
        table.prompt,
        table.max_tokens,
        table.kind,
        table.timeout,
        adapters=table.adapters,
        temperature=table.temperature,
        top_p=table.top_p,
        seed=table.seed,
        form=_form(table.response_format),
        expect=table.expect,
    )


def asks_of(settings: Settings, model: str) -> Asks:
    """Return all that warmd asks of `model` by itself."""
    table, zone = settings.models[model], zone_of(settings, model)
    warmup, most = warmup_of(settings, model), settings.engine.drain_timeout * _IN_A_DRAIN
    if most < warmup.timeout:
        warmup = replace(warmup, timeout=most, bound_by=_BOUND)
    keep = table.keepalive
    other = keep.prompt is not None or keep.max_tokens is not None
    keepalive = replace(
        warmup,
        prompt=keep.prompt or warmup.prompt,
        max_tokens=keep.max_tokens or warmup.max_tokens,
        # To another question there is another answer.
        form=None if other else warmup.form,
        expect=None if other else warmup.expect,
    )
    tokens = max(_PROBED_TOKENS, warmup.max_tokens)
    bare = replace(warmup, adapters=(), form=None, expect=None, temperature=0.0, top_p=1.0)
    return Asks(
        warmup,
        keepalive,
        probe=replace(bare, max_tokens=tokens, anew=True),
        every=None if keep.every in (None, AUTO) else float(keep.every),
        auto=keep.every == AUTO,
        crons=tuple(Cron(each.at, zone) for each in table.cron if each.warmup),
        nightly=None if table.probe.at is None else Cron(table.probe.at, zone),
        idle=table.probe.idle,
    )


def _form(text: str) -> ResponseFormat | None:
    match text:
        case "text":
            return None
        case "json":
            return ResponseFormat()
        case schema:
            return ResponseFormat(json.loads(schema))
