"""The package as apt gets it: the one of this tree, and the same once more as a later version."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

from box import CACHE, ROOT, Box, BoxError, Share, base

DIST = "/mnt/dist"


@functools.cache
def built(release: str) -> Path:
    """Return the package of this tree; built, and looked at by lintian, if it isn't there yet."""
    build(ROOT, release)
    return ROOT / "dist" / (ROOT / "dist" / f".{release}").read_text().splitlines()[1]


def build(tree: Path, release: str) -> None:
    """Run a tree's own scripts/build-deb."""
    done = subprocess.run(
        [tree / "scripts" / "build-deb", release], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def later(package: Path, folder: Path) -> Path:
    """Write the same package into `folder` once more, as the version after it; return it.

    Its units are described otherwise, so that one can see which one systemd knows.
    """
    files = folder / "files"
    subprocess.run(["dpkg-deb", "--raw-extract", package, files], check=True)
    control = files / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("-1~", "-2~"))
    for unit in (files / "usr/lib/systemd/system").glob("*.service"):
        unit.write_text(unit.read_text().replace("Description=", "Description=later: "))
    made = folder / "later.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", files, made],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return made


def installed(release: str, layer: Path) -> Path:
    """Install the package into `layer`, to be laid over the release's base; return it."""
    with Box(base(release), upper=layer, shares=shares(release)) as box:
        apt(box, "install", f"{DIST}/{built(release).name}")
    return layer


def shares(release: str) -> list[Share]:
    """What a box needs to have the package, and to fetch others once, not once a test."""
    built(release)
    kept = CACHE / "apt" / release
    for name in ("archives", "lists"):
        (kept / name).mkdir(parents=True, exist_ok=True)
    return [
        Share(ROOT / "dist", DIST),
        Share(kept / "archives", "/var/cache/apt/archives", writable=True),
        Share(kept / "lists", "/var/lib/apt/lists", writable=True),
    ]


def apt(box: Box, *words: str, recommends: bool = False) -> str:
    """Run apt-get, answering no question; with new lists where those that are there won't do."""
    wanted = "--install-recommends" if recommends else "--no-install-recommends"
    command = ("apt-get", "--assume-yes", wanted, *words)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        return box.run(*command, env=quiet, network=True, timeout_s=600).stdout
    except BoxError:
        box.run("apt-get", "update", network=True, timeout_s=600)
        return box.run(*command, env=quiet, network=True, timeout_s=600).stdout
