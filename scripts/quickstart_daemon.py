"""What the quickstart starts and asks: warmd as its child, and chats as a user sends them."""

from __future__ import annotations

import ctypes
import fcntl
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from quickstart_config import QuickstartError, Setup

STOP_S = 90.0  # drain and stop take up to a minute by the config's defaults
PR_SET_PDEATHSIG = 1  # prctl(2)
QUESTION = "Say hello in one short sentence."


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the clone's quickstart; raises `QuickstartError` if another holds it."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise QuickstartError(
                f"A quickstart already runs in {home}: stop that one with Ctrl-C first."
            ) from None
        yield


class Daemon:
    """warmd as our child: it ends with us, however we end."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        libc = ctypes.CDLL(None, use_errno=True)
        parent = os.getpid()

        def end_with_parent() -> None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

        argv = [str(Path(sys.executable).with_name("warmd")), "run", "--config", str(setup.config)]
        with setup.log.open("wb") as log:
            # A session of its own: Ctrl-C comes to us, and we end it in good order.
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509  # no thread runs yet
            )

    def __enter__(self) -> Self:
        """Hand out the daemon."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it with all its engines; nothing of it is left afterwards."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the stop is under way and has an end
        family = self._family()
        self.process.terminate()
        print("stopping     warmd and its engine", flush=True)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        # warmd ends its engines itself; this is for the case that it could not.
        for left in family:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(family, timeout=10)

    def _family(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def check(self) -> None:
        """Raise `QuickstartError` if warmd has ended."""
        status = self.process.poll()
        if status is None:
            return
        said = [line for line in self._setup.log.read_text(errors="replace").split("\n") if line]
        ended = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise QuickstartError(
            f"warmd {ended}: {said[-1] if said else 'it said nothing'}\n"
            f"Its log: {self._setup.short(self._setup.log)}"
        )


@dataclass(frozen=True)
class Answer:
    """What a chat brought. Delays in seconds from when it was sent."""

    first_delay: float
    total: float
    text: str


class Chat:
    """One chat through the gateway, in a thread: what a user would send, timed as a user would."""

    def __init__(self, setup: Setup) -> None:
        self.answer: Answer | None = None
        self.problem: str | None = None
        self._setup = setup
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it was answered or refused."""
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Return when it is over, or after `seconds`."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self.answer = self._ask()
        except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
            self.problem = str(error) or type(error).__name__

    def _ask(self) -> Answer:
        body = {
            "model": self._setup.name,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": 16,
            "stream": True,
        }
        began = time.monotonic()
        first: float | None = None
        words: list[str] = []
        connection = http.client.HTTPConnection("127.0.0.1", self._setup.port)
        try:
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(body),
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            if response.status != 200:
                raise ValueError(refusal(response.status, response.read()))
            for line in response:
                if not line.startswith(b"data:"):
                    continue
                first = first or time.monotonic() - began
                event = line.removeprefix(b"data:").strip()
                if event != b"[DONE]":
                    words += [c["delta"].get("content") or "" for c in choices(json.loads(event))]
        finally:
            connection.close()
        if first is None:
            raise ValueError("the answer was empty")
        return Answer(first, time.monotonic() - began, "".join(words))


def choices(event: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pieces of an answer; raises `ValueError` where the event tells of an error."""
    if "error" in event:
        raise ValueError(str(event["error"]))
    return list(event.get("choices", []))


def refusal(status: int, body: bytes) -> str:
    """Take the sentence out of an error's JSON."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["error"]["message"])
    return f"HTTP {status}: {body[:200].decode(errors='replace')}"
