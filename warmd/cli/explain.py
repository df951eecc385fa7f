"""Why a model stands where it stands: `warmctl explain`. Pure, from the daemon's JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from warmd.cli.words import clean, model_notes, replica_doing, span, trouble


def explanation(
    model: Mapping[str, Any],
    decisions: Sequence[Mapping[str, Any]],
    now: float,
    local: Callable[[float], time.struct_time],
) -> str:
    """Say it in lines: where it is, where it shall be and why, what it does, what moved it.

    `decisions` come newest first and are shown oldest first; `now` is Unix seconds.
    """
    lines = [_stands(model), *(f"  {note}" for note in model_notes(model, now))]
    for replica in model["replicas"]:
        lines.append(f"  {replica['name']}: {replica_doing(replica, model, now)}")
        why = trouble(replica) or clean(replica["reason"])
        lines.append(f"    for {span(now - replica['since'], 1)}: {why}")
    lines.append("what moved it" if decisions else "nothing has moved it yet")
    for each in reversed(decisions):
        at = time.strftime("%Y-%m-%d %H:%M:%S", local(each["at"]))
        took = "" if each["seconds"] is None else f" in {each['seconds']:.1f} s"
        moved = f"{each['from_rung']} -> {each['to_rung']}{took}"
        lines.append(f"  {at}  {each['replica']}  {moved}: {clean(each['reason'])}")
    return "\n".join(lines)


def _stands(model: Mapping[str, Any]) -> str:
    name, rung, target = model["name"], model["rung"], model["target"]
    reason = clean(model["reason"])
    if rung == target:
        return f"{name} is {rung}, as it shall be: {reason}"
    return f"{name} is {rung} and shall be {target}: {reason}"
