"""The command `warmd`: run the daemon, or check a config."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import warmd
from warmd.config import ConfigError, describe, load, load_to_run
from warmd.daemon import run, set_up_log
from warmd.wiring import check_on_host

EX_CONFIG = 78
"""sysexits.h; systemd is told not to restart after it: a bad config doesn't mend itself."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; `command` is what was chosen."""
    words = argparse.ArgumentParser(prog="warmd", description=warmd.__doc__)
    words.add_argument("--version", action="version", version=f"warmd {warmd.__version__}")
    commands = words.add_subparsers(dest="command", required=True)
    for name, what in (
        ("run", "run the daemon in the foreground"),
        ("check-config", "say what is wrong with the config, or what it resolves to"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="default: /etc/warmd/warmd.toml and models.d beside it",
        )
        if name == "run":
            command.add_argument(
                "--systemd",
                action="store_true",
                help="as the service of systemd: its engines are units, and outlive it",
            )
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, 69 where the daemon can't start, 78 for a bad config."""
    asked = parser().parse_args(argv)
    try:
        if asked.command == "check-config":
            settings = load(asked.config)
            told: list[str] = []
            reserved, late = check_on_host(settings, time.time(), told.append)
            print(describe(settings))
            for line in (*told, *reserved.sentences(), *reserved.lines):
                print(f"# {line}")
            for line in late:
                print(f"# warning: {line}")
            return 0
        settings, absent = load_to_run(asked.config)
        set_up_log()
        return run(settings, lambda: load(asked.config), absent, systemd=asked.systemd)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EX_CONFIG


if __name__ == "__main__":
    sys.exit(main())
