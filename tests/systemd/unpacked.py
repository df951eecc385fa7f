"""warmd in a box as its package would install it, from this tree: no package is built for it."""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from box import ROOT, Box, Share, base

UNITS = "/usr/lib/systemd/system"
POLKIT_RULE = "/usr/share/polkit-1/rules.d/50-warmd.rules"
_PYTHON = f"/usr/lib/warmd/python/bin/{Path(os.path.realpath(sys.executable)).name}"
ENTRY = (
    "LD_LIBRARY_PATH=/usr/lib/warmd/python/lib:/usr/lib/warmd/libraries",
    "PYTHONPYCACHEPREFIX=/usr/lib/warmd/compiled",
)
_MODULES = "export PYTHONPATH=/usr/lib/warmd/tree:/usr/lib/warmd/packages\n"
_MACHINE = """[host]
[gateway]
listen = ["127.0.0.1:8400"]
[engine]
python = "/usr/bin/true"
"""


def a_machine(
    release: str, *more: Share, upper: Path | None = None, layers: Sequence[Path] = ()
) -> Box:
    """A box, not booted yet, that has this tree and the Python that runs the tests."""
    shares = [
        Share(ROOT / "warmd", "/usr/lib/warmd/tree/warmd"),
        Share(Path(sys.base_prefix), "/usr/lib/warmd/python"),
        Share(Path(sysconfig.get_path("purelib")), "/usr/lib/warmd/packages"),
        Share(ROOT / "tests" / "fakes", "/usr/lib/warmd/fakes"),
        Share(_libraries(), "/usr/lib/warmd/libraries"),
    ]
    return Box(*layers, base(release), upper=upper, shares=[*shares, *more])


@functools.cache
def _libraries() -> Path:
    """What the host's Python is linked to and a bare Debian may lack, but for the C library."""
    folder = Path(tempfile.mkdtemp(prefix="warmd-libraries-"))
    atexit.register(shutil.rmtree, folder)
    modules = (Path(sysconfig.get_path("stdlib")) / "lib-dynload").glob("*.so")
    linked = subprocess.run(["ldd", *modules], capture_output=True, text=True, check=False).stdout
    for library in {Path(each) for each in re.findall(r"=> (/\S+)", linked)}:
        if not re.match(r"lib(c|m|dl|rt|pthread|python.*)\.so|ld-", library.name):
            shutil.copy(library, folder / library.name)
    folder.chmod(0o755)
    return folder


def install(box: Box, config: str = _MACHINE) -> None:
    """Put the files where the package has them, and make users and folders as it does."""
    for file in (ROOT / "systemd").iterdir():
        target = _target(file)
        if target is not None:
            box.write(target, file.read_text())
    program(box, "/usr/sbin/warmd", f'{_MODULES}exec {_PYTHON} -m warmd "$@"')
    program(box, "/usr/bin/warmctl", f'{_MODULES}exec {_PYTHON} -m warmd.cli.main "$@"')
    program(box, "/usr/lib/warmd/venv/bin/python", f'exec {_PYTHON} "$@"')
    box.run(
        *("ln", "-sf", "/usr/lib/warmd/tree/warmd/staging/holder/program.py"),
        "/usr/lib/warmd/warmd-stage",
    )
    # Compiled ahead, as the package's modules are.
    box.run("/usr/sbin/warmd", "--version")
    box.run("systemd-sysusers", "warmd.conf")
    box.run("systemd-tmpfiles", "--create", "warmd.conf")
    box.write("/etc/warmd/warmd.toml", config)
    box.run("systemctl", "daemon-reload")


def python() -> str:
    """The Python in the box, to be run with `ENTRY` in its environment."""
    return _PYTHON


def program(box: Box, path: str, script: str) -> None:
    """Write an executable shell script."""
    box.write(path, f"#!/bin/sh\nexport {' '.join(ENTRY)}\n{script}\n", 0o755)


def drop_in(box: Box, unit: str, *lines: str) -> None:
    """Change a unit as an operator does with `systemctl edit`."""
    box.write(f"/etc/systemd/system/{unit}.d/test.conf", "\n".join(lines) + "\n")
    box.run("systemctl", "daemon-reload")


def units() -> Sequence[str]:
    """The names of all units that the package installs."""
    kinds = (".service", ".socket", ".mount", ".slice")
    return sorted(file.name for file in (ROOT / "systemd").iterdir() if file.suffix in kinds)


def _target(file: Path) -> str | None:
    match file.name:
        case "50-warmd.rules":
            return POLKIT_RULE
        case "warmd-exec":
            return "/usr/lib/warmd/warmd-exec"
        case _:
            pass
    match file.suffix:
        case ".service" | ".socket" | ".mount" | ".slice":
            return f"{UNITS}/{file.name}"
        case ".sysusers":
            return "/usr/lib/sysusers.d/warmd.conf"
        case ".tmpfiles":
            return "/usr/lib/tmpfiles.d/warmd.conf"
        case ".catalog":
            return "/usr/lib/systemd/catalog/warmd.catalog"
        case _:
            return None
