"""What a probe has measured: `warmctl probe`. Pure, from the daemon's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

from warmd.cli.words import brief, clean
from warmd.ladder import Stage
from warmd.spoken import count, duration

_PLOT = 48
_SCREEN = 80
_EIGHTHS = " ▏▎▍▌▋▊▉"
_STAGES = {stage.value: stage.label for stage in Stage} | {
    "engine": "wake",
    "first_answer": "first answer",
    "canary": "canary",
}


def probe_table(answer: Mapping[str, Any]) -> str:
    """Say in lines what was measured: a table, a plot, and what follows from it."""
    steps = answer["steps"]
    lines = []
    if steps:
        lines += [*_table(steps), "", *_plot(steps), "", *_verdict(answer["model"], steps)]
    if answer["failed"]:
        lines.append(f"ended: {clean(answer['ended'])}")
    return "\n".join(lines)


def _table(steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    wide = _width(steps)
    heads = f"{'first token':>12}{'in all':>10}{'next ten':>12}{'in all':>10}"
    yield f"{'idle':<{wide}}{'met':<8}{heads}"
    for step in steps:
        totals = _median([total for _, total in step["next"]])
        slow = "  slow" if step["slow"] else ""
        yield (
            f"{_idle(step):<{wide}}{step['met']:<8}{brief(step['first_token_s']):>12}"
            f"{brief(step['first_total_s']):>10}{brief(step['usual_s']):>12}{brief(totals):>10}{slow}"
        )
        if not _was_hot(step):
            stages = step["stages"].items()
            parts = [f"{_STAGES[k]} {brief(s)}" for k, s in stages if k in _STAGES and s >= 0.005]
            spent = f": {', '.join(parts)}" if parts else ""
            said = f"before, it got hot in {brief(step['came_up_s'])}{spent}"
            yield from (f"{'':{wide}}{line}" for line in wrap(said, _SCREEN - wide))
        if step["restarts"]:
            yield f"{'':{wide}}users came {count(step['restarts'], 'time')}, and it began anew"
    yield "(median of ten; asked at the engine: no gateway, no queue)"


def _plot(steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    wide = _width(steps)
    longest = max(max(step["first_token_s"], step["usual_s"]) for step in steps)
    for step in steps:
        for label, seconds in (("first", step["first_token_s"]), ("next", step["usual_s"])):
            head = _idle(step) if label == "first" else ""
            yield f"{head:<{wide}}{label:<6}{_bar(seconds, longest)} {brief(seconds)}"


def _width(steps: Sequence[Mapping[str, Any]]) -> int:
    """Return how wide the column of idle times is, with the gap after it."""
    return max(10, *(len(_idle(step)) + 2 for step in steps))


def _bar(seconds: float, longest: float) -> str:
    eighths = max(1, round(8 * _PLOT * seconds / longest)) if longest else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _verdict(model: str, steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for step in steps:
        if not _was_hot(step):
            wait = brief(step["came_up_s"] + step["first_token_s"])
            yield f"{model}: a request that meets it {step['met']} waits {wait} for its first token"
    idle = [step for step in steps if _was_hot(step)]
    slow = [step for step in idle if step["slow"]]
    quick = [step for step in idle if not step["slow"]]
    if not idle:
        return
    if not slow:
        longest = max(idle, key=lambda step: step["idle_s"])
        yield f"{model}: the first request after {_idle(longest)} is as quick as the next ones"
        return
    first = min(slow, key=lambda step: step["idle_s"])
    more = brief(first["first_token_s"] - first["usual_s"])
    yield f"{model}: the first request after {_idle(first)} waits {more} longer than the next ones"
    before = [step for step in quick if step["idle_s"] < first["idle_s"]]
    if before:
        longest = max(before, key=lambda step: step["idle_s"])
        every, s = _idle(longest), longest["idle_s"]
        often = f"{round(s / 60)}m" if s >= 90 else f"{max(1, round(s))}s"
        yield f'after {every} it doesn\'t, so keepalive.every = "{often}" would help'


def _median(seconds: list[float]) -> float:
    # Of its own: `statistics` would cost each warmctl some milliseconds.
    ranked = sorted(seconds)
    return (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2


def _idle(step: Mapping[str, Any]) -> str:
    return duration(step["idle_s"]) if _was_hot(step) else "none"


def _was_hot(step: Mapping[str, Any]) -> bool:
    return bool(step["met"] == "hot")
