"""One set of files as the keeper sees it: a process of its own, and what it said last."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback

from .child import hold
from .words import Hearer, Speaker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_LASTING = ("progress", "trouble", "resident", "paused")
"""Words that stand until the next of their kind: a later daemon hears them too."""


_MOST_FDS = 1 << 16


class HeldSet:
    """Forks the process that holds the set, hears it, ends it."""

    def __init__(self, key: str, request: dict[str, Any]) -> None:
        self.key = key
        self.request = request
        self.number = 0  # of the order of the daemon that is here now; 0: it gave none
        self.released = False
        self.ended = False  # its output has
        self.pid = 0
        self.pidfd = self.output = self._input = -1
        self._hearer = Hearer()
        self._speaker = Speaker()
        self._standing: dict[str, dict[str, object]] = {}

    @property
    def folder(self) -> str | None:
        """Where its copies are, of a set in a tmpfs."""
        return self.request.get("folder") if self.request.get("place") == "tmpfs" else None

    @property
    def taken(self) -> int:
        """Bytes of RAM that it was asked to take."""
        return int(self.request.get("total") or 0)

    @property
    def gone(self) -> int:
        """What of them the kernel doesn't count as available any more: locked, or in a tmpfs."""
        if self.request.get("place") not in ("locked", "tmpfs"):
            return 0
        if "resident" in self._standing:
            return self.taken
        done = self._standing.get("progress", {}).get("progress")
        return min(self.taken, done) if isinstance(done, int) else 0

    @property
    def last_words(self) -> str:
        """The last line that it wrote and that was no word of ours."""
        return self._hearer.rest

    def begin(self, pace: dict[str, object]) -> None:
        """Fork it, to begin at `pace`. Returns in the keeper only."""
        child_in, self._input = os.pipe2(os.O_CLOEXEC)
        self.output, child_out = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if not self.pid:
            _be_the_child(child_in, child_out, self.request | pace)
        os.close(child_in)
        os.close(child_out)
        os.set_blocking(self._input, False)
        os.set_blocking(self.output, False)
        self.pidfd = os.pidfd_open(self.pid)

    def tell(self, word: dict[str, object]) -> None:
        """Tell the process; one that doesn't listen may miss it."""
        self._speaker.add(word)
        with contextlib.suppress(OSError):  # it is ending
            self._speaker.write(self._input)

    def hear(self) -> Iterator[dict[str, object]]:
        """Yield what it said meanwhile."""
        while not self.ended:
            try:
                words = self._hearer.read(self.output)
            except BlockingIOError:
                return
            if words is None:
                self.ended = True
                return
            for word in words:
                for kind in _LASTING:
                    if kind in word:
                        self._standing[kind] = word
                yield word

    def look_again(self) -> None:
        """Have the process measure anew; what it said before no longer stands."""
        self._standing.pop("resident", None)
        self.tell({"look": True})

    @property
    def is_awaited(self) -> bool:
        """Whether a daemon asked for it and hasn't heard yet that it is there."""
        return bool(self.number) and "resident" not in self._standing

    def standing(self) -> Iterator[dict[str, object]]:
        """Yield what it has said and what still holds."""
        return (self._standing[kind] for kind in _LASTING if kind in self._standing)

    def signed(self, word: dict[str, object]) -> dict[str, object]:
        """Return `word` as the daemon hears it."""
        return {"key": self.key, "number": self.number, **word}

    def kill(self) -> None:
        """Let go of the files. One that hangs in the kernel ends when its read does."""
        os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Return the status of a process that has ended; negative: the signal's number."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Give its descriptors back."""
        for fd in (self.pidfd, self.output, self._input):
            os.close(fd)


def _be_the_child(commands: int, words: int, request: dict[str, Any]) -> None:
    """Run the child's program in this process, which was just forked; never returns."""
    status = 1
    try:
        os.dup2(commands, 0)
        os.dup2(words, 1)
        os.dup2(words, 2)
        os.closerange(3, _MOST_FDS)
        status = hold(request)
    except BaseException:  # noqa: BLE001 - its last line is what the daemon tells
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)
