"""`warmctl doctor`: what is wrong with this host, and what to do about it."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from warmd import __version__
from warmd.cli.client import Client, NoDaemonError, RefusedError
from warmd.cli.words import clean
from warmd.doctor import DaemonAnswer, Finding, Level, examine
from warmd.spoken import count

_NARROWEST = 60
_WIDEST = 110


def doctor(config: Path | None, socket: Path | None, *, as_json: bool) -> int:
    """Examine this host and print every finding; return the exit status, 1 where is a problem.

    `socket` None: the config's.
    """
    found = examine(config, lambda named: _ask(socket or named), __version__)
    if as_json:
        print(json.dumps({"version": __version__, "findings": [asdict(each) for each in found]}))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDEST
        print("\n".join(report(found, width)))
    return int(any(each.level is Level.PROBLEM for each in found))


def report(found: Sequence[Finding], width: int) -> Iterator[str]:
    """Write findings as lines, the worst first, and close with how many there are."""
    width = min(max(width, _NARROWEST), _WIDEST)
    levels = list(Level)
    margin = max((len(each.subject) for each in found), default=0) + 11
    for each in sorted(found, key=lambda each: levels.index(each.level)):
        head = f"{each.level:9}{each.subject}".ljust(margin)
        yield _wrapped(head, each.sentence, margin, width)
        if each.remedy:
            words, _, command = each.remedy.partition("\n")
            yield _wrapped(" " * margin + "-> ", words, margin + 3, width)
            if command:
                yield " " * (margin + 3) + clean(command)  # whole, however long, to be copied
    counts = (
        sum(each.level is level for each in found) for level in (Level.PROBLEM, Level.WARNING)
    )
    yield ", ".join(count(n, noun) for n, noun in zip(counts, ("problem", "warning"), strict=True))


def _wrapped(head: str, text: str, margin: int, width: int) -> str:
    return textwrap.fill(
        clean(text),
        width,
        initial_indent=head,
        subsequent_indent=" " * margin,
        break_long_words=False,  # a command or a path must be whole to be copied
        break_on_hyphens=False,
    )


def _ask(socket: Path) -> DaemonAnswer:
    client = Client(socket)
    try:
        status = client.parse(client.get("/status"))
        return DaemonAnswer(socket, status["pid"], status["version"], _staged(status))
    except (NoDaemonError, RefusedError) as error:
        nobody = isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError)
        return DaemonAnswer(socket, trouble=str(error), runs=not nobody)
    except (KeyError, TypeError):
        trouble = f"what answers at {socket} is no warmd of a known version: systemctl status warmd"
        return DaemonAnswer(socket, trouble=trouble, runs=True)


def _staged(status: dict[str, Any]) -> int:
    staging = [model["staging"] for model in status["models"].values()]
    return sum(each["done"] for each in staging if each["holding"])
