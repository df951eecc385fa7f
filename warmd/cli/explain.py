"""Why a model stands where it stands: `warmctl explain`. Pure, from the daemon's JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from warmd.cli.starts import start_lines
from warmd.cli.words import (
    clean,
    held_asleep,
    model_notes,
    replica_doing,
    span,
    staged_lines,
    trouble,
    warnings,
)
from warmd.ladder import VramBy
from warmd.spoken import duration, size, standing
from warmd.wall_time import clock

_STEADY = ("ready", "asleep", "down")


def explanation(answer: Mapping[str, Any], local: Callable[[float], time.struct_time]) -> str:
    """Say it in lines: where it is, where it shall be and why, what it does, what moved it.

    Decisions come newest first and are shown oldest first.
    """
    model, decisions, now = answer["model"], answer["decisions"], answer["time"]
    missing = warnings(answer)
    notes = (*model_notes(model, now), *_terms(model))
    notes += tuple(line for line in staged_lines(model) if line not in notes)
    lines = [_stands(model), *(f"  {note}" for note in notes)]
    for replica in model["replicas"]:
        lines.append(
            f"  {replica['name']}: {replica_doing(replica, model, now, beside_notes=True)}"
        )
        why = trouble(replica) or clean(replica["reason"])
        led = "; what led there: " if replica["phase"] in _STEADY else ": "
        lines.append(f"    for {span(now - replica['since'], 1)}{led}{why}")
        lines += [f"    {each}" for each in _replica_notes(replica)]
    lines += _calendar(answer.get("calendar"), now, behind=model.get("rank") == "operator")
    lines += _warmups(answer.get("warmup_crons") or (), now)
    if starts := answer.get("starts"):
        lines.append("its last starts")
    for each in reversed(starts or ()):
        at = time.strftime("%Y-%m-%d %H:%M:%S", local(each["at"]))
        first, *more = start_lines(each)
        lines += [f"  {at}  {each['replica']}  {first}", *(f"    {line}" for line in more)]
    if decisions:
        lines.append("what moved it")
    else:
        lines.append("what moved it is not known" if missing else "nothing has moved it yet")
    for each in reversed(decisions):
        at = time.strftime("%Y-%m-%d %H:%M:%S", local(each["at"]))
        took = "" if each["seconds"] is None else f" in {each['seconds']:.1f} s"
        moved = f"{each['from_rung']} -> {each['to_rung']}{took}"
        lines.append(f"  {at}  {each['replica']}  {moved}: {clean(each['reason'])}")
    return "\n".join((*lines, *missing))


def _terms(model: Mapping[str, Any]) -> Iterator[str]:
    """What the config makes of it that is no state: its pool, and whether it can sleep."""
    if model.get("pool"):
        by = VramBy(model.get("vram_by", VramBy.DECLARED)).words
        yield f"takes {size(model['vram'])} of pool {model['pool']} for each engine, {by}"
    if model.get("keepalive"):
        yield clean(f"keep-alive: {model['keepalive']}")
    if model.get("cannot_sleep"):
        yield clean(f"can't sleep: {model['cannot_sleep']}")


def _calendar(calendar: Mapping[str, Any] | None, now: float, *, behind: bool) -> Iterator[str]:
    """List its calendar, what of it rules now, and what it says next, in its own time zone.

    `behind`: an operator's word goes before it.
    """
    if calendar is None:
        return
    zone = calendar["timezone"]
    rules = "would rule now without the operator's word" if behind else "rules now"
    yield f"its calendar ({zone}), what {rules} marked with *"
    for each in calendar["entries"]:
        since, until = (
            None if each[key] is None else clock(each[key], now, zone) for key in ("since", "until")
        )
        if each["is_open"] is None:
            when = "has not fired yet" if since is None else f"fired {since}"
            when += ", never fires again" if until is None else f", fires next {until}"
        elif each["is_open"]:
            when = f"open since {since}" if until is None else f"open since {since} until {until}"
        else:
            when = "closed for good" if until is None else f"closed until {until}"
        mark = "*" if each["rules"] else " "
        yield f"  {mark} " + clean(
            f"{each['words']}: {standing(each['rung'], each['replicas'])}; {when}"
        )
    yield "what it says next" if calendar["changes"] else "nothing of that changes"
    for each in calendar["changes"]:
        yield f"  {clock(each['at'], now, zone)}  {clean(_said(each))}"


def _warmups(crons: Sequence[Mapping[str, Any]], now: float) -> Iterator[str]:
    """List the cron entries that ask for warm-up requests and probes, with their times."""
    if crons:
        yield f"its warm-up requests and probes ({crons[0]['timezone']}), sent while it is hot"
    for each in crons:
        last, following = (
            None if each[key] is None else clock(each[key], now, each["timezone"])
            for key in ("last", "next")
        )
        fired = "has not fired yet" if last is None else f"fired {last}"
        next_one = "never fires again" if following is None else f"fires next {following}"
        yield f"    {clean(each['words'])}; {fired}, {next_one}"


def _said(change: Mapping[str, Any]) -> str:
    if change["rung"] is None:
        return "nothing: it follows demand, and rests else"
    return f"{standing(change['rung'], change['replicas'])}: {change['words']}"


def _replica_notes(replica: Mapping[str, Any]) -> Iterator[str]:
    if replica.get("stale"):
        yield "its settings have changed: it is made anew when its turn comes"
    if slept := replica.get("sleep"):
        times = "once" if slept["cycles"] == 1 else f"{slept['cycles']} times"
        held = held_asleep(slept) if replica["phase"] != "asleep" else ""
        keeps = f"; asleep it holds {held}" if held else ""
        wake = slept["last_wake"]
        woke = "" if wake is None else f", its last wake {duration(sum(wake.values()))}"
        yield f"slept {times}: its last fall took {duration(slept['seconds'])}{woke}{keeps}"


def _stands(model: Mapping[str, Any]) -> str:
    name, rung, target = model["name"], model["rung"], model["target"]
    reason = clean(model["reason"])
    if rung == target:
        return f"{name} is {rung}, as it shall be: {reason}"
    return f"{name} is {rung} and shall be {target}: {reason}"
