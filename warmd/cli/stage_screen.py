"""Shows how a model's files come into RAM, on a terminal as bars and in a pipe as lines."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from warmd.cli.client import Client, of_this_version
from warmd.cli.staging import Seen, Watch, bar_lines

_LOOK_S = 0.25
_LINE_S = 1.0
_BAR_WIDTH = 30


def watch_staging(client: Client, name: str) -> tuple[int, str]:
    """Show it until it is staged, or can't be; return the exit status and the last sentence."""
    console = Console(highlight=False)
    watch = Watch()
    if not console.is_terminal:
        return _in_lines(client, name, watch)
    live = Live(console=console, auto_refresh=False)
    try:  # not `with`: Ctrl-C may come while it starts
        live.start()
        while True:
            seen = _look(client, name, watch)
            live.update(_bars(seen), refresh=True)
            if seen.verdict is not None:
                return seen.verdict, seen.note
            time.sleep(_LOOK_S)
    finally:
        live.stop()


def _in_lines(client: Client, name: str, watch: Watch) -> tuple[int, str]:
    said: list[str] = []
    said_at = float("-inf")
    while True:
        seen = _look(client, name, watch)
        lines = [
            *bar_lines(seen.bars),
            *([seen.note] if seen.note and seen.verdict is None else []),
        ]
        now = time.monotonic()
        if lines != said and (now - said_at >= _LINE_S or seen.verdict is not None):
            print("\n".join(line for line in lines if line not in said), flush=True)
            said, said_at = lines, now
        if seen.verdict is not None:
            return seen.verdict, seen.note
        time.sleep(_LOOK_S)


def _look(client: Client, name: str, watch: Watch) -> Seen:
    status = client.parse(client.get("/status"))
    with of_this_version():
        return watch.see(status, name, time.monotonic())


def _bars(seen: Seen) -> Table:
    table = Table.grid(padding=(0, 2))
    for bar in seen.bars:
        shown = ProgressBar(total=max(1, bar.total), completed=bar.done, width=_BAR_WIDTH)
        table.add_row(bar.kind, shown, bar.words)
    if seen.note and seen.verdict is None:
        table.add_row("", "", seen.note)
    return table
