"""The command line of warmctl: its commands, and the words that each takes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TypeAlias

from warmd import __version__
from warmd.cli.argument_types import RUNGS, count, duration, durations, rung

DEFAULT_SOCKET = "/run/warmd/control.sock"
_DAY_S = 86400.0

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


def parser() -> argparse.ArgumentParser:
    """Return the parser; `command` is what was chosen."""
    warmctl = argparse.ArgumentParser(
        prog="warmctl",
        description="Shows what warmd does, and tells it what to do.",
        epilog="Exit status: 0 done, 1 refused or problems, 2 wrong usage, 3 no daemon answers.",
    )
    warmctl.add_argument("--version", action="version", version=f"warmctl {__version__}")
    warmctl.add_argument(
        "--socket",
        metavar="PATH",
        default=os.environ.get("WARMD_SOCKET") or DEFAULT_SOCKET,
        help=f"the daemon's control socket (default: $WARMD_SOCKET, or {DEFAULT_SOCKET})",
    )
    anywhere = argparse.ArgumentParser(add_help=False)
    anywhere.add_argument("--socket", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    commands = warmctl.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (  # in the order in which --help lists them
        *(_add_status, _add_explain, _add_history, _add_report, _add_size, _add_probe),
        *(_add_gpus, _add_residency, _add_gpu, _add_doctor, _add_key),
        *(_add_plan, _add_reload, _add_shutdown, _add_stage, _add_set),
    ):
        add(commands, anywhere)
    return warmctl


def _add_status(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "status", parents=[anywhere], help="show each model: where it stands, and what it is doing"
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument("--watch", action="store_true", help="refresh each second until Ctrl-C")
    form.add_argument(
        "--json",
        action="store_true",
        help="print the daemon's JSON as it is; fields may be added, none is renamed",
    )


def _add_explain(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "explain",
        parents=[anywhere],
        help="say why a model stands where it does, and what moved it",
    )
    _add_model(command)
    _add_json(command)


def _add_history(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "history",
        parents=[anywhere],
        help="sum up requests, starts, sleeps and failures, and list the last changes",
    )
    command.add_argument("model", metavar="MODEL", nargs="?", help="a model's name or alias")
    command.add_argument(
        "--since",
        dest="since_s",
        type=duration,
        metavar="TIME",
        default=_DAY_S,
        help='how far back, such as "8h" or "30d" (default: 24h)',
    )
    _add_json(command)


def _add_report(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "report",
        parents=[anywhere],
        help="say over weeks who waited, what warmth cost, and what the calendar is worth",
    )
    command.add_argument("model", metavar="MODEL", nargs="*", help="a model's name or alias")
    command.add_argument(
        "--since",
        dest="since_s",
        type=duration,
        metavar="TIME",
        default=14 * _DAY_S,
        help='how far back, such as "90d" (default: 14d)',
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the daemon's JSON as it is")
    form.add_argument("--html", type=Path, metavar="FILE", help="write one page with plots")


def _add_size(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "size",
        parents=[anywhere],
        help="say what one engine of a model takes of each GPU, and what `vram` to write",
    )
    command.add_argument(
        "model", metavar="MODEL", help="a model's name or alias, or a folder such as ./Qwen3-32B"
    )
    command.add_argument("--json", action="store_true", help="print it as JSON")
    of_folder = command.add_argument_group("of a folder, which needs no daemon")
    of_folder.add_argument("--tensor-parallel", type=count, metavar="N", help="among how many GPUs")
    of_folder.add_argument(
        "--concurrency", type=count, metavar="N", help="requests of full length at a time"
    )
    of_folder.add_argument(
        "--on", choices=("gpu", "cpu"), help="what it shall run on (default: what this host has)"
    )
    of_folder.add_argument(
        "--args",
        nargs=argparse.REMAINDER,
        default=[],
        help="flags for vLLM, up to the end of the line",
    )


def _add_probe(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "probe",
        parents=[anywhere],
        help="measure the first request after a quiet time against the ones right after it",
        epilog="The model is kept hot meanwhile; a user's request begins the quiet time anew. "
        "Ctrl-C ends the probe. Exit status: 1 where it ended early.",
    )
    _add_model(command)
    command.add_argument(
        "--idle",
        type=durations,
        metavar="TIMES",
        default=[900.0, 1800.0, 3600.0],
        help='after how long each, such as "15m,30m" (default: 15m,30m,60m); 0 measures at once, '
        "with the start where the model isn't hot",
    )
    _add_json(command)


def _add_gpus(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "gpus",
        parents=[anywhere],
        help="show each GPU: who holds what of it, what is reserved, and what is wrong with it",
    )
    _add_json(command)


def _add_residency(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "residency",
        parents=[anywhere],
        help="measure what of each model's files is in RAM, and show what is held there",
    )
    _add_json(command)


def _add_gpu(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "gpu", help="take a GPU back into service that was quarantined, or do without it for good"
    )
    words = command.add_subparsers(dest="word", required=True, metavar="return|forget")
    back = words.add_parser(
        "return",
        parents=[anywhere],
        help="start engines on it again, also after Xid errors",
        epilog="What the driver has lost, or can't use without a reset, stays out of service.",
    )
    gone = words.add_parser(
        "forget",
        parents=[anywhere],
        help="do without one that was taken out: the driver doesn't list it, and no pool names it",
        epilog="The config is read again, and GPUs have the driver's numbers unless another one is "
        "missing; the answer says which are others now.",
    )
    for word in (back, gone):
        word.add_argument("gpu", metavar="ID", help="its index or UUID, as `warmctl gpus` shows it")


def _add_doctor(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "doctor",
        parents=[anywhere],
        help="look at this host, with or without a daemon, and name a remedy for what is wrong",
        epilog="Exit status: 0 without problems, 1 with. Nothing is changed.",
    )
    command.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="default: /etc/warmd/warmd.toml and models.d beside it",
    )
    command.add_argument("--json", action="store_true", help="print each finding as JSON")


def _add_key(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "key",
        parents=[anywhere],
        help="add, remove or list API keys, with or without a daemon",
        epilog="A key is shown once, when it is made; the file has its digest only. The daemon "
        "takes a changed file within a second.",
    )
    _name_keys_file(command, None)
    words = command.add_subparsers(dest="word", required=True, metavar="add|remove|list")
    for word, what in (
        ("add", "make a key, write its digest and print it: it is never shown again"),
        ("remove", "take a key away; its holder is refused from then on"),
        ("list", "print the names of the keys"),
    ):
        each = words.add_parser(word, help=what, description=what)
        if word != "list":
            each.add_argument("name", metavar="NAME", help="whose key it is")
        _name_keys_file(each, argparse.SUPPRESS)  # before the word or after it


def _name_keys_file(command: argparse.ArgumentParser, default: str | None) -> None:
    for option, what in (
        ("--file", "the file of keys (default: gateway.api_keys of the config)"),
        ("--config", "default: /etc/warmd/warmd.toml and models.d beside it"),
    ):
        command.add_argument(option, type=Path, metavar="FILE", default=default, help=what)


def _add_plan(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "plan",
        parents=[anywhere],
        help="say what a reload would move and why, or what calendars will; nothing is changed",
        epilog="Exit status: 1 where the config has problems, as reload would.",
    )
    command.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a config to be read, with models.d beside it, by warmd's user (default: warmd's own)",
    )
    command.add_argument(
        "--next",
        dest="next_s",
        type=duration,
        metavar="TIME",
        help='draw what calendars move in that time, such as "24h" or "7d", under either config',
    )
    _add_json(command)


def _add_reload(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    commands.add_parser(
        "reload",
        parents=[anywhere],
        help="read the config again; models that it leaves alone go on",
    )


def _add_shutdown(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    commands.add_parser(
        "shutdown",
        parents=[anywhere],
        help="end warmd and all engines, also where engines outlive it",
    )


def _add_stage(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "stage",
        parents=[anywhere],
        help="bring a model's files into RAM now, where no engine has loaded them",
        epilog="Exit status with --watch: 0 where it is staged, 1 where it can't be.",
    )
    _add_model(command)
    command.add_argument(
        "--watch", action="store_true", help="show how far it is until it is there"
    )
    command.add_argument(
        "--for",
        dest="for_s",
        type=duration,
        metavar="TIME",
        help='for how long it is to stay staged, such as "2h" (default: until the next set)',
    )


def _add_set(commands: _Commands, anywhere: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "set", parents=[anywhere], help="keep a model on a rung, or give it back to policy (auto)"
    )
    _add_model(command)
    command.add_argument("rung", type=rung, metavar="|".join(RUNGS))
    command.add_argument(
        "--for",
        dest="for_s",
        type=duration,
        metavar="TIME",
        help='for how long, such as "2h" or "1h30m" (default: until the next set)',
    )
    command.add_argument(
        "--replicas",
        type=count,
        metavar="N",
        help="with how many engines (default: as many as its policy wants)",
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a model's name or alias")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the daemon's JSON as it is")
