"""The status as a table: a pure function of the daemon's JSON, the time and the width.

Laid out here, not by rich's tables: a reason gets a line of its own across all columns.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from warmd.cli.words import (
    card_line,
    card_troubles,
    clean,
    model_doing,
    model_notes,
    replica_doing,
    rung_reached,
    span,
    trouble,
    warnings,
)

_HEADER = ("MODEL", "RUNG", "TARGET", "DOING", "BUSY", "WAITING", "SINCE")
_RIGHT = frozenset({4, 5})
_GAP = "  "
_INDENT = "    "
_SHORTEST_NAME = 10

_RUNG_STYLES = {"hot": "bold green", "asleep": "cyan", "staged": "yellow", "cold": "dim"}
_DOING_STYLES = {"failed": "bold red", "backing-off": "red"}


@dataclass(frozen=True)
class _Row:
    """One line of the table; `why` is what a pipe gets at its end, `notes` a terminal below it."""

    cells: tuple[Text, ...]
    why: str
    notes: tuple[str, ...]


def status_table(status: Mapping[str, Any], now: float, width: int | None) -> Text:
    """Lay the status out for a terminal of `width` columns, or for a pipe where it is None.

    In a pipe each model and replica is one line, with the reasons in a last column. `now` is
    Unix seconds.
    """
    models = list(status["models"].values())
    about = f"warmd {status['version']}, up {span(now - status['started'])}"
    amiss = [Text(each, "bold red") for each in warnings(status)]
    if not models:
        return Text("\n").join([*amiss, Text(f"{about}: no model is configured")])
    rows = [row for model in models for row in _rows(model, now, in_pipe=width is None)]
    header = tuple(Text(word, "bold") for word in _HEADER)
    table = [header, *(row.cells for row in rows)]
    widths = [max(cell.cell_len for cell in column) for column in zip(*table, strict=True)]
    if width is None:
        lines = [_line((*header, Text("WHY")), widths)]
        lines += [_line((*row.cells, Text(row.why)), widths) for row in rows]
        for card in status.get("cards", ()):
            amiss += [Text(f"warning: {card['words']}: {each}") for each in card_troubles(card)]
        return Text("\n").join([*lines, *amiss])
    spare = width - sum(widths[1:]) - len(_GAP) * (len(widths) - 1)
    widths[0] = min(widths[0], max(_SHORTEST_NAME, spare))
    lines = [_line(header, widths)]
    for row in rows:
        lines += _fitted(row.cells, widths)
        for note in row.notes:
            folded = textwrap.wrap(note, max(20, width - len(_INDENT)))
            lines += [Text(_INDENT + part, "dim") for part in folded]
    for each in amiss:
        lines += [Text(part, "bold red") for part in textwrap.wrap(each.plain, width)]
    return Text("\n").join([*lines, *_cards(status, width), Text(about, "dim")])


def _cards(status: Mapping[str, Any], width: int) -> list[Text]:
    """Lay out each GPU: what is promised of it to whom, and below it what is wrong."""
    lines = []
    for card in status.get("cards", ()):
        told = [(card_line(card), "")] + [(f"! {each}", "red") for each in card_troubles(card)]
        for n, (sentence, style) in enumerate(told):
            indent = _INDENT if n else ""
            room = max(20, width - len(_INDENT))
            parts = textwrap.wrap(sentence, room, subsequent_indent="" if n else _INDENT)
            lines += [Text(indent + part, style) for part in parts]
    return lines


def _rows(model: Mapping[str, Any], now: float, *, in_pipe: bool) -> list[_Row]:
    replicas = model["replicas"]
    waiting, since = model["waiting"], rung_reached(model)
    alone = replicas[0] if len(replicas) == 1 else None
    notes = model_notes(model, now)
    if alone is not None and (sentence := trouble(alone)):
        notes.insert(0, sentence)
    reason = clean(model["reason"])
    why = "; ".join([reason, *notes])
    if model["rung"] != model["target"]:
        notes.insert(0, f"why {model['target']}: {reason}")
    cells = (
        Text(model["name"]),
        _rung(model["rung"]),
        _rung(model["target"]),
        Text(model_doing(model, now), _DOING_STYLES.get(alone["phase"], "") if alone else ""),
        _number(sum(replica["in_flight"] for replica in replicas)),
        Text(f"{waiting}, {span(model['oldest_wait'], 1)}", "bold") if waiting else _number(0),
        Text("-" if since is None else span(now - since, 1)),
    )
    rows = [_Row(cells, why, tuple(notes))]
    if alone is None:
        rows += [_replica_row(replica, model, now, in_pipe=in_pipe) for replica in replicas]
    return rows


def _replica_row(
    replica: Mapping[str, Any], model: Mapping[str, Any], now: float, *, in_pipe: bool
) -> _Row:
    name = replica["name"]
    sentence = trouble(replica)
    cells = (
        Text(name if in_pipe else f" .{name.removeprefix(model['name'] + '.')}"),
        _rung(replica["rung"]),
        Text("-", "dim"),
        Text(replica_doing(replica, model, now), _DOING_STYLES.get(replica["phase"], "")),
        _number(replica["in_flight"]),
        Text("-", "dim"),
        Text(span(now - replica["since"], 1)),
    )
    return _Row(cells, sentence or clean(replica["reason"]), (sentence,) if sentence else ())


def _fitted(cells: Sequence[Text], widths: Sequence[int]) -> list[Text]:
    """A name too long for its column stands on a line of its own, whole."""
    if cells[0].cell_len <= widths[0]:
        return [_line(cells, widths)]
    return [cells[0], _line((Text(""), *cells[1:]), widths)]


def _line(cells: Sequence[Text], widths: Sequence[int]) -> Text:
    line = Text()
    for n, cell in enumerate(cells):
        room = (widths[n] if n < len(widths) else 0) - cell.cell_len
        pad = " " * max(0, room)
        line.append_text(Text(pad) + cell if n in _RIGHT else cell + Text(pad)).append(_GAP)
    line.rstrip()
    return line


def _rung(rung: str) -> Text:
    return Text(rung, _RUNG_STYLES.get(rung, ""))


def _number(number: int) -> Text:
    return Text(str(number)) if number else Text("-", "dim")
