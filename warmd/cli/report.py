"""What warmth brought and cost: `warmctl report`. Pure, from the daemon's JSON."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from warmd.cli.words import clean, span, warnings
from warmd.ladder import Stage

FROM_WARM = ("hot", "asleep", "staged", "cold")
_WIDTH = 100
_LABEL_WIDTH = 13
_STAGES = {stage.value: stage.label for stage in Stage}

LEGEND = (
    "First delays are waits for a model that was not hot, or idle for over 5 minutes. A wait "
    "counts as spared where a request came after an idle time and met the model hot for its "
    "calendar alone: by the median start or wake from where it would have stood. By hour: the rung "
    "on which it stood most often in each hour of the day: h(ot), a(sleep), s(taged), c(old). An "
    "engine without a GPU counts as one GPU."
)


def report(answer: Mapping[str, Any], local: Callable[[float], time.struct_time]) -> str:
    """Say it in lines of at most 100 columns, model by model."""
    lines = [heading(answer, local)]
    if not answer["models"]:
        missing = bool(warnings(answer))
        lines.append("what happened is not known" if missing else "the history has nothing yet")
    for name, model in answer["models"].items():
        lines.append(name)
        for label, fact in facts(model):
            lines += textwrap.wrap(
                clean(fact),
                _WIDTH,
                initial_indent=f"  {label:{_LABEL_WIDTH}}",
                subsequent_indent=" " * (_LABEL_WIDTH + 2),
                break_long_words=False,
                break_on_hyphens=False,
            )
    if answer["models"]:
        lines += ["", *textwrap.wrap(LEGEND, _WIDTH)]
    return "\n".join((*lines, *warnings(answer)))


def heading(answer: Mapping[str, Any], local: Callable[[float], time.struct_time]) -> str:
    """Say of what time it tells."""
    since = time.strftime("%Y-%m-%d %H:%M", local(answer["since"]))
    return f"since {since}, {span(answer['time'] - answer['since'], 1)}"


def facts(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Say of one model what there is to say, each with a label."""
    if model["requests"]:
        yield from _requests(model)
    else:
        yield "requests", "none"
    if any(model["seconds"].values()):
        yield "stood", _stood(model)
        yield "by hour", f"{by_hour(model['days'])} (00 to 23 o'clock in {model['zone']})"
        yield "GPU-hours", _gpu_hours(model)
    if model["windows"]:
        yield "windows", _windows(model["windows"])
    if any(model["spared"].values()):
        yield "calendar", _spared(model)
    for rung in (rung for rung in FROM_WARM if rung in model["starts"]):
        yield "starts", f"from {rung}, {_took(model['starts'][rung])}"
    if failed := model["failed_starts"]:
        many = "1 start" if failed["count"] == 1 else f"{failed['count']} starts, the last"
        yield "failed", f"{many}: {failed['reason']}"
    if model["wakes"]:
        yield "wakes", _took(model["wakes"])
    if model["advice"]:
        yield "advice", model["advice"]


def _requests(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    share = f" ({100 * model['not_hot_share']:.1f} %)" if model["not_hot"] else ""
    rungs = ", ".join(f"{model['met'][r]} {r}" for r in FROM_WARM[1:] if model["met"].get(r))
    met = f"{model['not_hot']} met it not hot{share}: {rungs}" if rungs else "all met it hot"
    vain = f"; {model['vain']} waited in vain" if model["vain"] else ""
    yield "requests", f"{model['requests']}; {met}{vain}"
    if delays := model["first_delays"]:
        of = "" if delays["count"] == delays["all"] else f" of {delays['all']}"
        told = (f"{name} {seconds(delays[name])}" for name in ("p50", "p95", "p99"))
        yield (
            "first delays",
            (f"{delays['count']}{of}: {', '.join(told)}, longest {seconds(delays['max'])}"),
        )
    if others := model["others"]:
        mean, longest = seconds(others["mean"]), seconds(others["max"])
        yield "all others", f"{others['count']}: mean {mean}, longest {longest}"


def _stood(model: Mapping[str, Any]) -> str:
    stood = {rung: model["seconds"].get(rung, 0.0) for rung in FROM_WARM}
    whole = sum(stood.values())
    told = [
        f"{rung} {hours(each)} ({100 * each / whole:.0f} %)"
        for rung, each in stood.items()
        if each >= 1
    ]
    unknown = model["unknown_s"]
    if unknown >= 60:
        told.append(f"{hours(unknown)} more not known, as warmd didn't run")
    return ", ".join(told)


def _gpu_hours(model: Mapping[str, Any]) -> str:
    added = model["gpu_hours_added"]
    told = f"{model['gpu_hours_hot']:.1f} hot"
    return f"{told}, {added:.1f} of them added by its calendar" if added else told


_HINDRANCES = {
    "away": "warmd didn't run",
    "failing": "its start had failed",
    "starting": "it was on its way",
    "held-up": "it was held up",
}


def _windows(windows: Mapping[str, Any]) -> str:
    told = f"{windows['opened']} opened, {windows['ready']} ready by then"
    if late := windows["late"]:
        p50 = f"half within {span(late['p50'])}, " if late["count"] > 1 else ""
        told += f"; {late['count']} late: {p50}longest {span(late['max'])}"
    if windows["never"]:
        told += f"; {windows['never']} never ready"
    if windows["awaited"]:
        told += f"; {windows['awaited']} not ready yet"
    for kind, why in windows["reasons"].items():
        last = ", last" if why["count"] > 1 else ""
        told += f"; {why['count']}: {_HINDRANCES.get(kind, kind)}{last} ({why['reason']})"
    return told


def _spared(model: Mapping[str, Any]) -> str:
    spared = model["spared"]
    number = sum(spared.values())
    rungs = ", ".join(f"{spared[rung]} from {rung}" for rung in FROM_WARM if spared.get(rung))
    about = "about " if model["removed_by_estimate"] else ""
    waits = "1 wait" if number == 1 else f"{number} waits"
    told = f"spared {waits} ({rungs}), {about}{span(model['removed_s'])} in all"
    each = model["removed_s_per_gpu_hour"]
    return told if each is None else f"{told}: {seconds(each)} for each GPU-hour that it added"


def _took(took: Mapping[str, Any]) -> str:
    stages = ", ".join(f"{stage_words(name)} {s:.1f}" for name, s in took["stages"].items())
    half = f"{took['count']}: " + ("half within " if took["count"] > 1 else "")
    return f"{half}{seconds(took['p50'])}" + (f" ({stages})" if stages else "")


def stage_words(name: str) -> str:
    """Name a stage of a start, or a part of a wake."""
    return _STAGES.get(name, name.replace("_", " "))


def by_hour(days: Mapping[str, str]) -> str:
    """Return for each hour of the day the letter that most days have there."""
    if not days:
        return ""
    letters = []
    for hour in zip(*days.values(), strict=True):
        known = Counter(letter for letter in hour if letter != "-")
        letters.append(known.most_common(1)[0][0] if known else "-")
    return "".join(letters)


def hours(in_seconds: float) -> str:
    """Say a long time in hours: `98.2 h`."""
    return f"{in_seconds / 3600:.1f} h" if in_seconds >= 3600 else span(in_seconds, 1)


def seconds(duration: float) -> str:
    """Say a wait: `214 ms`, `41.2 s`."""
    return f"{duration * 1000:.0f} ms" if duration < 1 else f"{duration:.1f} s"
