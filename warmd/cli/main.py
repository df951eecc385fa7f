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

from warmd.cli.arguments import DEFAULT_SOCKET, parser
from warmd.cli.client import ANSWER_TIMEOUT_S, Client, NoDaemonError, RefusedError, of_this_version
from warmd.cli.explain import explanation
from warmd.cli.gpus import gpus_table
from warmd.cli.history import history
from warmd.cli.plan import plan
from warmd.cli.probe_command import probe
from warmd.cli.report import report
from warmd.cli.residency import residency_table
from warmd.cli.size import size_table
from warmd.cli.words import warnings

_REPORT_S = 60.0  # months of many busy models take seconds to read
_INTERRUPTED = 130
_BROKEN_PIPE = 141  # what a shell shows for a program that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run warmctl; return its exit status. Wrong usage ends in argparse's `SystemExit(2)`."""
    args = parser().parse_args(argv)
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
        elif args.command in ("doctor", "key"):
            return _doctor(args) if args.command == "doctor" else _key(args)
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


def _key(args: argparse.Namespace) -> int:
    # Brings the config room along, which few other commands need.
    from warmd.cli.key import add, names, remove  # noqa: PLC0415

    match args.word:
        case "add":
            add(args.config, args.file, args.name)
        case "remove":
            remove(args.config, args.file, args.name)
        case _:
            names(args.config, args.file)
    return 0


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
