"""Start warmd on one model, send one chat while the engine is not running, and show what it cost.

Called by scripts/quickstart, which has made the environments and the model.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from quickstart_config import (
    DEFAULT_PORT,
    QuickstartError,
    Setup,
    config_text,
    fit_name,
    free_port,
    private_folder,
)
from quickstart_daemon import QUESTION, Answer, Chat, Daemon, only_one
from rich.console import Console
from rich.text import Text

from warmd.cli.client import Client, NoDaemonError, RefusedError
from warmd.ladder import Phase, Rung, Stage
from warmd.staging import StagingError, weight_files

POLL_S = 0.2


class AskedToStopError(Exception):
    """A signal came; the argument is its number."""


class Screen:
    """The terminal: lines that stay, and on a real one a line that shows what goes on now."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._now = self._console.status("")
        self._doing = ""

    def line(self, label: str, text: str = "") -> None:
        """Print a line that stays; silently not, where nobody is at the terminal any more."""
        with suppress(OSError):
            self._console.print(Text(f"{label:<13}{text}".rstrip()))

    def doing(self, what: str, detail: str = "") -> None:
        """Show what goes on. Where lines can't be rewritten, print each new `what` once."""
        if self._console.is_terminal:
            self._now.update(Text(f"{what}  {detail}"))
            self._now.start()
        elif what != self._doing:
            self.line("", what)
        self._doing = what

    def done(self) -> None:
        """Take away the line that shows what goes on."""
        self._doing = ""
        self._now.stop()


class Quickstart:
    """The way from cold to the second answer."""

    def __init__(self, setup: Setup, daemon: Daemon, screen: Screen) -> None:
        self._setup = setup
        self._daemon = daemon
        self._screen = screen
        self._client = Client(setup.socket)

    def run(self) -> None:
        """Go up the ladder and show what each step cost. Raises `QuickstartError`."""
        began = time.monotonic()
        held_up = self._until_staged()
        self._screen.done()
        if held_up is None:
            size = size_text(self._model()["staging"]["total"])
            took = time.monotonic() - began
            self._screen.line(
                "staged", f"{size} of weights in RAM, {took:.1f} s after warmd's start"
            )
        else:
            self._screen.line("cold", f"the weights stay on disk: {held_up}")
        self._screen.line("chat", "sent while no engine runs: the first user waits for all of this")
        first = self._chat()
        model = self._model()
        second = self._chat()
        self._screen.done()
        self._report(model, first, second)

    def watch(self) -> None:
        """Tell of each change of rung until warmd ends. Raises `QuickstartError`."""
        rung = self._model()["rung"]
        while True:
            time.sleep(1.0)
            model = self._look()
            if model is not None and model["rung"] != rung:
                clock = time.strftime("%H:%M:%S")
                self._screen.line(clock, f"{rung} → {model['rung']}: {model['reason']}")
                rung = model["rung"]

    def _until_staged(self) -> str | None:
        """Return None once the weights are in RAM, or the sentence why they don't get there."""
        while True:
            model = self._look()
            if model is None:
                self._screen.doing("warmd starts")
            elif Rung(model["rung"]) >= Rung.STAGED:
                return None
            elif model["held_up_by"] is not None:
                return str(model["held_up_by"])
            else:
                staging = model["staging"]
                so_far = f"{size_text(staging['done'])} of {size_text(staging['total'])}"
                self._screen.doing("weights into RAM", so_far)
            time.sleep(POLL_S)

    def _chat(self) -> Answer:
        """Send a chat and show, while it waits, what the engine does."""
        chat = Chat(self._setup)
        while not chat.is_over:
            model = self._look()
            start = model["replicas"][0]["start"] if model is not None else None
            if start is not None:
                spent = start["seconds"].get(start["stage"], 0.0)
                detail = f"{spent:.0f} s, {start['elapsed']:.0f} s in all"
                self._screen.doing(Stage(start["stage"]).label, detail)
            chat.wait(POLL_S)
        if chat.answer is None:
            self._look()
            raise QuickstartError(f"The chat was not answered: {chat.problem}")
        return chat.answer

    def _look(self) -> dict[str, Any] | None:
        """Return the model's status, None while warmd starts; raises where all is lost."""
        self._daemon.check()
        try:
            status = self._client.parse(self._client.get("/status"))
        except NoDaemonError:
            return None
        except RefusedError as error:
            raise QuickstartError(str(error)) from error
        model: dict[str, Any] = status["models"][self._setup.name]
        for replica in model["replicas"]:
            if Phase(replica["phase"]) in (Phase.FAILED, Phase.BACKING_OFF):
                log = self._setup.run_dir / "engines" / replica["name"] / "engine.log"
                raise QuickstartError(
                    f"The engine could not be started: {replica['reason']}\n"
                    f"Its log: {self._setup.short(log)}"
                )
        return model

    def _model(self) -> dict[str, Any]:
        while (model := self._look()) is None:
            time.sleep(POLL_S)
        return model

    def _report(self, model: dict[str, Any], first: Answer, second: Answer) -> None:
        line = self._screen.line
        seconds: dict[str, float] = model["replicas"][0]["last_start"] or {}
        line("")
        line("The start of the engine, by stage")
        for stage in Stage:
            if stage in seconds:
                line("", f"{stage.label:<16}{seconds[stage]:8.2f} s")
        line("", f"{'in all':<16}{sum(seconds.values()):8.2f} s")
        line("")
        line(
            "First delay",
            f"{'':<16}{first.first_delay:8.2f} s   the first user's, engine not running",
        )
        line("Next delay", f"{'':<16}{second.first_delay:8.2f} s   the same chat again, engine hot")
        noise = "   (random weights: noise)" if self._setup.tiny else ""
        line("Answer", json.dumps(" ".join(first.text.split())[:60], ensure_ascii=False) + noise)

    def invite(self) -> None:
        """Say how to go on by hand."""
        setup, line = self._setup, self._screen.line
        chat = {"model": setup.name, "messages": [{"role": "user", "content": QUESTION}]}
        line("")
        line("Try it", f"curl http://127.0.0.1:{setup.port}/v1/chat/completions \\")
        line("", f"  -H 'Content-Type: application/json' -d '{json.dumps(chat)}'")
        line("Look", f".venv/bin/warmctl --socket {setup.short(setup.socket)} status")
        line("Config", setup.short(setup.config))
        line("Ctrl-C", "stops warmd and its engine")


def size_text(size: int) -> str:
    """Write bytes for people: `912 kB`, `4.2 MB`, `61.0 GB`."""
    if size < 1e6:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def stop_on_signals() -> None:
    """Turn the signals that end a program into an exception; nohup's SIGHUP stays ignored."""

    def asked(number: int, _: FrameType | None) -> None:
        raise AskedToStopError(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, asked)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read what scripts/quickstart passes on."""
    parser = argparse.ArgumentParser(prog="quickstart")
    for path in ("--root", "--home", "--engine-python", "--weights"):
        parser.add_argument(path, type=Path, required=True)
    for switch in ("--tiny", "--gpu", "--eager", "--once"):
        parser.add_argument(switch, action="store_true")
    parser.add_argument("--port", type=int)
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace) -> Setup:
    """Choose name and port and write the config. Raises `QuickstartError`."""
    try:
        weight_files(args.weights)
    except StagingError as error:
        raise QuickstartError(f"The model can't be used: {error}.") from error
    setup = Setup(
        root=args.root,
        home=args.home,
        engine_python=args.engine_python,
        weights=args.weights,
        name="tiny" if args.tiny else fit_name(args.weights),
        tiny=args.tiny,
        gpu=args.gpu,
        eager=args.eager,
        port=free_port(args.port),
    )
    for folder in (setup.run_dir, setup.home / "state", setup.home / "cache"):
        private_folder(folder)
    setup.config.write_text(config_text(setup))
    return setup


def quickstart(args: argparse.Namespace, screen: Screen, note: Callable[[], None]) -> None:
    """Run it all; `note` is called once the answers are there. Raises `QuickstartError`."""
    with only_one(args.home):
        setup = prepare(args)
        screen.line("model", f"{setup.name}: {setup.short(setup.weights)}")
        taken = "" if setup.port in (args.port, DEFAULT_PORT) else f" ({DEFAULT_PORT} is taken)"
        screen.line("gateway", f"http://127.0.0.1:{setup.port}{taken}")
        try:
            with Daemon(setup) as daemon:
                course = Quickstart(setup, daemon, screen)
                course.run()
                note()
                if not args.once:
                    course.invite()
                    course.watch()
        finally:
            screen.done()


def main() -> int:
    """Exit 0 after the answers, 1 where something failed, 128 + N where signal N came before."""
    screen = Screen()
    answered: list[bool] = []
    stop_on_signals()
    try:
        quickstart(parse(sys.argv[1:]), screen, lambda: answered.append(True))
    except QuickstartError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except AskedToStopError as asked:
        screen.line("")
        screen.line("stopped", "warmd and its engine have ended")
        return 0 if answered else 128 + int(asked.args[0])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
