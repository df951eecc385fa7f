"""Plots of a report, as SVG that stands in a page: no script, nothing fetched. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from html import escape
from typing import Any

from warmd.cli.report import seconds, stage_words

_CELL = 14
_LEFT = 110
_BAR = 22
_WIDE = 560
_RUNGS = {"h": "hot", "a": "asleep", "s": "staged", "c": "cold", "-": "not known"}
_SHADES = 6


def hours_plot(days: Mapping[str, str]) -> str:
    """Draw for each day, one a row, the rung of each hour."""
    parts = [
        _text(_LEFT + hour * _CELL, 12, f"{hour:02}") for hour in range(0, 24, 3)
    ]  # the clock above
    for row, (day, letters) in enumerate(days.items()):
        top = 18 + row * _CELL
        parts.append(_text(0, top + 11, f"{date.fromisoformat(day):%a} {day}"))
        for hour, letter in enumerate(letters):
            rung = _RUNGS.get(letter, "not known")
            where = f'x="{_LEFT + hour * _CELL}" y="{top}" width="{_CELL - 1}" height="{_CELL - 1}"'
            title = f"<title>{escape(day)} {hour:02}:00 {rung}</title>"
            parts.append(f'<rect class="{rung.replace(" ", "-")}" {where}>{title}</rect>')
    return _svg(_LEFT + 24 * _CELL, 18 + len(days) * _CELL, "rungs by hour", parts)


def delays_plot(bounds: Sequence[float], counts: Sequence[int]) -> str:
    """Draw how many first delays lasted how long, one bar for each bound and one beyond."""
    labels = [f"up to {_bound(bound)}" for bound in bounds] + [f"over {_bound(bounds[-1])}"]
    most = max((*counts, 1))
    parts = []
    for row, (label, count) in enumerate(zip(labels, counts, strict=True)):
        top = row * _BAR
        wide = (_WIDE - _LEFT - 60) * count / most
        parts.append(_text(0, top + 15, label))
        parts.append(
            f'<rect class="bar" x="{_LEFT}" y="{top + 3}" width="{wide:.1f}" height="{_BAR - 6}"/>'
        )
        if count:
            parts.append(_text(_LEFT + wide + 6, top + 15, str(count)))
    return _svg(_WIDE, len(labels) * _BAR, "first delays by length", parts)


def starts_plot(took: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw what starts and wakes were made of, one bar each, by stage."""
    longest = max(sum(each["stages"].values()) for each in took.values()) or 1.0
    names = list(dict.fromkeys(name for each in took.values() for name in each["stages"]))
    parts = []
    for row, (label, each) in enumerate(took.items()):
        top, left = row * _BAR, float(_LEFT)
        parts.append(_text(0, top + 15, f"{label} ({each['count']})"))
        for name, spent in each["stages"].items():
            wide = (_WIDE - _LEFT - 60) * spent / longest
            title = f"<title>{escape(stage_words(name))} {seconds(spent)}</title>"
            shade = names.index(name) % _SHADES
            where = f'x="{left:.1f}" y="{top + 3}" width="{wide:.1f}" height="{_BAR - 6}"'
            parts.append(f'<rect class="stage{shade}" {where}>{title}</rect>')
            left += wide
        parts.append(_text(left + 6, top + 15, seconds(each["p50"])))
    for n, name in enumerate(names):
        top = len(took) * _BAR + (n // 3) * _BAR
        left = _LEFT + (n % 3) * 150
        parts.append(
            f'<rect class="stage{n % _SHADES}" x="{left}" y="{top + 8}" width="10" height="10"/>'
        )
        parts.append(_text(left + 15, top + 17, stage_words(name)))
    rows = len(took) + (len(names) + 2) // 3
    return _svg(_WIDE, rows * _BAR, "starts and wakes by stage", parts)


def _bound(bound: float) -> str:
    return f"{bound:g} s"


def _text(left: float, top: float, words: str) -> str:
    return f'<text x="{left:.1f}" y="{top:.1f}">{escape(words)}</text>'


def _svg(wide: float, high: float, name: str, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{escape(name)}" width="{wide:.0f}" height="{high:.0f}" '
        f'viewBox="0 0 {wide:.0f} {high:.0f}">{"".join(parts)}</svg>'
    )
