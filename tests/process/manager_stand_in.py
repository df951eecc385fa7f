"""Stands in for systemd where none runs: what it does with a service's sockets, and no more.

It keeps what it is given (FDSTORE), closes what it is to drop (FDSTOREREMOVE), answers BARRIER, and
hands all of it to the next process it starts (sd_listen_fds(3)). The real one is asked in
tests/systemd.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Self

from daemon_rig import PATIENCE_S, Daemon, until

_BETWEEN_FORK_AND_EXEC = """
import fcntl, os, sys
kept = [int(each) for each in sys.argv[1].split()]
aside = [fcntl.fcntl(each, fcntl.F_DUPFD, 3 + len(kept)) for each in kept]
for each in kept:
    os.close(each)
for place, descriptor in enumerate(aside):
    os.dup2(descriptor, 3 + place)
    os.close(descriptor)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@dataclass
class StandInManager:
    """Keeps the sockets of one daemon over its lives."""

    daemon: Daemon
    keeps: int = 16
    kept: list[tuple[str, int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._address = f"warmd-test-{os.getpid()}-{id(self):x}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self._address}")
        self._hearing = threading.Thread(target=self._hear, daemon=True)
        self._hearing.start()

    def launch(self) -> None:
        """Start the daemon with all that is kept."""
        daemon = self.daemon
        daemon.starts += 1
        descriptors = [descriptor for _, descriptor in self.kept]
        with (daemon.folder / "log").open("ab") as log:
            daemon.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _BETWEEN_FORK_AND_EXEC),
                    " ".join(map(str, descriptors)),
                    *(*daemon.command, "run", "--config", str(daemon.config)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                env=os.environ
                | {
                    "NO_COLOR": "1",
                    "NOTIFY_SOCKET": f"@{self._address}",
                    "LISTEN_FDS": str(len(descriptors)),
                    "LISTEN_FDNAMES": ":".join(name for name, _ in self.kept),
                },
            )

    def start(self) -> None:
        self.launch()
        self.daemon.wait_until_up()

    def restart(self, number: int = signal.SIGTERM) -> int:
        """End the daemon and start the next one at once; return its exit status."""
        assert self.daemon.process is not None
        self.daemon.process.send_signal(number)
        status = self.daemon.process.wait(PATIENCE_S)
        self.launch()
        return status

    def close(self) -> None:
        self._socket.close()
        for _, descriptor in self.kept:
            os.close(descriptor)
        self.kept = []

    def _hear(self) -> None:
        while True:
            try:
                words, descriptors, _, _ = socket.recv_fds(self._socket, 4096, 16)
            except OSError:
                return
            self._take(words.decode().split("\n"), descriptors)

    def _take(self, words: list[str], descriptors: list[int]) -> None:
        self.said += words
        name = next((each[7:] for each in words if each.startswith("FDNAME=")), "stored")
        if "FDSTORE=1" in words:
            for descriptor in descriptors:
                known = {os.fstat(each).st_ino for _, each in self.kept}
                if os.fstat(descriptor).st_ino in known or len(self.kept) >= self.keeps:
                    os.close(descriptor)
                else:
                    self.kept.append((name, descriptor))
            return
        if "FDSTOREREMOVE=1" in words:
            for descriptor in [each for known, each in self.kept if known == name]:
                os.close(descriptor)
            self.kept = [each for each in self.kept if each[0] != name]
        for descriptor in descriptors:  # of a barrier: closing it is the answer
            os.close(descriptor)


class SteadyClient:
    """Asks again and again, by a connection of its own each time, and remembers how it went."""

    def __init__(self, daemon: Daemon, every_s: float = 0.02) -> None:
        self._daemon = daemon
        self._every_s = every_s
        self._over = threading.Event()
        self.between = threading.Lock()
        """Who holds it knows that no request is under way."""
        self.answered = 0
        self.failed: list[str] = []
        self.worst_s = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def more(self, requests: int) -> None:
        """Return when so many further requests have been answered, or one failed."""
        enough = self.answered + requests
        until(lambda: self.answered >= enough or self.failed, f"{requests} more are answered")

    def _run(self) -> None:
        while not self._over.is_set():
            begun = time.monotonic()
            with self.between:
                try:
                    answer = self._daemon.chat()
                except OSError as error:
                    self.failed.append(repr(error))
                else:
                    if answer.status != 200:
                        self.failed.append(f"{answer.status} {answer.body.decode()}")
                    self.answered += 1
            took = time.monotonic() - begun
            self.worst_s = max(self.worst_s, took)
            self._over.wait(max(0.0, self._every_s - took))
