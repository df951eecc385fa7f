"""What one engine of a model takes, as a table: `warmctl size`. Pure, from JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from warmd.cli.words import clean
from warmd.spoken import size

_HEAD = ("PART", "ESTIMATE", "MEASURED", "HOW")
_GAP = "  "
_UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20))


def size_table(told: Mapping[str, Any]) -> str:
    """Say it in lines: each part, the sum, what to write into the config, what isn't counted."""
    parts = told["parts"]
    rows = [
        (p["name"], _size(p["estimated"]), _size(p["measured"]), clean(p["how"])) for p in parts
    ]
    sizes = [part["estimated"] for part in parts]
    # A sum of what is known would be a wrong one: all of it, or none.
    estimated = None if None in sizes else sum(sizes)
    best = None if told["version"] is None else told["on_each_gpu"]
    rows.append(("in all", _size(estimated), _size(best), _on(told)))
    return "\n".join([*_lines([_HEAD, *rows]), *_closing(told)])


def _on(told: Mapping[str, Any]) -> str:
    if not told["gpu"]:
        return "of the host's RAM"
    ways = told["tensor_parallel"]
    return "on one GPU" if ways == 1 else f"on each of {ways} GPUs"


def _closing(told: Mapping[str, Any]) -> Iterator[str]:
    if told["version"] is not None:
        by = f"vLLM {told['version']}" if told["version"] else "vLLM"
        yield f"measured at its last start, by {by}; what it did not tell is estimated"
    if told["not_counted"]:
        yield f"not counted: {clean(', '.join(told['not_counted']))}"
    if (assumed := told.get("assumed")) is not None:
        yield assumed
    if told["unknown"] is not None:
        yield f"not known: {clean(told['unknown'])}"
    else:
        yield f'vram = "{_config_size(told["vram"])}"'


def _size(value: int | None) -> str:
    if value is None:
        return "-"
    return size(value) if value else "0"


def _config_size(value: int) -> str:
    unit, factor = next(pair for pair in _UNITS if value % pair[1] == 0)
    return f"{value // factor}{unit}"


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[n]) for row in rows) for n in range(3)]
    for name, estimated, measured, how in rows:
        cells = (
            f"{name:{widths[0]}}",
            f"{estimated:>{widths[1]}}",
            f"{measured:>{widths[2]}}",
            how,
        )
        yield _GAP.join(cells).rstrip()
