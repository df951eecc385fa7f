"""warmctl: shows what warmd does, and tells it what to do.

Exit status: 0 done, 1 refused or problems, 2 wrong usage, 3 no daemon answers.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from warmd import __version__
from warmd.cli.client import ANSWER_TIMEOUT_S, Client, NoDaemonError, RefusedError, of_this_version
from warmd.cli.explain import explanation
from warmd.cli.gpus import gpus_table
from warmd.cli.history import history
from warmd.cli.plan import plan
from warmd.cli.probe_command import add_probe, probe
from warmd.cli.report import report
from warmd.cli.report_arguments import add_report
from warmd.cli.residency import residency_table
from warmd.cli.size import size_table
from warmd.cli.words import warnings

DEFAULT_SOCKET = "/run/warmd/control.sock"
_DAY_S = 86400.0
_REPORT_S = 60.0  # months of many busy models take seconds to read
_INTERRUPTED = 130
_BROKEN_PIPE = 141  # what a shell shows for a program that SIGPIPE ended
_RUNGS = ("hot", "asleep", "staged", "cold", "auto")


def main(argv: Sequence[str] | None = None) -> int:
    """Run warmctl; return its exit status. Wrong usage ends in argparse's `SystemExit(2)`."""
    args = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a C locale must not end in a traceback
    try:
        client = Client(Path(args.socket))
        if args.command == "set":
            _set(client, args)
        elif args.command == "reload":
            _reload(client)
        elif args.command == "plan":
            _plan(client, args)
        elif args.command == "shutdown":
            with of_this_version():
                print(client.post("/shutdown", {})["sentence"])
        elif args.command == "explain":
            _explain(client, args)
        elif args.command == "history":
            _history(client, args)
        elif args.command == "report":
            _report(client, args)
        elif args.command == "size":
            _size(client, args)
        elif args.command == "gpus":
            _gpus(client, as_json=args.json)
        elif args.command == "gpu":
            with of_this_version():
                print(client.post(f"/gpu/{args.word}", {"gpu": args.gpu})["sentence"])
        elif args.command == "residency":
            _residency(client, as_json=args.json)
        elif args.command == "probe":
            return probe(client, args.model, args.idle, as_json=args.json)
        elif args.command == "stage":
            return _stage(client, args)
        elif args.command == "doctor":
            return _doctor(args)
        elif args.json:
            _print_json(client, "/status")
        else:
            # set and --json answer without loading rich.
            from warmd.cli.screen import show_status  # noqa: PLC0415

            show_status(client, watch=args.watch)
        print(end="", flush=True)
    except RefusedError as error:
        print(f"warmctl: {error}", file=sys.stderr)
        return 1
    except NoDaemonError as error:
        print(f"warmctl: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 0 if getattr(args, "watch", False) else _INTERRUPTED
    except OSError as error:  # the client has named its own: this one is stdout's
        # Python flushes stdout once more at exit and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            return _BROKEN_PIPE
        print(f"warmctl: can't write the answer: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="warmctl",
        description="Shows what warmd does, and tells it what to do.",
        epilog="Exit status: 0 done, 1 refused or problems, 2 wrong usage, 3 no daemon answers.",
    )
    parser.add_argument("--version", action="version", version=f"warmctl {__version__}")
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=os.environ.get("WARMD_SOCKET") or DEFAULT_SOCKET,
        help=f"the daemon's control socket (default: $WARMD_SOCKET, or {DEFAULT_SOCKET})",
    )
    anywhere = argparse.ArgumentParser(add_help=False)
    anywhere.add_argument("--socket", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    status = commands.add_parser(
        "status", parents=[anywhere], help="show each model: where it stands, and what it is doing"
    )
    form = status.add_mutually_exclusive_group()
    form.add_argument("--watch", action="store_true", help="refresh each second until Ctrl-C")
    form.add_argument(
        "--json",
        action="store_true",
        help="print the daemon's JSON as it is; fields may be added, none is renamed",
    )

    explain = commands.add_parser(
        "explain",
        parents=[anywhere],
        help="say why a model stands where it does, and what moved it",
    )
    explain.add_argument("model", metavar="MODEL", help="a model's name or alias")
    explain.add_argument("--json", action="store_true", help="print the daemon's JSON as it is")

    past = commands.add_parser(
        "history",
        parents=[anywhere],
        help="sum up requests, starts, sleeps and failures, and list the last changes",
    )
    past.add_argument("model", metavar="MODEL", nargs="?", help="a model's name or alias")
    past.add_argument(
        "--since",
        dest="since_s",
        type=_duration,
        metavar="TIME",
        default=_DAY_S,
        help='how far back, such as "8h" or "30d" (default: 24h)',
    )
    past.add_argument("--json", action="store_true", help="print the daemon's JSON as it is")

    add_report(commands, anywhere, _duration)

    size = commands.add_parser(
        "size",
        parents=[anywhere],
        help="say what one engine of a model takes of each GPU, and what `vram` to write",
    )
    size.add_argument(
        "model", metavar="MODEL", help="a model's name or alias, or a folder such as ./Qwen3-32B"
    )
    size.add_argument("--json", action="store_true", help="print it as JSON")
    of_folder = size.add_argument_group("of a folder, which needs no daemon")
    of_folder.add_argument(
        "--tensor-parallel", type=_count, metavar="N", help="among how many GPUs"
    )
    of_folder.add_argument(
        "--concurrency", type=_count, metavar="N", help="requests of full length at a time"
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

    add_probe(commands, anywhere, _duration)

    gpus = commands.add_parser(
        "gpus",
        parents=[anywhere],
        help="show each GPU: who holds what of it, what is reserved, and what is wrong with it",
    )
    gpus.add_argument("--json", action="store_true", help="print the daemon's JSON as it is")

    in_ram = commands.add_parser(
        "residency",
        parents=[anywhere],
        help="measure what of each model's files is in RAM, and show what is held there",
    )
    in_ram.add_argument("--json", action="store_true", help="print the daemon's JSON as it is")

    gpu = commands.add_parser(
        "gpu", help="take a GPU back into service that was quarantined, or do without it for good"
    )
    words = gpu.add_subparsers(dest="word", required=True, metavar="return|forget")
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

    doctor = commands.add_parser(
        "doctor",
        parents=[anywhere],
        help="look at this host, with or without a daemon, and name a remedy for what is wrong",
        epilog="Exit status: 0 without problems, 1 with. Nothing is changed.",
    )
    doctor.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="default: /etc/warmd/warmd.toml and models.d beside it",
    )
    doctor.add_argument("--json", action="store_true", help="print each finding as JSON")

    ahead = commands.add_parser(
        "plan",
        parents=[anywhere],
        help="say what a reload would move and why, or what calendars will; nothing is changed",
        epilog="Exit status: 1 where the config has problems, as reload would.",
    )
    ahead.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a config to be read, with models.d beside it, by warmd's user (default: warmd's own)",
    )
    ahead.add_argument(
        "--next",
        dest="next_s",
        type=_duration,
        metavar="TIME",
        help='draw what calendars move in that time, such as "24h" or "7d", under either config',
    )
    ahead.add_argument("--json", action="store_true", help="print the daemon's JSON as it is")

    commands.add_parser(
        "reload",
        parents=[anywhere],
        help="read the config again; models that it leaves alone go on",
    )

    commands.add_parser(
        "shutdown",
        parents=[anywhere],
        help="end warmd and all engines, also where engines outlive it",
    )

    bring = commands.add_parser(
        "stage",
        parents=[anywhere],
        help="bring a model's files into RAM now, where no engine has loaded them",
        epilog="Exit status with --watch: 0 where it is staged, 1 where it can't be.",
    )
    bring.add_argument("model", metavar="MODEL", help="a model's name or alias")
    bring.add_argument("--watch", action="store_true", help="show how far it is until it is there")
    bring.add_argument(
        "--for",
        dest="for_s",
        type=_duration,
        metavar="TIME",
        help='for how long it is to stay staged, such as "2h" (default: until the next set)',
    )

    change = commands.add_parser(
        "set", parents=[anywhere], help="keep a model on a rung, or give it back to policy (auto)"
    )
    change.add_argument("model", metavar="MODEL", help="a model's name or alias")
    change.add_argument("rung", type=_rung, metavar="|".join(_RUNGS))
    change.add_argument(
        "--for",
        dest="for_s",
        type=_duration,
        metavar="TIME",
        help='for how long, such as "2h" or "1h30m" (default: until the next set)',
    )
    change.add_argument(
        "--replicas",
        type=_count,
        metavar="N",
        help="with how many engines (default: as many as its policy wants)",
    )
    return parser


def _rung(word: str) -> str:
    if word not in _RUNGS:
        raise argparse.ArgumentTypeError(f"no rung is named {word}: choose {', '.join(_RUNGS)}")
    return word


def _duration(text: str) -> float:
    # Brings the whole config room and pydantic along; only --for and --since need it.
    from warmd.config.units import parse_duration  # noqa: PLC0415

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error} (got {text!r})") from error
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"must be more than 0 (got {text!r})")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0 (got {text!r})")
    return int(text)


def _set(client: Client, args: argparse.Namespace) -> None:
    asked = {"model": args.model, "rung": args.rung, "for": args.for_s}
    if args.replicas is not None:
        asked["replicas"] = args.replicas  # an older daemon doesn't know the key
    answer = client.post("/set", asked)
    with of_this_version():
        print("\n".join((*answer["models"].values(), *warnings(answer))))


def _doctor(args: argparse.Namespace) -> int:
    # Brings the config room, psutil and more along, which no other command needs.
    from warmd.cli.doctor import doctor  # noqa: PLC0415

    named = args.socket != DEFAULT_SOCKET
    status = doctor(args.config, Path(args.socket) if named else None, as_json=args.json)
    print(end="", flush=True)
    return status


def _reload(client: Client) -> None:
    answer = client.post("/reload", {})
    with of_this_version():
        print("\n".join(answer["changes"] or ["nothing has changed"]))


def _plan(client: Client, args: argparse.Namespace) -> None:
    file = None if args.config is None else str(args.config.absolute())
    if args.next_s is not None:
        _agenda(client, args, file)
        return
    answer = client.post("/plan", {"config": file})
    with of_this_version():
        print(json.dumps(answer) if args.json else plan(answer))


def _agenda(client: Client, args: argparse.Namespace, file: str | None) -> None:
    # Only --next needs time zones.
    from warmd.cli.timeline import timeline  # noqa: PLC0415

    answer = client.post("/plan", {"config": file, "next": args.next_s})
    with of_this_version():
        print(json.dumps(answer) if args.json else timeline(answer))


def _explain(client: Client, args: argparse.Namespace) -> None:
    target = _target("/explain", model=args.model)
    if args.json:
        _print_json(client, target)
        return
    told = client.parse(client.get(target))
    with of_this_version():
        print(explanation(told, time.localtime))


def _history(client: Client, args: argparse.Namespace) -> None:
    target = _target("/history", since=time.time() - args.since_s, model=args.model)
    if args.json:
        _print_json(client, target)
    else:
        told = client.parse(client.get(target))
        with of_this_version():
            print(history(told, time.localtime))


def _report(client: Client, args: argparse.Namespace) -> None:
    target = _target("/report", since=time.time() - args.since_s, model=args.model)
    if args.json:
        _print_json(client, target, _REPORT_S)
        return
    told = client.parse(client.get(target, _REPORT_S))
    with of_this_version():
        if args.html is None:
            print(report(told, time.localtime))
            return
        # Only --html draws.
        from warmd.cli.page import page  # noqa: PLC0415
        from warmd.cli.page_file import write_page  # noqa: PLC0415

        print(write_page(args.html, page(told, time.localtime)))


def _size(client: Client, args: argparse.Namespace) -> None:
    if args.model.startswith(("/", "./", "../", "~")) or args.model == ".":
        # Brings the engine room along, which no other command needs.
        from warmd.cli.folder_size import folder_size  # noqa: PLC0415

        told = folder_size(args)
    elif args.args or args.tensor_parallel or args.concurrency or args.on:
        raise RefusedError(
            f"what {args.model} is run with stands in the config; to try something else name its "
            "folder, beginning with / or ./"
        )
    else:
        told = client.parse(client.get(_target("/size", model=args.model)))
    with of_this_version():
        print(json.dumps(told) if args.json else size_table(told))


def _target(path: str, **query: str | float | Sequence[str] | None) -> str:
    asked = {key: value for key, value in query.items() if value is not None}
    # A word of the command line may hold bytes that are no UTF-8.
    return f"{path}?{urlencode(asked, doseq=True, errors='surrogateescape')}"


def _gpus(client: Client, *, as_json: bool) -> None:
    if as_json:
        _print_json(client, "/gpus")
    else:
        told = client.parse(client.get("/gpus"))
        with of_this_version():
            print(gpus_table(told))


def _residency(client: Client, *, as_json: bool) -> None:
    if as_json:
        _print_json(client, "/residency")
    else:
        told = client.parse(client.get("/residency"))
        with of_this_version():
            print(residency_table(told))


def _stage(client: Client, args: argparse.Namespace) -> int:
    answer = client.post("/stage", {"model": args.model, "for": args.for_s})
    with of_this_version():
        name, stages = answer["model"], answer["stages"]
        print("\n".join((answer["sentence"], *warnings(answer))), flush=True)
    if not (stages and args.watch):
        return 0
    # Only --watch needs rich.
    from warmd.cli.stage_screen import watch_staging  # noqa: PLC0415

    status, sentence = watch_staging(client, name)
    if status:
        raise RefusedError(sentence)
    print(sentence, flush=True)
    return 0


def _print_json(client: Client, target: str, patience: float = ANSWER_TIMEOUT_S) -> None:
    body = client.get(target, patience)
    client.parse(body)
    sys.stdout.write(body.decode() + "\n")


if __name__ == "__main__":
    sys.exit(main())
