"""Whether a daemon answers, of which version, and as which user it runs."""

from __future__ import annotations

import grp
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from warmd.doctor.finding import Finding, note, ok, problem, warning
from warmd.doctor.user import User

_SUBJECT = "daemon"


@dataclass(frozen=True)
class DaemonAnswer:
    """What came from the control socket. `trouble` says in a sentence why nothing of use did."""

    socket: Path
    pid: int | None = None
    version: str | None = None
    staged: int = 0  # bytes of weights that it holds in RAM
    trouble: str | None = None
    runs: bool = False  # something is there, though it could not be asked


def judge_daemon(answer: DaemonAnswer, ours: str, asker: User, runner: User) -> Iterator[Finding]:
    """`ours`: warmctl's version; `asker`, `runner`: who looks, and who runs the daemon."""
    if answer.trouble is not None and answer.runs:
        what, _, remedy = answer.trouble.partition(": ")
        yield problem(_SUBJECT, what, remedy)
    elif answer.pid is None:
        yield note(
            _SUBJECT,
            f"none answers at {answer.socket}; all was looked at as {runner} would see it",
            "warmd run, or systemctl start warmd",
        )
    elif answer.version != ours:
        yield warning(
            _SUBJECT,
            f"warmd {answer.version} runs (process {answer.pid}), and this is warmctl {ours}",
            "systemctl restart warmd, if it was upgraded; else use the warmctl that belongs to it",
        )
    else:
        yield ok(_SUBJECT, f"warmd {ours} answers (process {answer.pid}, {runner})")
    if asker != runner and asker.uid not in (0, runner.uid):
        yield note(
            _SUBJECT,
            f"it runs as {runner}, and this is {asker}: what only {runner} may see is not judged "
            "for certain",
            "sudo warmctl doctor sees all",
        )


def look_at_group(name: str) -> int | None:
    """Return the number of the group `name`, None where there is none."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def judge_group(
    name: str, number: int | None, runner: User, *, service: bool = False
) -> Iterator[Finding]:
    """Judge control.group, to whose members the control socket is to be open.

    `service`: the daemon is systemd's, and shut in: it may give nothing to a group not its own.
    """
    if service and number is not None and runner.uid != 0 and number != runner.gid:
        why = f"warmd's service may give it to no group but its own, and not to {name}"
        remedy = (
            "take `group` out of [control], do sudo usermod -aG warmd NAME for each who shall use "
            "it, then sudo systemctl restart warmd"
        )
    elif number is None:
        why = f"there is no group {name} (control.group)"
        remedy = f"sudo groupadd --system {name}, or name another one in control.group"
    elif runner.uid != 0 and number not in runner.groups:
        why = f"{runner} is no member of the group {name} (control.group)"
        remedy = f"sudo usermod -aG {name} {runner.name}, then start warmd anew"
    else:
        return
    yield warning(
        _SUBJECT,
        f"{why}, so the control socket is open to {runner} and root alone",
        f"where others shall use warmctl: {remedy}",
    )
