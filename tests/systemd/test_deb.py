"""The package: what apt puts where, what an upgrade leaves alone, that a purge leaves nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import package
import pytest
from box import CACHE, RELEASES, ROOT, Box, Share, base

pytestmark = pytest.mark.parametrize("release", RELEASES)

MODEL = """[engine]
python = "/usr/bin/python3"
[models.one]
weights = "/srv/models/one"
resting = "cold"
"""
# An engine, as far as the package's scripts know one: a unit of the template that runs.
DROP_IN = "/run/systemd/system/warmd-engine@one.0.service.d"
ENGINE = "[Service]\nType=exec\nExecStart=\nExecStart=/bin/sleep infinity\n"

MODES = """\
/etc/warmd root:root 755
/etc/warmd/models.d root:root 755
/etc/warmd/warmd.toml root:root 644
/run/warmd warmd:warmd 755
/run/warmd/engines warmd:warmd-engine 2750
/usr/bin/warmctl root:root 777
/usr/lib/warmd/install-engine root:root 755
/usr/lib/warmd/venv/bin/warmd root:root 755
/usr/lib/warmd/warmd-exec root:root 755
/usr/sbin/warmd root:root 777
/var/cache/warmd warmd:warmd-engine 3770
/var/lib/warmd warmd:warmd 750
"""


def test_install_upgrade_remove_purge(release: str, tmp_path: Path) -> None:
    first = package.built(release)
    package.later(first, tmp_path)
    shares = [*package.shares(release), Share(tmp_path, "/mnt/later")]
    with Box(base(release), shares=shares) as box:
        needs = subprocess.check_output(["dpkg-deb", "--field", first, "Depends"], text=True)
        package.apt(box, "satisfy", needs)
        before = files(box)

        package.apt(box, "install", f"{package.DIST}/{first.name}")
        names = [line.split()[0] for line in MODES.splitlines()]
        assert box.run("stat", "--format=%n %U:%G %a", *names).stdout == MODES
        groups = box.run("id", "-Gn", "warmd").stdout.split()
        assert sorted(groups) == ["systemd-journal", "warmd", "warmd-engine"]
        assert box.run("systemctl", "is-enabled", "warmd", check=False).stdout == "disabled\n"
        assert box.shows("warmd", "ActiveState") == "inactive"
        assert "later" not in box.shows("warmd", "Description")

        box.run("systemctl", "enable", "--now", "warmd")
        assert "no model is configured" in box.run("warmctl", "status").stdout
        refused = box.run("warmctl", "status", user="nobody", check=False)
        assert "add yourself to the group warmd" in refused.stderr
        # Neither daemon nor root's warmctl has written beside its programs; what is there is valid.
        assert box.run("dpkg", "--verify", "warmd").stdout == ""
        assert "warmd" in box.run("journalctl", "-u", "warmd", "-x").stdout

        config = box.path("/etc/warmd/warmd.toml").read_text() + "# mine\n"
        box.write("/etc/warmd/warmd.toml", config)
        box.write("/etc/warmd/models.d/one.toml", MODEL)
        box.write("/srv/models/one/config.json", "{}")
        daemon = box.shows("warmd", "MainPID")

        package.apt(box, "install", "/mnt/later/later.deb")
        assert "later" in box.shows("warmd", "Description")
        assert box.shows("warmd", "ActiveState") == "active"
        assert box.shows("warmd", "MainPID") != daemon
        assert box.path("/etc/warmd/warmd.toml").read_text() == config
        assert box.path("/etc/warmd/models.d/one.toml").read_text() == MODEL

        engine = start_engine(box)
        package.apt(box, "remove", "warmd")
        assert box.run("systemctl", "list-units", "--plain", "--no-legend", "warmd*").stdout == ""
        assert not box.path(f"/proc/{engine}").exists()
        box.run("rm", "-r", DROP_IN)
        assert box.path("/etc/warmd/warmd.toml").read_text() == config
        assert box.path("/var/lib/warmd").is_dir()

        package.apt(box, "purge", "warmd")
        assert (
            files(box) - {"/srv/models", "/srv/models/one", "/srv/models/one/config.json"} == before
        )


def test_an_upgrade_starts_no_daemon_and_touches_no_engine(release: str, tmp_path: Path) -> None:
    package.later(package.built(release), tmp_path)
    shares = [*package.shares(release), Share(tmp_path, "/mnt/later")]
    with Box(base(release), shares=shares) as box:
        package.apt(box, "install", f"{package.DIST}/{package.built(release).name}")
        box.run("systemctl", "enable", "warmd")
        engine = start_engine(box)  # no daemon runs that would ask what it is
        package.apt(box, "install", "/mnt/later/later.deb")
        assert box.shows("warmd", "ActiveState") == "inactive"
        assert box.run("systemctl", "is-enabled", "warmd").stdout == "enabled\n"
        assert box.shows("warmd-engine@one.0", "MainPID") == engine


def test_two_builds_are_the_same_bytes(release: str, tmp_path: Path) -> None:
    """The second one elsewhere, later, by another umask, and of a tree without git."""
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    for name in filter(lambda name: (ROOT / name).exists(), tracked):
        copy = tmp_path / "elsewhere" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy, follow_symlinks=False)
        shutil.copymode(ROOT / name, copy, follow_symlinks=False)
        os.utime(copy, (1, 1), follow_symlinks=False)
    (tmp_path / "elsewhere/.cache").mkdir()
    (tmp_path / "elsewhere/.cache/build-deb").symlink_to(CACHE / "build-deb")
    before = os.umask(0o077)
    try:
        package.build(tmp_path / "elsewhere", release)
    finally:
        os.umask(before)
    first = package.built(release)
    assert (tmp_path / "elsewhere/dist" / first.name).read_bytes() == first.read_bytes()


def start_engine(box: Box) -> str:
    """Start what the package's scripts know as an engine; return its PID in the box."""
    box.write(f"{DROP_IN}/test.conf", ENGINE)
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "start", "warmd-engine@one.0")
    return box.shows("warmd-engine@one.0", "MainPID")


def files(box: Box) -> set[str]:
    """Everything on the disk of the box, and what of warmd is on its tmpfs."""
    on_disk = box.run("find", "/", "-xdev", "-not", "-path", "/var/log/journal/*").stdout
    in_run = box.run("find", "/run", "-name", "*warmd*", check=False).stdout
    return {*on_disk.splitlines(), *in_run.splitlines()}
