"""Shows the status on a terminal or in a pipe, once or each second."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from warmd.cli.client import Client, NoDaemonError, RefusedError, of_this_version
from warmd.cli.render import status_table

_REFRESH_S = 1.0


def show_status(client: Client, *, watch: bool) -> None:
    """Print the status, and with `watch` again each second until Ctrl-C.

    Raises `NoDaemonError` or `RefusedError` where the first call fails.
    """
    console = Console(highlight=False)
    piped = not console.is_terminal
    first = _table(client, console, piped=piped)
    if not watch:
        _show(first, console, piped=piped)
    elif piped:
        _show(first, console, piped=piped)
        while True:
            time.sleep(_REFRESH_S)
            print()
            _show(_table_or_error(client, console, piped=piped), console, piped=piped)
    else:
        live = Live(first, console=console, auto_refresh=False, screen=True)
        try:  # not `with`: Ctrl-C may come while it starts
            live.start(refresh=True)
            while True:
                time.sleep(_REFRESH_S)
                live.update(_table_or_error(client, console, piped=piped), refresh=True)
        finally:
            live.stop()


def _table(client: Client, console: Console, *, piped: bool) -> Text:
    status = client.parse(client.get("/status"))
    with of_this_version():
        return status_table(status, status["time"], None if piped else console.width)


def _table_or_error(client: Client, console: Console, *, piped: bool) -> Text:
    try:
        return _table(client, console, piped=piped)
    except (NoDaemonError, RefusedError) as error:  # the daemon may be restarting
        return Text(f"{time.strftime('%H:%M:%S')}  {error}")


def _show(table: Text, console: Console, *, piped: bool) -> None:
    if piped:
        print(table.plain, flush=True)
    else:
        console.print(table)
