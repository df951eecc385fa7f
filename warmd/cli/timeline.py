"""What is to come: `warmctl plan --next`. Pure, from the daemon's JSON, in 100 columns of ASCII."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from warmd.cli.words import clean
from warmd.spoken import duration

_WIDTH = 100
_LONGEST_NAME = 26
_MARKS = {"hot": "#", "asleep": "=", "staged": "-", "cold": "."}
_RISES, _NO_ROOM = "/", "!"
_LEGEND = "# hot  / on its way up  = asleep  - staged  . cold  ! wanted in vain"
_LABEL = 9  # columns that a time on the axis has at least
_STEPS = [60 * m for m in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10080)]

_Told = Mapping[str, Any]


def timeline(answer: _Told) -> str:
    """Draw the lanes of each GPU, and list the changes below; two configs side by side."""
    return "\n".join(_lines(answer["timeline"], answer["before"]))


def _lines(ours: _Told, before: _Told | None) -> Iterator[str]:
    span = duration(ours["until"] - ours["since"])
    what = "" if before is None else "; + with this config, x without it"
    yield from textwrap.wrap(f"the next {span}, {clean(ours['note'])}{what}", _WIDTH)
    told = () if before is None else before["warnings"]
    for warning in ours["warnings"]:
        yield from _wrapped(f"warning: {warning}{' (as before)' if warning in told else ''}", 2)
    if not ours["gpus"] and not (before and before["gpus"]):
        yield "no model has a calendar, and nothing changes"
        return
    width = _name_width(ours, before)
    for gpu in _gpus(ours, before):
        yield ""
        yield from _gpu(gpu, ours, before, width)
    yield ""
    yield _LEGEND
    moves = list(_moves(ours, before))
    if not moves:
        yield "nothing changes in this time"
        return
    yield ""
    for mark, move, zone in moves:
        yield from _move(mark, move, zone, ours["since"], width)


def _gpus(ours: _Told, before: _Told | None) -> list[tuple[str, list[str]]]:
    """Return each GPU with the models on it, under either config."""
    found: dict[str, list[str]] = {}
    for told in (ours, before or {"gpus": ()}):
        for gpu in told["gpus"]:
            here = found.setdefault(gpu["words"], [])
            here += [name for name in gpu["models"] if name not in here]
    return list(found.items())


def _name_width(ours: _Told, before: _Told | None) -> int:
    names = [*ours["models"], *(before["models"] if before else ())]
    return min(_LONGEST_NAME, 4 + max((len(name) for name in names), default=0))


def _gpu(
    gpu: tuple[str, list[str]], ours: _Told, before: _Told | None, width: int
) -> Iterator[str]:
    words, names = gpu
    zones: dict[str, list[str]] = {}
    for name in names:
        zones.setdefault(_zone(name, ours, before), []).append(name)
    for zone, members in zones.items():
        yield f"{clean(words)}, times in {zone}"
        yield " " * width + _axis(ours["since"], ours["until"], ZoneInfo(zone), _WIDTH - width)
        for name in members:
            new, old = _row(name, ours, width), None
            if before is not None:
                old = _row(name, before, width)
            if before is None or new == old:
                yield _named("  ", name, width) + (new or "")
                continue
            for mark, row in (("+ ", new), ("x ", old)):
                if row is not None:
                    yield _named(mark, name, width) + row


def _zone(name: str, ours: _Told, before: _Told | None) -> str:
    told = ours if name in ours["models"] else before or ours
    return str(told["models"][name]["zone"])


def _named(mark: str, name: str, width: int) -> str:
    return f"{mark}{clean(name)[: width - 3]:{width - 2}}"


def _row(name: str, told: _Told, width: int) -> str | None:
    """Draw where a model stands; None where it isn't in the config."""
    if name not in told["models"]:
        return None
    since, until, columns = told["since"], told["until"], _WIDTH - width
    at = [since + (until - since) * (n + 0.5) / columns for n in range(columns)]
    spans = told["models"][name]["spans"]
    moves = [move for move in told["moves"] if move["model"] == name]
    return "".join(_cell(moment, spans, moves) for moment in at)


def _cell(at: float, spans: Sequence[_Told], moves: Sequence[_Told]) -> str:
    if any(m["begin_at"] <= at < m["ready_at"] for m in moves if m["begin_at"] is not None):
        return _RISES
    for early in (m for m in moves if m["ready_at"] is not None):
        if early["ready_at"] <= at < early["at"]:
            return _MARKS.get(early["to_rung"], "?")  # it stays up until its time has come
    span = next((s for s in spans if s["since"] <= at < s["until"]), None)
    if span is None:
        return _MARKS["cold"]
    move = next((move for move in moves if move["at"] == span["since"]), None)
    if move is not None and (not move["fits"] or at < (move["begin_at"] or 0.0)):
        return _NO_ROOM
    return _MARKS.get(span["rung"], "?")


def _axis(since: float, until: float, zone: ZoneInfo, columns: int) -> str:
    """Name times above their columns, at steps that leave room for them."""
    per_column = (until - since) / columns
    step = next((s for s in _STEPS if s / per_column >= _LABEL), _STEPS[-1])
    text = [" "] * columns
    at = datetime.fromtimestamp(since, zone)
    at = at.replace(hour=0, minute=0, second=0, microsecond=0)
    while (moment := at.timestamp()) < until:
        column = int((moment - since) / per_column)
        label = f"|{at:%H:%M}" if step < 86400 and (at.hour or at.minute) else f"|{at:%a %d}"
        if moment >= since and column + len(label) <= columns:
            text[column : column + len(label)] = label
        at += timedelta(seconds=step)  # by the clock on the wall, as labels are read
    return "".join(text).rstrip()


def _moves(ours: _Told, before: _Told | None) -> Iterator[tuple[str, _Told, str]]:
    """Yield the changes in the order of their time, each with its mark and zone."""

    def key(move: _Told) -> tuple[object, ...]:
        return tuple(move[what] for what in ("at", "model", "to_rung", "replicas"))

    theirs = {key(move) for move in before["moves"]} if before else set()
    mine = {key(move) for move in ours["moves"]}
    rows = [
        ("  " if before is None or key(move) in theirs else "+ ", move, ours)
        for move in ours["moves"]
    ]
    if before is not None:
        rows += [("x ", move, before) for move in before["moves"] if key(move) not in mine]
    for mark, move, told in sorted(rows, key=lambda row: (row[1]["at"], row[1]["model"])):
        yield mark, move, str(told["models"][move["model"]]["zone"])


def _move(mark: str, move: _Told, zone: str, now: float, width: int) -> Iterator[str]:
    at = _clock(move["at"], now, zone)
    change = f"{_stand(move['from_rung'], move['from_replicas'])} -> "
    change += _stand(move["to_rung"], move["replicas"])
    head = f"{mark}{at:>9}  {clean(move['model']):{width - 4}}  {change}"
    yield from _wrapped(f"{head}: {clean(move['why'])}{_timing(move, now, zone)}", 13)


def _stand(rung: str, replicas: int) -> str:
    return f"{replicas} {rung}" if replicas > 1 else rung


def _timing(move: _Told, now: float, zone: str) -> str:
    if not move["fits"]:
        return "; its pool has no room for that"
    if move["short_s"] is None:
        return ""
    begins, ready = (_clock(move[what], now, zone) for what in ("begin_at", "ready_at"))
    late = f", {duration(round(move['short_s']))} late" if move["short_s"] else ""
    guess = "" if move["measured"] else ", a guess"
    return f"; begins {begins}, ready {ready}{late}{guess}"


def _clock(at: float, now: float, zone: str) -> str:
    then, today = (datetime.fromtimestamp(t, ZoneInfo(zone)) for t in (at, now))
    time = f"{then:%H:%M}" if then.second < 1 else f"{then:%H:%M:%S}"
    if then.date() == today.date():
        return time
    return f"{then:%a} {time}" if at - now < 6 * 86400 else f"{then:%m-%d} {time}"


def _wrapped(text: str, further: int) -> Iterator[str]:
    yield from textwrap.wrap(
        "".join(c if c.isprintable() else " " for c in text),
        _WIDTH,
        subsequent_indent=" " * further,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
