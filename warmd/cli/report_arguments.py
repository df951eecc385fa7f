"""The words that `warmctl report` takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

_DEFAULT_S = 14 * 86400.0


def add_report(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    anywhere: argparse.ArgumentParser,
    duration: Callable[[str], float],
) -> None:
    """Add the command; `duration` reads a time such as `8h` in seconds."""
    weeks = commands.add_parser(
        "report",
        parents=[anywhere],
        help="say over weeks who waited, what warmth cost, and what the calendar is worth",
    )
    weeks.add_argument("model", metavar="MODEL", nargs="*", help="a model's name or alias")
    weeks.add_argument(
        "--since",
        dest="since_s",
        type=duration,
        metavar="TIME",
        default=_DEFAULT_S,
        help='how far back, such as "90d" (default: 14d)',
    )
    form = weeks.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the daemon's JSON as it is")
    form.add_argument("--html", type=Path, metavar="FILE", help="write one page with plots")
