"""What is to come: `warmctl plan --next`. Pure, from the daemon's JSON, in 100 columns of ASCII."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from warmd.cli.words import clean
from warmd.spoken import duration

_WIDTH = 100
_LONGEST_NAME = 26
_MARKS = {"hot": "#", "asleep": "=", "staged": "-", "cold": "."}
_RISES, _HELD, _SEVERAL = "/", "!", "*"
_LEGEND = (
    "# hot  / on its way up  = asleep  - staged  . cold  ! wanted, and held up or without room"
)
_NARROW = "* several changes, which the list below has"
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
    rows = []
    for gpu in _gpus(ours, before):
        rows += ["", *_gpu(gpu, ours, before, width)]
    yield from rows
    yield ""
    yield _LEGEND
    if any(_SEVERAL in line.partition("  ")[2] for line in rows):
        yield _NARROW
    moves = list(_moves(ours, before))
    if not moves:
        yield "nothing changes in this time"
        return
    yield ""
    for mark, move, zone in moves:
        several = zone if len({each for _, _, each in moves}) > 1 else ""
        yield from _move(mark, move, (zone, several), ours["since"], width)


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
    spans = told["models"][name]["spans"]
    moves = [move for move in told["moves"] if move["model"] == name]
    return _drawn(list(_pieces(since, until, spans, moves)), since, (until - since) / columns)


def _pieces(
    since: float, until: float, spans: Sequence[_Told], moves: Sequence[_Told]
) -> Iterator[tuple[float, float, str]]:
    """Yield from when until when which mark holds; what follows alike is one piece."""
    times = {span["since"] for span in spans}
    for move in moves:
        times |= {move[key] for key in ("at", "begin_at", "ready_at") if move[key] is not None}
    edges = [since, *sorted(at for at in times if since < at < until), until]
    last = None
    for start, end in pairwise(edges):
        mark = _mark((start + end) / 2, spans, moves)
        if last is not None and last[2] == mark:
            last = last[0], end, mark
            continue
        if last is not None:
            yield last
        last = start, end, mark
    if last is not None:
        yield last


def _drawn(pieces: Sequence[tuple[float, float, str]], since: float, per_column: float) -> str:
    """Draw pieces in columns: each has one at least, and those that share one are `*` there."""
    end = pieces[-1][1] if pieces else since
    columns = round((end - since) / per_column)
    owner, n = [], 0
    for column in range(columns):
        middle = since + (column + 0.5) * per_column
        while n + 1 < len(pieces) and pieces[n][1] <= middle:
            n += 1
        owner.append(n)
    text = [pieces[n][2] for n in owner]
    alone = {n for n in owner if owner.count(n) == 1}
    taken: set[int] = set()
    for n in sorted(set(range(len(pieces))) - set(owner)):
        start, stop, mark = pieces[n]
        column = min(columns - 1, int(((start + stop) / 2 - since) / per_column))
        is_shared = column in taken or owner[column] in alone
        text[column] = _SEVERAL if is_shared else mark
        taken.add(column)
    return "".join(text)


def _mark(at: float, spans: Sequence[_Told], moves: Sequence[_Told]) -> str:
    if any(m["begin_at"] <= at < m["ready_at"] for m in moves if m["begin_at"] is not None):
        return _RISES
    for early in (m for m in moves if m["ready_at"] is not None):
        if early["ready_at"] <= at < early["at"]:
            return _MARKS.get(early["to_rung"], "?")  # it stays up until its time has come
    span = next((s for s in spans if s["since"] <= at < s["until"]), None)
    if span is None:
        return _MARKS["cold"]
    if span["by"] == "now":
        return _HELD
    move = next((move for move in moves if move["at"] == span["since"]), None)
    if span["by"] != "room" and move is not None and move["to_rung"] != move["from_rung"]:
        begins = move["begin_at"] or 0.0
        in_vain = move["waits"] is not None and move["ready_at"] is None
        if not move["fits"] or in_vain or at < begins:
            return _HELD
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


def _move(mark: str, move: _Told, zones: tuple[str, str], now: float, width: int) -> Iterator[str]:
    """Say one change; `zones`: its time zone, and that again where it must be named."""
    zone, named = zones
    at = _clock(move["at"], now, zone) + (f" {named}" if named else "")
    change = _stand(move["to_rung"], move["replicas"])
    before = _stand(move["from_rung"], move["from_replicas"])
    change = f"stays {change}" if change == before else f"{before} -> {change}"
    head = f"{mark}{at:>9}  {clean(move['model']):{width - 4}}  {change}"
    yield from _wrapped(f"{head}: {clean(move['why'])}{_timing(move, now, zone)}", 13)


def _stand(rung: str, replicas: int) -> str:
    return f"{replicas} {rung}" if replicas > 1 else rung


def _timing(move: _Told, now: float, zone: str) -> str:
    waits = move["waits"]
    if move["ready_at"] is None:
        told = waits or ("" if move["fits"] else "its pool has no room for that")
        return f"; {told}" if told else ""
    begins, ready = (_clock(move[what], now, zone) for what in ("begin_at", "ready_at"))
    if move["ready_at"] <= now:
        return f"; ready since {ready}"
    late = f", {duration(round(move['short_s']))} late" if move["short_s"] else ""
    guess = "" if move["measured"] else ", a guess"
    begins = f"{'began' if move['begin_at'] < now else 'begins'} {begins}"
    return f"; {begins}, ready {ready}{late}{guess}{f': {waits}' if waits else ''}"


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
