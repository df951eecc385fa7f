"""A soak: a real daemon over the FAKE engine, under load, while something is struck all the time.

Run by scripts/soak; a short one is a test. Exit status 1 names what is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TextIO

import psutil
from daemon_rig import Daemon, a_daemon, until
from soak_blows import Hand, trees
from soak_clients import Crowd, Fate
from soak_scene import DRAIN_S, HANG_S, MAX_WAIT_S, NAMES, Keeper, Scene
from soak_verdict import (
    Size,
    faults_in_history,
    faults_in_log,
    faults_in_scene,
    judge,
    tail,
    unsettled,
)

from warmd.launch import tree

_SETTLE_S = 90.0
_HANG_S = MAX_WAIT_S + DRAIN_S + HANG_S + 3.0
_AWAY_S = 60.0
_MOST_TOLD = 20


class Soak:
    """One soak."""

    def __init__(self, daemon: Daemon, seed: int, every_s: float, clients: int) -> None:
        self.daemon = daemon
        self.seed = seed
        self.scene = Scene(daemon)
        self.keeper = Keeper(daemon)
        self.hand = Hand(self.scene, self.keeper, seed)
        self.crowd = Crowd(daemon.port, NAMES, clients, seed, _HANG_S)
        self.faults: list[str] = []
        self._every_s = every_s
        self._settled_s = 0.0
        self._sizes: list[Size] = []

    def run(self, seconds: float, log: TextIO) -> None:
        """Soak for `seconds`, let it settle, and judge. `log` is told of each blow."""
        self.keeper.start()
        try:
            self._wait_for_the_daemon()
            for name in NAMES:
                self.daemon.chat(name)
            self._rest("before the load")
            self._suffer(seconds, log)
            self._calm()
            self._settled_s = self._rest("after the load")
            self._judge()
        finally:
            self.keeper.end()
        self.faults += self.keeper.wrong
        self.faults += faults_in_log(self.daemon.log)
        left = [t for t in trees() if t.what != "zombie"]
        self.faults += [f"{t.what} {t.process.pid} of {t.model} outlives a shutdown" for t in left]

    def _wait_for_the_daemon(self) -> None:
        until(lambda: self.keeper.is_up, "the daemon is up", _AWAY_S)

    def _suffer(self, seconds: float, log: TextIO) -> None:
        self.crowd.start()
        try:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                # What leaks shows in a daemon that lives for a while.
                self.hand.spares_the_daemon = left < seconds / 3
                blow = self.hand.strike()
                print(f"{blow.at:.2f} {blow.what} {blow.target}", file=log, flush=True)
                time.sleep(self._every_s)
                self._reap()
        finally:
            self.crowd.end()

    def _reap(self) -> None:
        """Take note of the end of orphans that have become ours, as an init does."""
        for child in psutil.Process().children():
            if child.pid not in self.keeper.daemons:
                with suppress(psutil.Error, ChildProcessError):
                    if child.status() == psutil.STATUS_ZOMBIE:
                        os.waitpid(child.pid, os.WNOHANG)

    def _calm(self) -> None:
        self.scene.clear_up()
        self._wait_for_the_daemon()
        self.hand.ask("POST", "/reload")
        for name in NAMES:
            self.hand.ask("POST", "/set", {"model": name, "rung": "auto"})

    def _rest(self, when: str) -> float:
        """Wait until everything stands where it shall; return the seconds that took."""
        began = time.monotonic()
        wrong = ["nothing was looked at"]
        while wrong:
            time.sleep(0.2)
            self._reap()
            status = self.daemon.status
            # What is left of an engine's end may take a moment longer than its phase.
            wrong = [*unsettled(status), *faults_in_scene(self.scene, status)]
            if wrong and time.monotonic() > began + _SETTLE_S:
                self.faults += [f"not settled {when}: {each}" for each in wrong]
                break
        self._sizes.append(Size.of(status["pid"]))
        return time.monotonic() - began

    def _judge(self) -> None:
        first, *_, last = self._sizes
        self.faults += last.grown(first)
        self.faults += judge(self.crowd.outcomes, self.hand.blows, self.keeper.outages)
        self.faults += faults_in_history(self.daemon)
        for name in NAMES:
            if (answer := self.daemon.chat(name)).status != 200:
                self.faults.append(f"{name} was asked when all was quiet: {answer}")

    def summary(self) -> str:
        """Say what happened."""
        blows = Counter(blow.what for blow in self.hand.blows)
        fates = Counter(outcome.fate for outcome in self.crowd.outcomes)
        ends = [outage for outage in self.keeper.outages if outage.number is not None]
        away = [outage.ended - outage.began for outage in ends if outage.ended is not None]
        waits = sorted(o.ended - o.began for o in self.crowd.outcomes if o.fate is Fate.ANSWERED)
        first, *_, last = self._sizes or [Size(0, 0, 0)]
        lines = {
            "seed": self.seed,
            "blows": ", ".join(f"{word} {number}" for word, number in blows.most_common()),
            "requests": ", ".join(f"{fate} {number}" for fate, number in fates.most_common()),
            "answered": f"half within {waits[len(waits) // 2]:.2f} s, longest {waits[-1]:.1f} s"
            if waits
            else "none",
            "daemon": f"begun anew {len(ends)} times, away {max(away, default=0.0):.1f} s at most",
            "its size": f"RSS {first.rss >> 20} -> {last.rss >> 20} MiB, descriptors "
            f"{first.descriptors} -> {last.descriptors}, threads {first.threads} -> {last.threads}",
            "settled": f"within {self._settled_s:.1f} s",
        }
        return "\n".join(f"{key:<10} {value}" for key, value in lines.items())


@contextmanager
def nothing_left() -> Iterator[None]:
    """Adopt every orphan, and end what is still below us in the end."""
    tree.adopt_orphans()
    try:
        yield
    finally:
        end = time.monotonic() + _AWAY_S
        while (left := [t for t in trees() if t.what != "zombie"]) and time.monotonic() < end:
            for each in left:
                with suppress(psutil.Error):
                    each.process.kill()
            time.sleep(0.05)


def main() -> int:
    """Soak; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two blows")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--keep", type=Path, help="a new folder for the logs")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    with nothing_left(), a_daemon() as daemon:
        soak = Soak(daemon, asked.seed, asked.every, asked.clients)
        try:
            with (daemon.folder / "blows").open("w") as log:
                soak.run(60 * asked.minutes, log)
        finally:
            if asked.keep is not None:
                _copy_logs(daemon.folder, asked.keep)
        print(soak.summary())
        if not soak.faults:
            print("nothing is wrong")
            return 0
        for fault in soak.faults[:_MOST_TOLD]:
            print(f"WRONG: {fault}")
        print(f"{len(soak.faults)} faults; the end of the daemon's log:")
        print(tail(daemon.folder / "log"))
        return 1


def _copy_logs(source: Path, to: Path) -> None:
    to.mkdir(parents=True)
    for name in ("log", "blows", "warmd.toml"):
        if (source / name).exists():
            shutil.copy(source / name, to)
    for log in (source / "run" / "engines").glob("*/engine.log"):
        shutil.copy(log, to / f"{log.parent.name}.log")


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
