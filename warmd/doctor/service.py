"""warmd as a service of systemd: its units, its right to start engines, users, folders, journal."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from warmd.config.run_files import ENGINES, engine_unit
from warmd.doctor.finding import Finding, note, ok, problem, warning
from warmd.doctor.user import User, account

_SUBJECT = "service"
_DAEMON = "warmd.service"
_ENGINE = engine_unit("doctor")
_TEMPLATE = "warmd-engine@.service"
_POLKIT = "polkit.service"
_STAGE = "warmd-stage.socket"
_ASKED = ("Id", "LoadState", "ActiveState", "User", "NeedDaemonReload", "ExecStart", "MainPID")
_RULES = tuple(Path(folder, "polkit-1/rules.d/50-warmd.rules") for folder in ("/etc", "/usr/share"))
_RUN_DIR = Path("/run/warmd")
_KEPT_JOURNAL = Path("/var/log/journal")
_GROUPS = {
    "warmd-engine": "it can't share sockets and files with engines",
    "systemd-journal": "it can't read what engines say",
}
_MODE = 0o2750
_ANEW = "install warmd's package again: sudo apt install --reinstall ./warmd_VERSION.deb"
_MADE_ANEW = "sudo systemd-tmpfiles --create warmd.conf, then start warmd anew"

Unit = Mapping[str, str]
"""Properties of a unit, by name."""


@dataclass(frozen=True)
class EnginesFolder:
    """Where engines find what they are to run. `group` None: it has no name."""

    path: Path
    owner: str
    group: str | None
    mode: int


@dataclass(frozen=True)
class ServiceFacts:
    """What is there of the service. `engines` and `daemon`: the accounts, None where they aren't.

    `rule`: whether polkit's rule is there, None where that may not be seen. `storage`: what
    journald.conf(5) says; `journal_kept`: whether there is a folder on disk for it.
    """

    units: Mapping[str, Unit]
    daemon: User | None
    engines: User | None
    running: User | None  # the groups that the daemon has, which it got when it was started
    rule: bool | None
    groups: Mapping[str, int | None]
    folder: EnginesFolder | None
    storage: str
    journal_kept: bool

    def unit(self, name: str) -> Unit:
        """Return its properties; none where systemd knows nothing of it."""
        return self.units.get(name, {})


def look_at_service(
    run_dir: Path, running: Callable[[int], User | None], within_s: float
) -> ServiceFacts | None:
    """Look at the service; None where the config's daemon isn't run as one. Blocks.

    `running`: who runs a process.
    """
    if os.path.realpath(run_dir) != str(_RUN_DIR):
        return None
    units = _units(within_s)
    daemon = units.get(_DAEMON, {})
    if "--systemd" not in daemon.get("ExecStart", "").split():
        return None
    pid = int(daemon.get("MainPID") or 0)
    return ServiceFacts(
        units,
        account(daemon.get("User") or "root"),
        account(units.get(_ENGINE, {}).get("User") or "warmd-engine"),
        running(pid) if pid else None,
        _has_rule(),
        {name: _number(name) for name in _GROUPS},
        _folder(_RUN_DIR / ENGINES),
        _storage(within_s),
        _KEPT_JOURNAL.is_dir(),
    )


def _units(within_s: float) -> Mapping[str, Unit]:
    said = _said(
        "systemctl",
        *("show", _DAEMON, _ENGINE, _POLKIT, _STAGE, f"--property={','.join(_ASKED)}"),
        within_s=within_s,
    )
    blocks = (
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for block in said.split("\n\n")
    )
    return {block["Id"]: block for block in blocks if "Id" in block}


def _said(*command: str, within_s: float) -> str:
    """Return what a command prints; nothing where there is none such, or it fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _has_rule() -> bool | None:
    unseen = False
    for rule in _RULES:
        try:
            rule.stat()
        except PermissionError:  # polkit keeps its folders to itself
            unseen = True
        except OSError:
            continue
        else:
            return True
    return None if unseen else False


def _number(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def _folder(path: Path) -> EnginesFolder | None:
    try:
        status = path.stat()
    except OSError:
        return None
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = None
    return EnginesFolder(path, owner, group, stat.S_IMODE(status.st_mode))


def _storage(within_s: float) -> str:
    lines = _said(
        "systemd-analyze", "cat-config", "systemd/journald.conf", within_s=within_s
    ).splitlines()
    told = [line.partition("=")[2].strip() for line in lines if line.startswith("Storage=")]
    return told[-1].lower() if told else "auto"


def judge_service(facts: ServiceFacts | None) -> Iterator[Finding]:
    """Judge it; nothing where warmd isn't run as a service."""
    if facts is None:
        return
    found = [
        *_judge_units(facts),
        *_judge_stage(facts),
        *_judge_polkit(facts),
        *_judge_users(facts),
        *_judge_folder(facts),
        *_judge_journal(facts),
    ]
    yield from found
    if not found:
        rule = "polkit" if facts.rule is None else "polkit's rule"  # only root sees it
        yield ok(_SUBJECT, f"units, {rule}, users, folders and the journal are in order")


def _judge_units(facts: ServiceFacts) -> Iterator[Finding]:
    no_engine = "and no engine can be started"
    match facts.unit(_ENGINE).get("LoadState"):
        case "loaded":
            pass
        case "masked":
            remedy = f"sudo systemctl unmask {_TEMPLATE}"
            yield problem(_SUBJECT, f"{_TEMPLATE} is masked, {no_engine}", remedy)
        case "not-found":
            yield problem(_SUBJECT, f"there is no {_TEMPLATE}, {no_engine}", _ANEW)
        case other:
            yield problem(
                _SUBJECT,
                f"{_TEMPLATE} can't be loaded ({other or 'systemd tells nothing of it'}), "
                f"{no_engine}",
                f"systemd-analyze verify {_ENGINE} tells why; systemctl cat {_TEMPLATE} shows it "
                "with its drop-ins",
            )
    changed = [
        shown
        for name, shown in ((_DAEMON, _DAEMON), (_ENGINE, _TEMPLATE))
        if facts.unit(name).get("NeedDaemonReload") == "yes"
    ]
    if changed:
        yield warning(
            _SUBJECT,
            f"{' and '.join(changed)} changed on disk, and systemd goes by what was there before",
            "sudo systemctl daemon-reload; what changed of the daemon's takes systemctl restart "
            "warmd",
        )


def _judge_stage(facts: ServiceFacts) -> Iterator[Finding]:
    socket = facts.unit(_STAGE)
    if socket.get("LoadState") != "loaded":  # the daemon then starts a keeper of its own
        return
    if facts.running is not None and socket.get("ActiveState") in ("inactive", "failed"):
        yield problem(
            _SUBJECT,
            f"{_STAGE} isn't active, so no stage keeper of systemd's can be reached",
            f"sudo systemctl start {_STAGE}",
        )


def _judge_polkit(facts: ServiceFacts) -> Iterator[Finding]:
    state = facts.unit(_POLKIT).get("LoadState")
    needs = "so the daemon may start no engine"
    if state == "masked":
        yield problem(_SUBJECT, f"polkit is masked, {needs}", f"sudo systemctl unmask {_POLKIT}")
    elif state != "loaded":
        yield problem(_SUBJECT, f"polkit isn't there, {needs}", "sudo apt install polkitd")
    if facts.rule is False:
        yield problem(_SUBJECT, f"polkit's rule {_RULES[1]} isn't there, {needs}", _ANEW)


def _judge_users(facts: ServiceFacts) -> Iterator[Finding]:
    for who, name in ((facts.daemon, "warmd"), (facts.engines, "warmd-engine")):
        if who is None:
            remedy = "sudo systemd-sysusers warmd.conf, then start warmd anew"
            yield problem(_SUBJECT, f"there is no user {name}, whom its unit names", remedy)
    daemon = facts.daemon
    if daemon is None or daemon.uid == 0:
        return
    for name, what in _GROUPS.items():
        number = facts.groups[name]
        if number is None or number not in daemon.groups:
            yield problem(
                _SUBJECT,
                f"{daemon} is no member of the group {name}, so {what}",
                "sudo systemd-sysusers warmd.conf, then sudo systemctl restart warmd",
            )
        elif facts.running is not None and number not in facts.running.groups:
            yield problem(
                _SUBJECT,
                f"the daemon was started before {daemon} became a member of the group {name}, so "
                f"{what}",
                "sudo systemctl restart warmd",
            )


def _judge_folder(facts: ServiceFacts) -> Iterator[Finding]:
    folder, daemon = facts.folder, facts.daemon
    path = _RUN_DIR / ENGINES
    if folder is None:
        yield problem(_SUBJECT, f"{path} isn't there, and no engine can be started", _MADE_ANEW)
        return
    owner = "warmd" if daemon is None else daemon.name
    if owner == "root":  # as a drop-in may have it: root may do it anyway
        owner = folder.owner
    told = (folder.owner, folder.group, folder.mode)
    if told != (owner, "warmd-engine", _MODE):
        if folder.mode & 0o007:
            so = "others may read what engines are started with, and secrets are in it"
        elif folder.mode & 0o020:
            so = "an engine may change what others are started with"
        else:
            so = "no engine can be started"
        yield problem(
            _SUBJECT,
            f"{path} is {folder.owner}:{folder.group or '?'} {folder.mode:04o} instead of "
            f"{owner}:warmd-engine {_MODE:04o}: {so}",
            _MADE_ANEW,
        )


def _judge_journal(facts: ServiceFacts) -> Iterator[Finding]:
    lost = "what the daemon and its engines have said is gone after a reboot"
    keep = f"sudo mkdir -p {_KEPT_JOURNAL}, then sudo journalctl --flush"
    conf = "/etc/systemd/journald.conf, then sudo systemctl restart systemd-journald"
    if facts.storage == "none":
        yield problem(
            _SUBJECT,
            "the journal keeps nothing (Storage=none), so warmd can't read what engines say: "
            "stages of starts and reasons of failures are missing",
            f"Storage=persistent in {conf}",
        )
    elif facts.storage == "volatile":
        yield note(
            _SUBJECT,
            f"the journal is kept in RAM (Storage=volatile): {lost}",
            f"Storage=persistent in {conf}",
        )
    elif not facts.journal_kept:
        yield note(_SUBJECT, f"the journal is kept in RAM: {lost}", keep)
