"""What a reload would move: `warmctl plan`. Pure, from the daemon's JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from warmd.cli.words import clean
from warmd.spoken import count, duration

_WIDTH = 88
_LONGEST_LINE = 60
_HEADS = {
    "new": "is new",
    "gone": "is gone from the config",
    "earlier": "waits for its turn",
    "changed": "changes",
}
_EFFECTS = {
    "engine": "another engine",
    "now": "from now on",
    "names": "names from now on, first requests from the engine's next start",
    "verified": "from now on; an engine that runs goes on unverified",
    "engine-start": "from the engine's next start",
    "daemon-start": "from warmd's next start",
}
_DOES = {
    "called-off": "its start is called off",
    "begun-again": "its start is begun again",
    "stopped": "is stopped",
    "put-to-sleep": "is put to sleep",
    "woken": "is woken",
    "started": "is started",
    "made-anew": "is made anew",
}
_STILL = ("stays", "idle")


def plan(answer: Mapping[str, Any]) -> str:
    """Say it in lines: what changes by model, what follows, in which order, and what stays."""
    return "\n".join(_lines(answer))


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    models, later, steps = answer["models"], answer["later"], answer["steps"]
    read = answer["files"][0] if answer["files"] else "the config"
    others = len(answer["files"]) - 1
    more = f" and {count(others, 'file')} beside it" if others > 0 else ""
    warnings = answer.get("warnings", ())
    if not models and not later and not warnings:
        yield f"a reload of {read}{more} would change nothing"
        return
    yield f"a reload of {read}{more} would do this; nothing has been done"
    for group in _groups(list(models.values())):
        yield from _group(group)
    for when, keys in (
        ("from then on", [each for each in later if each["effect"] == "now"]),
        ("from warmd's next start", [each for each in later if each["effect"] != "now"]),
    ):
        if keys:
            yield when
            yield from _keys(keys, with_effect=False)
    for warning in warnings:
        yield from _wrapped(warning, 0, 2)
    if steps:
        yield from _order(answer)
    else:
        yield "no engine is started, stopped or made anew"
    if answer["untouched"] and models:
        yield from _wrapped(f"not touched: {', '.join(answer['untouched'])}", 0, 2)


def _groups(models: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Put models together that change alike and of which nothing moves."""
    alike: list[Mapping[str, Any]] = []
    for model in models:
        if alike and not (_quiet(model) and _quiet(alike[0]) and model["keys"] == alike[0]["keys"]):
            yield alike
            alike = []
        alike.append(model)
    if alike:
        yield alike


def _quiet(model: Mapping[str, Any]) -> bool:
    still = all(replica["fate"] in _STILL for replica in model["replicas"])
    return still and model["change"] == "changed" and not model["notes"]


def _group(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    first = models[0]
    verb = "change" if len(models) > 1 else _HEADS[first["change"]]
    yield from _wrapped(f"{', '.join(model['name'] for model in models)} {verb}", 0, 2)
    yield from _keys(first["keys"], with_effect=True)
    if len(models) > 1:
        yield "  none of their engines is started, stopped or made anew"
        return
    for sentence in (*(replica["sentence"] for replica in first["replicas"]), *first["notes"]):
        yield from _wrapped(sentence, 2, 4)
    if first["change"] != "gone":
        yield from _wrapped(f"shall be {first['target']} then: {first['reason']}", 2, 4)


def _keys(keys: Sequence[Mapping[str, Any]], *, with_effect: bool) -> Iterator[str]:
    widest = max((len(key["key"]) for key in keys), default=0)
    for key in keys:
        old, new = (clean(key[which] or "not set") for which in ("old", "new"))
        changed = "another value" if old == new else f"{old} -> {new}"
        head = f"  {key['key']:{widest}}  "
        effect = f" ({_EFFECTS[key['effect']]})" if with_effect else ""
        if len(changed) <= _LONGEST_LINE:
            yield f"{head}{changed}{effect}"
        else:
            yield f"{head}{old}"
            yield f"{' ' * len(head)}-> {new}{effect}"


def _order(answer: Mapping[str, Any]) -> Iterator[str]:
    steps = answer["steps"]
    total = duration(answer["total_s"])
    how = "in this order, one at a time"
    if answer.get("side_by_side"):
        how = "in this order on each GPU, on different ones side by side"
    yield f"{how}, about {total} in all and as long as drains take"
    for step in steps:
        guess = "" if step["measured"] or step["fate"] not in _TIMED else ", a guess"
        took = f", about {duration(step['seconds'])}{guess}" if step["seconds"] else ""
        yield f"  {step['replica']} {_DOES[step['fate']]}{took}"
    anew = [step for step in steps if step["fate"] == "made-anew"]
    if answer["held_up_by"]:
        why = f"no engine is made anew for now: {answer['held_up_by']}; mend that first"
        yield from _wrapped(why, 0, 2)
    elif len(anew) > 1:
        yield (
            "engines are made anew one at a time: where one does not get ready, those after it go "
            "on with their old settings"
        )


_TIMED = ("begun-again", "started", "made-anew", "woken")


def _wrapped(text: str, indent: int, further: int) -> Iterator[str]:
    yield from textwrap.wrap(
        clean(text),
        _WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * further,
        break_long_words=False,
        break_on_hyphens=False,
    )
