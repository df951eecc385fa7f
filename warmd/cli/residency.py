"""What of each model's files is in RAM: `warmctl residency`. Pure, from JSON, in plain ASCII."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from warmd.cli.words import clean, kind_words
from warmd.spoken import size

_HEAD = ("MODEL", "KIND", "FILES", "SIZE", "IN RAM", "", "STATE", "PLACE")
_RIGHT = frozenset({2, 3, 4, 5})
_GAP = "  "
_INDENT = "    "


def residency_table(told: Mapping[str, Any]) -> str:
    """Say it in lines: each set with its figures, below it why nobody can tell or hold it."""
    if not told["sets"]:
        return "no model is configured, so there is nothing to measure"
    rows: list[Sequence[str]] = [_HEAD]
    above = ""
    for each in told["sets"]:
        name = _name(each["models"])
        rows.append(("" if name == above else name, *_cells(each)))
        above = name
    widths = [max(len(row[n]) for row in rows) for n in range(len(_HEAD))]
    lines = [_line(_HEAD, widths)]
    for each, row in zip(told["sets"], rows[1:], strict=True):
        lines.append(_line(row, widths))
        lines += (f"{_INDENT}! {sentence}" for sentence in _troubles(each))
    ways = ", ".join(sorted({each["by"] for each in told["sets"] if each["by"]}))
    by = f" by {ways}" if ways else ""
    return "\n".join((*lines, f"measured just now{by}, in {1000 * told['seconds']:.0f} ms"))


def _name(models: Sequence[str]) -> str:
    return clean(models[0]) if len(models) == 1 else f"({len(models)} models)"


def _cells(each: Mapping[str, Any]) -> Sequence[str]:
    kind, resident, total = kind_words(each["kind"]), each["resident"], each["bytes"]
    place = clean(each["place"].replace("-", " "))
    state = str(each["state"])
    if state == "partial":
        state = f"{size(each['held'])} held"
    if each["files"] is None:
        return (kind, "?", "?", "?", "", state, place)
    if total is None or resident is None:
        return (
            kind,
            str(each["files"]),
            "?" if total is None else size(total),
            "?",
            "",
            state,
            place,
        )
    percent = f"{100 * resident // total} %" if total else ""
    return (kind, str(each["files"]), size(total), size(resident), percent, state, place)


def _troubles(each: Mapping[str, Any]) -> Iterator[str]:
    for sentence in (each["trouble"], each["problem"]):
        if sentence:
            yield clean(sentence)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    laid_out = (
        f"{cell:>{width}}" if n in _RIGHT else f"{cell:{width}}"
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return _GAP.join(laid_out).rstrip()
