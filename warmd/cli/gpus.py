"""What stands on each GPU, as a table: `warmctl gpus`. Pure, from JSON, in plain ASCII."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from warmd.cli.words import clean
from warmd.spoken import size

_HEAD = ("GPU", "USE", "USED", "TOTAL", "WATTS", "SM MHZ", "MEMORY MHZ", "ECC")
_LEFT = 2  # the columns that are laid out to the left; the others are figures
_GAP = "  "
_INDENT = "     "
_BAR = 20
_OURS, _PROMISED, _ASLEEP, _OTHERS, _FREE, _HEADROOM = "#", "=", "z", "+", ".", "-"
_PARTS = ("reserved", "sleepers", "foreign", "headroom", "free")


def gpus_table(told: Mapping[str, Any]) -> str:
    """Say it in lines: each GPU with a bar and its figures, below it who holds what of it.

    At the end what is promised of each, where anything is reserved.
    """
    cards = told["gpus"]
    ledger = {each["key"]: each for each in told["ledger"]}
    rows = [_HEAD, *(_row(card, ledger.get(card["key"])) for card in cards)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(_HEAD))]
    lines = [_line(_HEAD, widths)]
    for card, row in zip(cards, rows[1:], strict=True):
        lines.append(_line(row, widths))
        lines += (_INDENT + line for line in (*_holders(card), *_troubles(card)))
    for each in told["sick"]:
        name = f" ({each['uuid']})" if each["uuid"] else ""
        lines.append(f"GPU {each['index']}{name} can't be used: {clean(each['sentence'])}")
    if told["no_gpu"] is not None:
        lines.append(f"the host's memory is the device: {clean(told['no_gpu'])}")
    if any(card["condition"] and card["condition"]["xids"] is None for card in cards):
        lines.append(
            "Xid errors aren't shown: warmd may not read the kernel's log (group systemd-journal)"
        )
    if told["ledger"]:
        lines += ["", *_promises(told["ledger"])]
    return "\n".join(lines)


def _promises(ledger: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say what of each card is whose, and which are out of service."""
    head = ("RESERVED ON", *(part.upper() for part in _PARTS))
    rows = [head]
    for card in ledger:
        *parts, free = (size(card[part]) for part in _PARTS)
        # Nothing is started on a card that is out of service, however much of it is free.
        rows.append((clean(card["words"]), *parts, "-" if card["quarantine"] else free))
    widths = [max(len(row[n]) for row in rows) for n in range(len(head))]
    for row, each in zip(rows, (None, *ledger), strict=True):
        yield _line(row, widths, left=1)
        if each is not None and each["quarantine"] is not None:
            yield f"{_INDENT}! quarantined: {clean(each['quarantine'])}: {clean(each['remedy'])}"


def _row(card: Mapping[str, Any], promised: Mapping[str, Any] | None) -> tuple[str, ...]:
    index = card["index"] if card["slice"] is None else f"{card['index']}:{card['slice']}"
    name = clean(card["name"]) if card["key"] == "host" else f"{index}  {clean(card['name'])}"
    fares = card["condition"] or {}
    return (
        name,
        _bar(card, promised),
        size(card["used"]),
        size(card["total"]),
        _of(fares.get("watts"), fares.get("watts_limit")),
        _of(fares.get("sm_mhz"), fares.get("sm_mhz_most")),
        _of(fares.get("memory_mhz"), fares.get("memory_mhz_most")),
        {True: "on", False: "off", None: "-"}[fares.get("ecc")],
    )


def _bar(card: Mapping[str, Any], promised: Mapping[str, Any] | None) -> str:
    """Show what engines of warmd hold, what else is taken or promised, and what is free."""
    total = max(1, card["total"])
    held = sum(each["bytes"] or 0 for each in card["held_by"] if each["replica"])
    parts = [(_OURS, held), (_OTHERS, card["used"] - held)]
    if promised is not None:
        held, sleepers = min(promised["held"], promised["reserved"]), promised["sleepers"]
        others = max(promised["foreign"], card["used"] - promised["held"] - sleepers)
        parts = [(_OURS, held), (_PROMISED, promised["reserved"] - held), (_ASLEEP, sleepers)]
        parts.append((_OTHERS, others))
    bar, taken = "", 0
    for sign, part in parts:
        taken += max(0, part)
        bar += sign * (min(_BAR, round(_BAR * taken / total)) - len(bar))
    headroom = round(_BAR * promised["headroom"] / total) if promised is not None else 0
    free = _BAR - len(bar)
    return f"[{bar}{_FREE * (free - headroom)}{_HEADROOM * min(free, headroom)}]"


def _holders(card: Mapping[str, Any]) -> Iterator[str]:
    """Say what each replica holds, what each other process, and what nobody is known to hold."""
    by_replica: dict[str, list[Mapping[str, Any]]] = {}
    for each in card["held_by"]:
        by_replica.setdefault(each["replica"] or "", []).append(each)
    strangers = by_replica.pop("", [])
    rows = [(name, _sum(each), _processes(each)) for name, each in by_replica.items()]
    rows += [("not of warmd", _sum([each]), _processes([each])) for each in strangers]
    rest = card["used"] - sum(each["bytes"] or 0 for each in card["held_by"])
    if rest > 0:
        told = all(each["bytes"] is not None for each in card["held_by"])
        who = "all else on this host" if card["key"] == "host" else "the driver"
        rows.append(("the rest", size(rest), who if told else f"{who}, and who isn't told"))
    widths = [max((len(row[n]) for row in rows), default=0) for n in range(2)]
    for name, held, processes in rows:
        yield _GAP.join((f"{name:{widths[0]}}", f"{held:>{widths[1]}}", processes))


def _sum(holders: Sequence[Mapping[str, Any]]) -> str:
    known = [each["bytes"] for each in holders if each["bytes"] is not None]
    return size(sum(known)) if len(known) == len(holders) else "?"


def _processes(holders: Sequence[Mapping[str, Any]]) -> str:
    if len(holders) > 2:
        return f"{len(holders)} processes"
    return ", ".join(f"{clean(each['name'] or 'process')} {each['pid']}" for each in holders)


def _troubles(card: Mapping[str, Any]) -> Iterator[str]:
    index, driver_index = card["index"], card["driver_index"]
    if card["new"]:
        yield (
            f"new, nvidia-smi has it as GPU {driver_index}: warmd uses it from its next start on, "
            "and numbers it then"
        )
    elif driver_index != index:
        yield f"nvidia-smi has it as GPU {driver_index} today, the config as {index}"
    fares = card["condition"]
    if fares is None:
        return
    for each in fares["troubles"]:
        yield f"! {clean(each['sentence'])}: {clean(each['remedy'])}"


def _of(value: float | None, most: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if most is None else f"{value:.0f} of {most:.0f}"


def _line(cells: Sequence[str], widths: Sequence[int], left: int = _LEFT) -> str:
    laid_out = (
        f"{cell:{width}}" if n < left else f"{cell:>{width}}"
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return _GAP.join(laid_out).rstrip()
