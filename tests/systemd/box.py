"""A box: a real systemd as PID 1 of namespaces of its own, over the files of a real Debian.

Needs root, util-linux and overlayfs; no container engine. What is written in a box is gone with
it, unless it has an `upper` folder: then another box can be booted on that, as after a power cut.
Not enforced in a box, so not to be claimed: DeviceAllow, IPAddressDeny, MemoryMax, TasksMax.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"
RELEASES = ("bookworm", "trixie")
_PID1 = Path(__file__).with_name("pid1.sh")
_BOOT_S = 60.0
# A group for each box: boxes that shared one could end each other's services. It ends with us.
_IN_GROUP = 'echo 0 > "$1" && shift && exec setpriv --pdeathsig KILL "$@"'

# What has no device, clock or network of its own in a box, and would only fail there.
_MASKED = (
    *("console-getty.service", "getty@tty1.service", "systemd-networkd.service"),
    *("systemd-resolved.service", "systemd-timesyncd.service", "systemd-udevd.service"),
    *("systemd-udev-trigger.service", "systemd-modules-load.service", "systemd-sysctl.service"),
    *("systemd-binfmt.service", "systemd-remount-fs.service", "systemd-firstboot.service"),
    *("proc-sys-fs-binfmt_misc.automount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "e2scrub_reap.service", "fstrim.timer"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "tmp.mount"),
)


@dataclass(frozen=True)
class Share:
    """A folder or file of the host that is seen in a box."""

    source: Path
    target: str
    writable: bool = False

    @property
    def words(self) -> str:
        """As pid1.sh takes it."""
        return f"{self.source}:{self.target}" + ("" if self.writable else ":ro")


class BoxError(Exception):
    """A box could not be booted, or a command in it failed. The text has what it printed."""


def base(release: str) -> Path:
    """Return the root file system of a release with nothing but the base system; made once."""
    made = subprocess.run(
        [ROOT / "scripts" / "debian-root", release], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise BoxError(made.stderr.strip())
    return Path(made.stdout.strip())


class Box:
    """One machine. Its processes, mounts and cgroups end with it, however the test ends."""

    def __init__(
        self, *layers: Path, upper: Path | None = None, shares: Sequence[Share] = ()
    ) -> None:
        """`layers`: from the topmost to the root file system. `upper`: where writes are kept."""
        self._layers = layers
        self._upper = upper
        self._shares = tuple(shares)
        self._folder = Path(tempfile.mkdtemp(prefix="warmd-box-"))
        self._group = _cgroups() / self._folder.name
        self._outer: subprocess.Popen[bytes] | None = None
        self.pid1 = 0
        self.booted_s = 0.0

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def boot(self) -> None:
        """Boot, and return once every unit that is enabled has come up or failed."""
        began = time.monotonic()
        self._group.mkdir()
        kept = self._upper
        upper, work = ("-", "-") if kept is None else (str(kept), f"{kept}.work")
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
            _prepare(kept)
        layers = [str(each) for each in self._layers]
        if kept is None:
            prepared = self._folder.with_name(self._folder.name + ".top")
            _prepare(prepared)
            layers.insert(0, str(prepared))
        namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        self._outer = subprocess.Popen(
            ["sh", "-c", _IN_GROUP, "sh", f"{self._group}/cgroup.procs"]
            + ["unshare", *namespaces, "--fork", "--kill-child", "sh", str(_PID1)]
            + [str(self._folder), ":".join(layers), upper, work]
            + [share.words for share in self._shares],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._await_running(began + _BOOT_S)
        except BaseException:
            self.close()
            raise
        self.booted_s = time.monotonic() - began

    def run(
        self,
        *argv: str | Path,
        check: bool = True,
        network: bool = False,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout_s: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the box as root or `user`; `network`: with the host's, for a mirror.

        Raises `BoxError` where it fails and `check` is set.
        """
        words = [str(word) for word in argv]
        done = subprocess.run(
            [*self._nsenter(network=network), *_as(user), *_with(env or {}), *words],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            raise BoxError(
                f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done

    def popen(self, *argv: str | Path, user: str | None = None) -> subprocess.Popen[str]:
        """Start a command in the box; whoever asked ends it."""
        return subprocess.Popen(
            [*self._nsenter(network=False), *_as(user), *_with({}), *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def path(self, inside: str) -> Path:
        """Name a file of the box as the host sees it; an absolute link in it leads outside."""
        return Path(f"/proc/{self.pid1}/root") / inside.lstrip("/")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file, and the folders above it."""
        file = self.path(inside)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def shows(self, unit: str, name: str) -> str:
        """Return one property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def journal(self, *matches: str) -> str:
        """Return what the journal has, oldest first; `matches` as journalctl takes them."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "--output=short-monotonic", *matches).stdout

    def wait_for(self, what: str, holds: object, timeout_s: float = 30.0) -> None:
        """Poll `holds()` until it is true; raises `BoxError` naming `what`."""
        assert callable(holds)
        until = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > until:
                raise BoxError(f"{what}: not within {timeout_s:g} s\n{self.journal()[-6000:]}")
            time.sleep(0.02)

    def close(self) -> None:
        """Pull the plug; leave nothing but the `upper` folder."""
        outer, self._outer = self._outer, None
        if outer is not None:
            # `unshare` ends once PID 1 is gone, and with PID 1 all of its namespace.
            with suppress(ProcessLookupError):  # it was switched off
                os.kill(self.pid1 or outer.pid, signal.SIGKILL)
            outer.wait()
            if outer.stdout is not None:
                outer.stdout.close()
        _remove_groups(self._group)
        for left in (self._folder, self._folder.with_name(self._folder.name + ".top")):
            shutil.rmtree(left, ignore_errors=True)
        if self._upper is not None:
            shutil.rmtree(f"{self._upper}.work", ignore_errors=True)

    # Boot

    def _await_running(self, until: float) -> None:
        assert self._outer is not None
        state = "no PID 1"
        while time.monotonic() < until:
            if self._outer.poll() is not None:
                said = b"" if self._outer.stdout is None else self._outer.stdout.read()
                raise BoxError(f"the box ended at its boot: {said.decode(errors='replace')}")
            self.pid1 = self.pid1 or _child_of(self._outer.pid)
            if self.pid1 and self.path("/run/systemd/private").exists():
                asked = self.run("systemctl", "is-system-running", "--wait", check=False)
                state = asked.stdout.strip()
                if state == "running":
                    return
                if state == "degraded":
                    failed = self.run("systemctl", "--failed", "--no-legend").stdout
                    raise BoxError(f"units failed at the boot of the box:\n{failed}")
            time.sleep(0.02)
        raise BoxError(f"the box did not boot within {_BOOT_S:g} s: {state}")

    def _nsenter(self, *, network: bool) -> list[str]:
        spaces = ["--mount", "--uts", "--ipc", "--pid", "--cgroup", *([] if network else ["--net"])]
        return ["nsenter", f"--target={self.pid1}", *spaces, "--root", "--wd"]


def _prepare(top: Path) -> None:
    """Put into a topmost layer what makes a Debian boot in a box."""
    units = top / "etc" / "systemd" / "system"
    units.mkdir(parents=True, exist_ok=True)
    for name in _MASKED:
        mask = units / name
        if not mask.is_symlink():
            mask.symlink_to("/dev/null")
    (top / "etc" / "fstab").write_text("")
    (top / "etc" / "hostname").write_text("box\n")
    (top / "etc" / "hosts").write_text("127.0.0.1 localhost box\n::1 localhost\n")
    top.chmod(0o755)


def _as(user: str | None) -> list[str]:
    return [] if user is None else ["runuser", "--user", user, "--"]


def _with(env: Mapping[str, str]) -> list[str]:
    fixed = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    return ["env", "-i", *(f"{name}={value}" for name, value in {**fixed, **env}.items())]


def _child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


def _cgroups() -> Path:
    """Return where the second version of control groups is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(re.sub(r"\\040", " ", where))
    raise BoxError("no cgroup2 file system is mounted here: mount -t cgroup2 none /some/folder")


def _remove_groups(group: Path) -> None:
    """Remove a control group and those below; processes in it have just been killed."""
    until = time.monotonic() + 10.0
    while group.exists() and time.monotonic() < until:
        for folder, _, _ in os.walk(group, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                time.sleep(0.01)
