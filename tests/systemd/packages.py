"""Debian packages in a box: installed once for each release, and kept as a layer over its base."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from box import CACHE, Box, base

_INSTALL = (
    "apt-get -q update && "
    "DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install {}"
)


def with_packages(release: str, *names: str) -> Path:
    """Return a layer that has these packages; takes a mirror where it isn't there yet.

    Kept in .cache/layers; remove it there to have it made anew.
    """
    layer = CACHE / "layers" / "-".join((release, *names))
    layer.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{layer}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not layer.exists():
            draft = Path(f"{layer}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            with Box(base(release), upper=draft) as box:
                install = _INSTALL.format(" ".join(names))
                box.run("sh", "-c", install, network=True, timeout_s=600.0)
            draft.rename(layer)
    return layer
