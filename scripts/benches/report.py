"""What a benchmark found, as tables for people and as JSON for machines."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

Value = float | str | None


@dataclass(frozen=True)
class Table:
    """Figures with names: `rows` maps a row's name to its values, one for each of `columns`."""

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[Value]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Host:
    """Where it was measured. The load is the average of the last minute, before the run."""

    cores: int
    kernel: str
    python: str
    load: float
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """All of it in one line."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"host: {self.cores} cores, Linux {self.kernel}, Python {self.python}, {versions}, "
            f"load {self.load:.2f}"
        )


def this_host() -> Host:
    """Look at the machine now."""
    return Host(
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        python=platform.python_version(),
        load=float(Path("/proc/loadavg").read_text().split()[0]),
        versions={name: version(name) for name in ("aiohttp", "uvloop")},
    )


def as_text(table: Table) -> str:
    """Lay a table out in columns, numbers to the right."""
    lines = [[table.title, *table.columns]]
    lines += [[name, *map(_shown, values)] for name, values in table.rows.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    text.insert(1, "-" * len(text[0]))
    return "\n".join([*text, *(f"  {note}" for note in table.notes)])


def as_json(tables: Sequence[Table]) -> list[dict[str, object]]:
    """Return tables as JSON's own types, each value under its column's name."""
    return [
        asdict(table)
        | {"rows": {name: _by_column(table, values) for name, values in table.rows.items()}}
        for table in tables
    ]


def _by_column(table: Table, values: Sequence[Value]) -> dict[str, Value]:
    return dict(zip(table.columns, values, strict=True))


def _shown(value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"
