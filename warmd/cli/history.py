"""What happened to the models: `warmctl history`. Pure, from the daemon's JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from warmd.cli.starts import start_lines
from warmd.cli.words import brief, clean, span, warnings
from warmd.spoken import count, duration, size

_LABEL_WIDTH = 14
_FROM_WARM = ("hot", "asleep", "staged", "cold")


def history(answer: Mapping[str, Any], local: Callable[[float], time.struct_time]) -> str:
    """Say it in lines: each model's requests, starts, sleeps, wakes, failures; what moved them.

    Decisions come newest first and are shown oldest first.
    """
    lines = [f"since {_at(answer['since'], local)}, {span(answer['time'] - answer['since'], 1)}"]
    missing = warnings(answer)
    none = "what happened is not known" if missing else "nothing happened"
    if not answer["models"]:
        lines.append(none)
    for name, model in answer["models"].items():
        lines.append(name)
        facts = list(_facts(model, answer["slow_s"], local)) or [("", none)]
        labels = [label for label, _ in facts]
        for n, (label, fact) in enumerate(facts):
            shown = "" if n and label == labels[n - 1] else label
            lines.append(f"  {shown:{_LABEL_WIDTH}}{fact}" if label else f"  {fact}")
    if answer["decisions"]:
        lines.append("what moved it" if len(answer["models"]) == 1 else "what moved them")
    for each in reversed(answer["decisions"]):
        took = "" if each["seconds"] is None else f" in {each['seconds']:.1f} s"
        moved = f"{each['from_rung']} -> {each['to_rung']}{took}"
        at = _at(each["at"], local)
        lines.append(f"  {at}  {each['replica']}  {moved}: {clean(each['reason'])}")
    return "\n".join((*lines, *missing))


def _facts(
    model: Mapping[str, Any], slow_s: float, local: Callable[[float], time.struct_time]
) -> Iterator[tuple[str, str]]:
    if model["requests"]:
        yield from _requests(model["requests"], slow_s)
    for rung in (rung for rung in _FROM_WARM if rung in model["starts"]):
        took = model["starts"][rung]
        yield "starts", f"{took['count']} from {rung}: {_durations(took)}"
    for start in model["last_starts"]:
        first, *more = start_lines(start)
        yield "last starts", f"{_at(start['at'], local)}  {start['replica']}  {first}"
        for line in more:
            yield "last starts", f"  {line}"
    for kind, counts in model.get("synthetic", {}).items():
        yield f"{_SYNTHETIC.get(kind, kind)}s", _synthetic(counts)
    for each in model.get("probes", ()):
        token, usual = brief(each["first_token_s"]), each["next"]
        ranked = sorted(token_s for token_s, *_ in usual)
        after = f"after {duration(each['idle_s'])}"
        if each["met"] != "hot":
            after = f"from {each['met']}, hot in {brief(each['came_up_s'])}"
        then = f"then {brief(ranked[(len(ranked) - 1) // 2])} ({each['source']})"
        yield "probes", f"{_at(each['at'], local)}  {after}: first token {token}, {then}"
    for each in model.get("not_kept", ()):
        why = "" if each["reason"] is None else f": {clean(each['reason'])}"
        late = "not ready" if each["late"] is None else f"{duration(each['late'])} late"
        yield "not in time", f"{_at(each['at'], local)}  {each['name']}: {late}{why}"
    if model["sleeps"]:
        yield "sleeps", _sleeps(model["sleeps"])
    if model["wakes"]:
        tokens = model.get("first_tokens_awake")
        token = "" if tokens is None else f"; first token {_durations(tokens)}"
        yield "wakes", f"{model['wakes']['count']}: {_durations(model['wakes'])}{token}"
    for each in model["failures"]:
        what = count(each["count"], each["what"])
        yield "failed", f"{what}, last {_at(each['last'], local)}: {clean(each['cause'])}"


def _requests(requests: Mapping[str, Any], slow_s: float) -> Iterator[tuple[str, str]]:
    met = ", ".join(f"{requests['met'][r]} {r}" for r in _FROM_WARM if requests["met"].get(r))
    failed = f", {requests['failed']} failed" if requests["failed"] else ""
    yield "requests", f"{requests['count']}{failed}; they met it {met}"
    delays, others = requests["first_delays"], requests["others"]
    told = []
    if delays["count"]:
        slow = f"{delays['slow']} of them over {slow_s:g} s; " if delays["slow"] else ""
        told.append(f"{delays['count']}: {slow}{_mean(delays)}")
    if delays.get("vain"):
        longest = "" if delays["vain"] == 1 else "longest "
        more = " more" if told else ""
        told.append(f"{delays['vain']}{more} waited in vain, {longest}{brief(delays['vain_max'])}")
    if told:
        yield "first delays", "; ".join(told)
    if others["count"]:
        yield "first bytes", f"{others['count']} of a model in use: {_mean(others)}"


_SYNTHETIC = {"keepalive": "keep-alive", "warmup": "warm-up"}


def _synthetic(counts: Mapping[str, Any]) -> str:
    answered, failed = counts["answered"], counts["failed"]
    told = [f"{answered} answered"]
    if answered:
        told.append(
            f"first token mean {brief(counts['first_token_mean'])}, "
            f"longest {brief(counts['first_token_max'])}"
        )
    if failed:
        told.append(f"{failed} failed: {clean(counts['last_failure'] or '')}")
    return "; ".join(told)


def _sleeps(sleeps: Mapping[str, Any]) -> str:
    rehearsed = count(sleeps["rehearsals"], "rehearsal")
    number = f"{sleeps['count']}, {rehearsed}" if sleeps["rehearsals"] else str(sleeps["count"])
    held = [
        f"{size(sleeps[key])} of {where}"
        for key, where in (("host_ram", "host RAM"), ("device_kept", "GPU memory"))
        if sleeps[key] is not None
    ]
    kept = f"; asleep it holds {' and '.join(held)}" if held else ""
    return f"{number}: {_durations(sleeps)}{kept}"


def _durations(took: Mapping[str, Any]) -> str:
    if took["count"] == 1:
        return brief(took["max"])
    return f"half within {brief(took['p50'])}, longest {brief(took['max'])}"


def _mean(waits: Mapping[str, Any]) -> str:
    if waits["count"] == 1:
        return brief(waits["max"])
    return f"mean {brief(waits['mean'])}, longest {brief(waits['max'])}"


def _at(unix: float, local: Callable[[float], time.struct_time]) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", local(unix))
