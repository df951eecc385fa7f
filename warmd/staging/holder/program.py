"""The stage keeper: holds sets of files in RAM, one process for each, beyond the daemon's life.

Runs alone (`python -I -S program.py [--by-unit]`), with the standard library only, so that it stays
small. Its stdin is a listening unix socket, with `--by-unit` a socket unit's; one daemon at a time
is served there, the last that came. It reads no file of a set itself: each set has a process of its
own, see `child.py`, so that a read that hangs in the kernel holds up nothing else.

JSON lines. From the daemon: `{"linger": seconds}`, `{"hold": KEY, "number": n, "request": {...}}`,
`{"release": KEY, "number": n}`, `{"pace": KEY, "urgent": bool, "rate": bytes a second or null}`,
`{"tmpfs": path}`, where copies are, `{"end": true}`. To the daemon: `{"keeper": PROTOCOL, "holds":
{KEY: [bytes, of these locked or in a tmpfs]}}` at first, then words with `key` and `number` (of the
order that they answer): `{"pid": pid, "adopted": bool}`, those of `child.py`, `{"gone": status,
"words": text}`, `{"released": true}`.

Without a daemon it lets go of all after `linger` seconds, and ends.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import time

if __name__ == "__main__":
    # The neighbours as a package of their own: `warmd.staging` would load the daemon's half.
    __package__ = "holder"
    sys.modules["holder"] = type(sys)("holder")
    here = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120 - no pathlib here
    sys.modules["holder"].__path__ = [here]

from .held_set import HeldSet
from .mapping import libc
from .pressure import open_trigger
from .protocol import NAME, PROTOCOL
from .tmpfs_set import Cleaner, mount_of
from .words import Hearer, Speaker

TYPE_CHECKING = False  # `typing` would cost a megabyte in every process
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PR_SET_NAME = 15
FIRST_DAEMON_S = 30.0
CLAIM_S = 60.0
"""How long after a daemon came, and has what it asked for, a set is let go that it hasn't claimed.

It asks for one after the other, and what isn't there yet takes its time.
"""


class StageKeeper:
    """The sets, the daemon that is served, and what is due."""

    def __init__(self, listener: socket.socket, *, by_unit: bool = False) -> None:
        """`by_unit`: a socket unit listens on, and has the next one started."""
        self._listener = listener
        self._by_unit = by_unit
        listener.setblocking(False)
        # Who connects sees our pid (SO_PEERCRED is of the process that listened last, unix(7)).
        listener.listen()
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._daemon: socket.socket | None = None
        self._hearer = Hearer()
        self._speaker = Speaker()
        self._sets: dict[str, HeldSet] = {}
        self._living: set[HeldSet] = set()  # also those that are let go and haven't ended
        self._linger_s = 0.0
        self._ends_at: float | None = time.monotonic() + FIRST_DAEMON_S
        self._claimed_by: float | None = None
        self._over = False
        self._trigger: int | None = None
        self._tmpfs: set[str] = set()
        self._watch(listener.fileno(), self._accept)

    def run(self) -> None:
        """Serve until there is nobody left to serve. Children end with this process."""
        while not self._over:
            for fd, _ in self._poll.poll(self._patience_ms()):
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler()
            self._on_time()
            if self._daemon is not None:
                self._flush()

    # Time

    def _patience_ms(self) -> int | None:
        due = [at for at in (self._ends_at, self._claimed_by) if at is not None]
        return max(0, int((min(due) - time.monotonic()) * 1000) + 1) if due else None

    def _on_time(self) -> None:
        now = time.monotonic()
        if self._claimed_by is not None and any(held.is_awaited for held in self._sets.values()):
            self._claimed_by = max(self._claimed_by, now + CLAIM_S)
        if self._claimed_by is not None and now >= self._claimed_by:
            self._claimed_by = None
            for held in [held for held in self._sets.values() if not held.number]:
                self._let_go(held)
            for mount in self._tmpfs:
                self._clean(Cleaner(mount, None, self._folders()), lambda: None)
        if self._ends_at is not None and now >= self._ends_at:
            self._let_go_of_copies()
            # The name first: a daemon that comes now finds no keeper instead of a dying one.
            path = self._listener.getsockname()
            if path and not self._by_unit:
                os.unlink(path)  # noqa: PTH108 - pathlib is left out here
            self._over = True

    # The daemon

    def _accept(self) -> None:
        try:
            caller, _ = self._listener.accept()
        except OSError:
            return  # it has hung up
        self._forget_daemon()
        caller.setblocking(False)
        self._daemon = caller
        self._ends_at = None
        self._claimed_by = time.monotonic() + CLAIM_S
        self._watch(caller.fileno(), self._hear)
        holds = {key: [held.taken, held.gone] for key, held in self._sets.items()}
        self._say({"keeper": PROTOCOL, "holds": holds})

    def _hear(self) -> None:
        daemon = self._daemon
        if daemon is None:
            return
        try:
            orders = self._hearer.read(daemon.fileno())
        except BlockingIOError:
            return
        except OSError:
            orders = None
        if orders is None:
            self._lose_daemon()
            return
        for order in orders:
            self._obey(order)

    def _obey(self, order: dict[str, Any]) -> None:
        match order:
            case {"hold": str(key), "number": int(number), "request": dict(request)}:
                self._hold(key, number, request)
            case {"release": str(key), "number": int(number)}:
                self._release(key, number)
            case {"pace": str(key), "urgent": bool(urgent), "rate": int() | None as rate}:
                if key in self._sets:
                    self._sets[key].tell({"urgent": urgent, "rate": rate})
            case {"linger": int() | float() as linger}:
                self._linger_s = float(linger)
            case {"tmpfs": str(mount)}:
                self._tmpfs.add(mount)
            case {"end": True}:
                self._ends_at = 0.0
            case _:
                pass  # a later daemon's word

    def _lose_daemon(self) -> None:
        self._forget_daemon()
        self._ends_at = time.monotonic() + self._linger_s

    def _forget_daemon(self) -> None:
        if self._daemon is not None:
            self._unwatch(self._daemon.fileno())
            self._daemon.close()
        self._daemon = None
        self._hearer, self._speaker = Hearer(), Speaker()
        for held in self._living:
            held.number = 0  # the next daemon counts anew

    def _say(self, word: dict[str, object]) -> None:
        if self._daemon is not None:
            self._speaker.add(word)

    def _flush(self) -> None:
        daemon = self._daemon
        if daemon is None:
            return
        try:
            more = self._speaker.write(daemon.fileno())
        except OSError:
            self._lose_daemon()
            return
        self._poll.modify(daemon.fileno(), select.POLLIN | (select.POLLOUT if more else 0))

    # The sets

    def _hold(self, key: str, number: int, request: dict[str, Any]) -> None:
        held = self._sets.get(key)
        pace = {"urgent": request.pop("urgent", True), "rate": request.pop("rate", None)}
        adopted = held is not None and held.request == request
        if held is not None and not adopted:
            self._let_go(held)
        if held is None or not adopted:
            held = self._sets[key] = HeldSet(key, request)
            held.begin(pace)
            self._living.add(held)
            if held.folder is not None:
                self._tmpfs.add(mount_of(held.folder))
            self._mind_pressure()
            self._watch(held.output, lambda: self._relay(held))
            self._watch(held.pidfd, lambda: self._reap(held))
        else:
            held.tell(pace)
            if request.get("sha256"):
                # What was verified may have been replaced since the last look.
                held.look_again()
        held.number = number
        self._say(held.signed({"pid": held.pid, "adopted": adopted}))
        for word in held.standing():
            self._say(held.signed(word))

    def _mind_pressure(self) -> None:
        """Have every set look what it has left when memory gets short."""
        if self._trigger is None and (trigger := open_trigger()) is not None:
            self._trigger = trigger
            self._handlers[trigger] = self._look
            self._poll.register(trigger, select.POLLPRI)

    def _look(self) -> None:
        for held in self._sets.values():
            held.tell({"look": True})

    def _release(self, key: str, number: int) -> None:
        held = self._sets.get(key)
        if held is not None and held.number == number:
            self._let_go(held)

    def _let_go(self, held: HeldSet) -> None:
        """End its process; who waits for it is told when it is gone."""
        del self._sets[held.key]
        held.released = True
        held.kill()

    def _relay(self, held: HeldSet) -> None:
        for word in held.hear():
            self._say(held.signed(word))
        if held.ended:
            self._unwatch(held.output)

    def _reap(self, held: HeldSet) -> None:
        self._relay(held)
        status = held.reap()
        self._unwatch(held.output)
        self._unwatch(held.pidfd)
        held.close()
        self._living.discard(held)
        if self._sets.get(held.key) is held:
            del self._sets[held.key]
        gone: dict[str, object] = {"gone": status, "words": held.last_words}
        word = held.signed({"released": True} if held.released else gone)
        folder = held.folder
        if folder is None or folder in self._folders():
            self._say(word)
        else:  # its memory is free once the copies are gone
            self._clean(Cleaner(mount_of(folder), folder, set()), lambda: self._say(word))

    # Copies in a tmpfs

    def _folders(self) -> set[str]:
        return {held.folder for held in self._sets.values() if held.folder is not None}

    def _clean(self, cleaner: Cleaner, done: Callable[[], None]) -> None:
        def ended() -> None:
            self._unwatch(cleaner.pidfd)
            cleaner.reap()
            done()

        self._watch(cleaner.pidfd, ended)

    def _let_go_of_copies(self) -> None:
        """End who holds copies, and take these away; what nobody holds goes with them."""
        for held in [held for held in self._living if held.folder is not None]:
            held.kill()
            held.reap()
        for mount in self._tmpfs:
            Cleaner(mount, None, set()).reap()

    # Descriptors

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)


def main() -> int:
    """Serve who connects to the socket that is our stdin."""
    libc.prctl(PR_SET_NAME, NAME.encode(), 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    listener = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    gc.freeze()  # what is here stays shared with the children
    StageKeeper(listener, by_unit="--by-unit" in sys.argv).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
