"""What stands in the run folder while an engine's unit starts; the other half is `warmd-exec`.

`NAME.json` says what is to be executed, and holds secrets: only the engines' group may read it,
which it has from its folder (set-group-ID), and it is there no longer than the start takes.
`NAME.exec` is a FIFO: warmd-exec holds it open, writes a refusal into it, and its end says that the
program was executed.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from warmd.config.run_files import ENGINES
from warmd.launch.launcher import LaunchSpec
from warmd.launch.refusal import refusal

VERSION = 1
_MOST = 64 * 1024


def as_json(spec: LaunchSpec) -> bytes:
    """Return what warmd-exec is given."""
    asked = {"version": VERSION, "argv": spec.argv, "env": dict(spec.env), "cwd": str(spec.cwd)}
    return json.dumps(asked).encode()


def refused(spec: LaunchSpec, said: bytes) -> str:
    """Say for the operator what warmd-exec has written into the FIFO."""
    try:
        told = json.loads(said)
    except ValueError:
        told = {}
    match told:
        case {"stage": "spec", "why": str(why)}:
            return f"{spec.name} was not started: {why}"
        case {"stage": str(stage), "shut": str(shut)}:
            what = spec.cwd if stage == "cwd" else spec.argv[0]
            return (
                f"{spec.name} was not started: {what} can't be reached by the engines' user, who "
                f"may not enter {shut}; let it in (chmod o+x {shut}), or put it somewhere else, "
                "such as /opt"
            )
        case {"stage": str(stage), "errno": int(number)}:
            return refusal(spec, stage, number)
        case _:
            return f"{spec.name} was not started, and what warmd-exec says of it can't be read"


def remove_left_behind(run_dir: Path) -> None:
    """Take away the files of starts that a daemon was killed in; raises `OSError`."""
    for fifo in (run_dir / ENGINES).glob("*.exec"):
        fifo.with_suffix(".json").unlink(missing_ok=True)
        fifo.unlink(missing_ok=True)


class StartFiles:
    """The two files of one start; raises `OSError` where they can't be made."""

    def __init__(self, run_dir: Path, spec: LaunchSpec) -> None:
        self._spec = run_dir / ENGINES / f"{spec.name}.json"
        self._fifo = run_dir / ENGINES / f"{spec.name}.exec"
        self._loop = asyncio.get_running_loop()
        self._said = b""
        self._reader = -1
        self.answer: asyncio.Future[tuple[float, bytes]] = self._loop.create_future()
        """When it was executed (`time.monotonic()`), or what it said before it ended."""
        self.remove()
        try:
            # First: what is left of a start that was killed is known by it.
            os.mkfifo(self._fifo, 0o620)
            self._write(as_json(spec))
            # Not writable yet, so there is no end to be read before somebody has opened it.
            self._reader = os.open(self._fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            self.remove()
            raise
        self._loop.add_reader(self._reader, self._read)

    def remove(self) -> None:
        """Take both away; nobody may start from them any more."""
        if self._reader >= 0:
            self._loop.remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1
        for path in (self._spec, self._fifo):
            with suppress(FileNotFoundError):
                path.unlink()

    def _write(self, text: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._spec, flags, 0o640), "wb") as file:
            file.write(text)

    def _read(self) -> None:
        at = time.monotonic()
        try:
            chunk = os.read(self._reader, _MOST)
        except BlockingIOError:
            return
        self._said = (self._said + chunk)[:_MOST]
        if not chunk:
            self._loop.remove_reader(self._reader)
            if not self.answer.done():
                self.answer.set_result((at, self._said))
