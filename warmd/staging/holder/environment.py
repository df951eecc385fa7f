"""Where an engine's Python keeps its program files, and what tells that they changed.

Told without running it: a venv's layout is fixed (PEP 405, site in Python's library reference).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

_NAME = re.compile(r"python3\.\d+t?")
_PACKAGES = ("site-packages", "dist-packages")


class Environment:
    """One Python with its packages. Touches the file system; an absent part is just not there."""

    def __init__(self, python: Path) -> None:
        self.python = python
        self.interpreter = python.resolve()
        prefix = python.parent.parent
        settings = _settings(prefix / "pyvenv.cfg")
        home = settings.get("home")
        base = prefix if home is None else Path(home).resolve().parent
        own = [folder for folder in _libraries(prefix) if _NAME.fullmatch(folder.name)]
        names = {self.interpreter.name} if _NAME.fullmatch(self.interpreter.name) else set()
        names = {folder.name for folder in own} if home is not None and own else names
        every = [folder for folder in _libraries(base) if _NAME.fullmatch(folder.name)]
        stdlib = [folder for folder in every if folder.name in names] if names else every
        self.stdlib = tuple(stdlib)
        sites = [folder / "site-packages" for folder in own] if home is not None else []
        if home is None or settings.get("include-system-site-packages") == "true":
            sites += [folder / name for folder in stdlib for name in _PACKAGES]
            sites.append(base / "lib" / "python3" / "dist-packages")
            sites += [base / "local" / "lib" / folder.name / "dist-packages" for folder in stdlib]
        sites = [site for site in sites if site.is_dir()]
        self.sites = tuple(dict.fromkeys((*sites, *(f for s in sites for f in _added_by(s)))))

    @property
    def cache_tags(self) -> tuple[str, ...]:
        """What tells this Python's compiled modules from another's, PEP 3147."""
        versions = (folder.name.removeprefix("python") for folder in self.stdlib)
        return tuple(f"cpython-{version.replace('.', '')}" for version in versions)

    def name(self) -> str:
        """Name it for a file: another name means that something was installed or removed since."""
        facts: list[object] = [_stamp(self.interpreter)]
        for folder in self.sites:
            packages = (entry.name for entry in os.scandir(folder))
            engine = sorted(n for n in packages if re.fullmatch(r"vllm.*\.dist-info", n))
            facts.append((str(folder), _stamp(folder), engine))
        facts.append(_stamp(self.python.parent.parent / "pyvenv.cfg"))
        return f"{_digest(str(self.python))}-{_digest(json.dumps(facts))}"


def _libraries(prefix: Path) -> list[Path]:
    """List `lib/python3.X` below `prefix`; lib64 is a link to lib in many a venv."""
    found = {folder.resolve(): folder for folder in sorted(prefix.glob("lib*/python3*"))[::-1]}
    return sorted(folder for folder in found.values() if folder.is_dir())


def _settings(file: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in _lines(file))
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _lines(file: Path) -> list[str]:
    try:
        # To open a FIFO would wait for who writes to it.
        return file.read_text(errors="replace").splitlines() if file.is_file() else []
    except OSError:
        return []


def _added_by(site: Path) -> list[Path]:
    """List the folders that path configuration files add, as of packages installed editable."""
    found = []
    for file in sorted(site.glob("*.pth")):
        lines = _lines(file)
        found += [site / line for line in lines if line.startswith("/") and Path(line).is_dir()]
    return found


def _stamp(path: Path) -> tuple[str, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path), status.st_mtime_ns, 0 if path.is_dir() else status.st_size


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]
