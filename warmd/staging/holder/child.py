"""The process that holds one set of files: brings them in, keeps them, measures them.

It is forked by the stage keeper: its mapping of the files is what keeps them in RAM, its death lets
go of them. A part of the stage keeper's program: see `program.py`.

In: JSON lines on stdin, `{"urgent": bool, "rate": bytes a second or null}`, and `{"look": true}`:
memory is short, so see what is left. The end of stdin ends it, and so does the keeper's death.
Out: JSON lines, `{"progress": bytes}` at most every 100 ms while bytes come in, `{"hashed": bytes}`
while they are verified, `{"resident": bytes, "total": bytes, "by": way, "network": name or null}`
after every measurement, with `"verified": bool` where digests are given, `{"trouble": sentence or
null}`: of files that aren't held though the others are, `{"paused": sentence or null}`,
`{"evicted": bytes, "sentence": sentence}`, and before it gives up with status 1 `{"unproved":
sentence}` or `{"error": sentence}`, with `"mismatch": path` where a file isn't what its digest
says.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import time

from .changes import Changes
from .digests import MismatchError, Proof
from .filling import POPULATE_THREADS, READ_THREADS, TICK_MS, BringIn, Pass
from .mapping import LOCK_REMEDY, HoldError, can_populate, libc
from .members import QUIET_S, Members
from .pace import Pace
from .pressure import PAUSE_AT, RESUME_BELOW, Watch, amount
from .residency import Measure, UnprovedError
from .tmpfs_set import COPY_THREADS, Copies
from .words import Hearer

TYPE_CHECKING = False  # `typing` would cost a megabyte in every process
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .filling import Job

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
_CAP_IPC_LOCK = 14
_ALIVE_S = 2.0  # so often it says that it waits for memory or its turn, and doesn't hang
_LOOKS_APART_S = 5.0  # pressure calls for a look more often than one is worth
_CHANGES_APART_S = 1.0
_LOOK_SHARE = 20  # of ten thousand files a look takes long: then they are further apart
_REST_MS = 500  # where others write beside the files, that much later the next is heard
_PRESSURE_S = 1.0
_WORTH_TELLING = 0.001  # of the bytes: a page or two come and go


class Holder:
    """Brings the files in, holds them, and brings back what was taken."""

    def __init__(self, request: dict[str, Any]) -> None:
        """`request`: as in `warmd/staging/keeper.py`."""
        in_tmpfs = request.get("place") == "tmpfs"
        self._copies = Copies(request) if in_tmpfs else None
        paths = self._copies.paths if self._copies is not None else request["files"]
        self._members = Members(paths, None if in_tmpfs else request.get("limit"))
        self._proof = Proof(request["files"], paths, request.get("sha256") or {})
        self._total = int(request.get("total") or 0)
        self._enough = float(request["enough"])
        self._interval = float(request["interval"])
        self._locks = request.get("place") == "locked"
        self._pace = Pace()
        self._pace.set(urgent=request.get("urgent", True), rate=request.get("rate"))
        self._measure = Measure()
        self._watch = Watch()
        self._changes = Changes()
        self._followed: list[str] = request["files"]  # of copies too: what they were made of
        self._populates = can_populate()
        self._hearer = Hearer()
        self._evidence = self._watch.evidence()
        self._told: dict[str, object] = {"trouble": None, "paused": None}
        self._episode = False  # something was evicted, and at the last look too
        self._look_soon = self._changed = False
        self._unreadable = 0  # bytes that the disk failed to give
        self._said_at = self._pressed_at = 0.0
        self._said = 0

    def stage(self) -> None:
        """Bring everything in and say what was measured; raises `HoldError` when it isn't there."""
        self._changes.follow(self._followed)
        if self._copies is not None:
            self._copies.bring(lambda jobs: self._run("progress", jobs, COPY_THREADS))
        self._members.open()
        if not self._members.files and self._members.trouble is not None:
            raise HoldError(self._members.trouble)
        if self._locks:
            may_lock(sum(file.size for file in self._members.files))
        self._fill("progress" if self._copies is None else "refilled")
        self._verify()
        self._measured(self._resident())

    def hold(self) -> None:
        """Measure again and again; bring back what was evicted; take what changed anew.

        Raises `HoldError` where that doesn't help.
        """
        looked_at, took = time.monotonic(), 0.0
        while True:
            wait = min(self._interval, QUIET_S) if self._members.is_unsettled else self._interval
            if self._changed:
                wait = min(wait, max(_CHANGES_APART_S, _LOOK_SHARE * took))
            if self._look_soon:
                wait = min(wait, _LOOKS_APART_S)
            left = looked_at + wait - time.monotonic()
            if left > 0:
                self._rest(int(left * 1000) + 1)
                continue
            began = time.monotonic()
            if self._changed or self._changes.told() is not None:
                self._changes.follow(self._followed)  # links may lead elsewhere
            self._look_soon = self._changed = False
            self.keep()
            looked_at = time.monotonic()
            took = looked_at - began

    def _rest(self, timeout_ms: int) -> None:
        """Wait for the time, an order, or a change of what is held; writers may go on for long."""
        if self._changed or self._members.is_unsettled:
            self._listen(timeout_ms)
            return
        self._listen(timeout_ms, self._changes.fd)
        told = self._changes.told()
        self._changed = bool(told)
        if told is False:
            self._listen(min(timeout_ms, _REST_MS))

    def keep(self) -> None:
        """Look once."""
        if self._copies is not None:
            self._copies.check()
        held = set(self._members.files)
        self._members.renew()
        resident = self._resident()
        files = self._members.files
        # Of a file that was just taken anew nothing was evicted.
        known = sum(file.size for file in files if file in held)
        missing = max(0, known - resident)
        if missing and not self._members.is_unsettled:
            self._tell_evicted(missing, known)
        elif not missing:
            self._episode = False
        there = sum(file.size for file in files)
        if resident < there - self._unreadable or self._members.read_due:
            self._fill("refilled")
            resident = self._resident()
            self._unreadable = max(0, there - resident) if self._members.is_unsettled else 0
        self._verify()
        self._measured(resident)
        self._evidence = self._watch.evidence()  # last: what pushed since the look before counts

    def _tell_evicted(self, missing: int, of: int) -> None:
        if not self._episode and missing > _WORTH_TELLING * of:
            self._episode = True
            sentence = (
                f"{amount(missing)} of the {amount(of)} held were pushed out of RAM and are "
                f"brought back: {self._watch.evidence().why(self._evidence)}"
            )
            say({"evicted": missing, "sentence": sentence})

    def _resident(self) -> int:
        return self._measure.resident(self._members.files, self._members.failing)

    def _measured(self, resident: int) -> None:
        """Say it; raises `HoldError` where it is too little, and nothing tells why."""
        files, trouble = self._members.files, self._members.trouble
        there = sum(file.size for file in files)
        total = there if trouble is None else max(self._total, there)
        self._total = total
        networks = sorted({file.network for file in files if file.network is not None})
        self._tell("trouble", trouble)
        by = (
            self._measure.by
            if self._copies is None
            else f"{self._measure.by}, {self._copies.words}"
        )
        measured: dict[str, object] = {"resident": resident, "total": total, "by": by}
        if self._proof.is_asked:
            measured["verified"] = trouble is None and self._proof.is_whole(files)
        say({**measured, "network": ", ".join(networks) or None})
        if trouble is None and resident < self._enough * total:
            raise HoldError(
                f"only {100 * resident / total:.1f} % of the files stay in RAM, even right "
                f"after they were read: {self._watch.evidence().why(self._evidence)}"
            )

    def _fill(self, kind: str) -> None:
        """Bring in what can be; `kind` is the word for the bytes so far."""
        segments = (segment for file in self._members.to_read for segment in file.segments)
        populates, locks = self._populates, self._locks
        jobs = (BringIn(segment, populates=populates, locks=locks) for segment in segments)
        work = self._run(kind, jobs, POPULATE_THREADS if populates else READ_THREADS)
        self._members.failed(work.failed)
        say({kind: work.done})

    def _verify(self) -> None:
        """Compare what is new with its digests, from RAM; raises `MismatchError`."""
        if checks := self._proof.checks(self._members.files):
            work = self._run("hashed", checks, os.cpu_count() or 1)
            self._members.failed(work.failed)

    def _run(self, kind: str, jobs: Iterable[Job], threads: int) -> Pass:
        work = Pass(jobs, self._pace, threads)

        def tick(fd: int, timeout_ms: int) -> None:
            self._listen(timeout_ms, fd)
            self._mind_pressure()
            self._say_done(kind, work.done)

        self._said, self._pressed_at = -1, 0.0
        self._mind_pressure()
        work.run(tick)
        self._pause(None)
        return work

    def _say_done(self, kind: str, done: int) -> None:
        """Say how far it is. Nothing, where every thread is in a read: that may hang for ever."""
        now = time.monotonic()
        moved = done != self._said and now - self._said_at >= TICK_MS / 1000
        if moved or (self._pace.waiting and now - self._said_at >= _ALIVE_S):
            self._said_at, self._said = now, done
            say({kind: done})

    def _mind_pressure(self) -> None:
        now = time.monotonic()
        if now - self._pressed_at < _PRESSURE_S:
            return
        self._pressed_at = now
        pressure = self._watch.pressure() or 0.0
        if pressure >= PAUSE_AT and self._pace.paused is None:
            self._pause(
                f"memory is short (something waited for it {pressure:.0f} % of the last 10 s); "
                f"staging goes on below {RESUME_BELOW:.0f} %"
            )
        elif pressure < RESUME_BELOW:
            self._pause(None)

    def _pause(self, why: str | None) -> None:
        if why != self._pace.paused:
            self._pace.pause(why)
        self._tell("paused", why)

    def _tell(self, kind: str, value: str | None) -> None:
        if self._told[kind] != value:
            self._told[kind] = value
            say({kind: value})

    def _listen(self, timeout_ms: int, other: int | None = None) -> None:
        """Wait for the time, an order, or for `other` to be readable; at stdin's end, end."""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        if other is not None:
            poll.register(other, select.POLLIN)
        for fd, _ in poll.poll(timeout_ms):
            if fd == 0:
                self._obey()

    def _obey(self) -> None:
        orders = self._hearer.read(0)
        if orders is None:
            os._exit(0)  # threads may be deep in a read: leave without them
        for order in orders:
            match order:
                case {"urgent": bool(urgent), "rate": int() | None as rate}:
                    self._pace.set(urgent=urgent, rate=rate)
                case {"look": True}:
                    self._look_soon = True
                case _:
                    pass


def may_lock(size: int) -> None:
    """Have the kernel allow `size` bytes of locked memory; raises `HoldError` where it doesn't."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if resource.RLIM_INFINITY in (soft, hard):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        return
    if may_exceed_limits():
        return
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    if hard < size:
        raise HoldError(
            f"{amount(size)} can't be locked in RAM: the limit of locked memory is {amount(hard)}; "
            f"{LOCK_REMEDY}"
        )


def may_exceed_limits() -> bool:
    """Whether this process has CAP_IPC_LOCK, capabilities(7)."""
    try:
        with open("/proc/self/status") as lines:  # noqa: PTH123 - pathlib is left out here
            for line in lines:
                if line.startswith("CapEff:"):
                    return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    except OSError:
        pass
    return False


def say(line: dict[str, object]) -> None:
    """Write one line for the keeper."""
    os.write(1, json.dumps(line).encode() + b"\n")


def sentence_of(error: OSError) -> str:
    """Say what the system refused, and what helps."""
    what = f"{error.filename}: " if error.filename else ""
    match error.errno:
        case errno.EMFILE | errno.ENFILE:
            remedy = "raise LimitNOFILE in warmd's unit, and sysctl fs.file-max"
        case errno.ENOMEM:
            remedy = "look for a memory limit on the daemon's unit and for free memory"
        case errno.EACCES | errno.EPERM:
            remedy = "let the daemon's user read it"
        case errno.ENOENT | errno.ENOTDIR:
            remedy = "put it back or correct `weights`"
        case _:
            remedy = "look at the kernel's log"
    return f"{what}can't be held in RAM ({error.strerror or error}); {remedy}"


def hold(request: dict[str, Any]) -> int:
    """Hold until stdin ends; status 1 after a line that says what went wrong."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NAME, b"warmd-held", 0, 0, 0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # copies keep theirs open
    try:
        holder = Holder(request)
        holder.stage()
        holder.hold()
    except UnprovedError as error:
        say({"unproved": str(error)})
    except MismatchError as error:
        say({"error": str(error), "mismatch": error.path})
    except HoldError as error:
        say({"error": str(error)})
    except BrokenPipeError:
        pass  # the keeper is gone
    except OSError as error:
        say({"error": sentence_of(error)})
    return 1
