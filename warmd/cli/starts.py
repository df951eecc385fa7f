"""What a start took, by stage, and what of its files was in RAM. Pure, from the daemon's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from warmd.cli.words import brief, kind_words
from warmd.ladder import Stage

_WORTH_TELLING = 0.02


def start_lines(start: Mapping[str, Any]) -> Iterator[str]:
    """Say it in one line, and in a second one what was in RAM, where anybody looked."""
    told = [
        f"{Stage(name).label} {seconds:.1f} s"
        for name, seconds in start["stages"].items()
        if name in _STAGES and seconds >= _WORTH_TELLING * start["seconds"]
    ]
    if (token := start.get("first_token_s")) is not None:
        told.append(f"first token {brief(token)}")
    spent = f": {', '.join(told)}" if told else ""
    yield f"{start['seconds']:.1f} s from {start['from_rung']}{spent}"
    if files := start["files"]:
        shares = ", ".join(f"{kind_words(kind)} {_share(each)}" for kind, each in files.items())
        yield f"in RAM as it began -> when ready: {shares}"


def _share(files: Mapping[str, Any]) -> str:
    began, ready = (_percent(files[moment], files["total"]) for moment in ("began", "ready"))
    return f"{began} -> {ready} %{' (held)' if files['held'] else ''}"


def _percent(resident: int | None, total: int) -> str:
    return "?" if resident is None or not total else str(100 * resident // total)


_STAGES = frozenset(stage.value for stage in Stage)
